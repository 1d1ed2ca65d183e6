"""Exact scores of hits from the stored vectors: from this machine's copies, if it has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embed_assets.identity import digest
from embed_assets.project import Project
from embed_assets.search.stored_scores import stored_vectors
from embed_assets.storage.records import Embedding
from embed_assets.storage.track_vector_file import TrackVectorFile, read_some
from embed_assets_tests.borrowed import settings_at
from embed_assets_tests.made_library import DIM, MEAN, windows_of
from embed_assets_tests.object_server import ObjectServer

RECIPE = MEAN.recipe.digest
AUDIO = [digest("audio", str(i)) for i in range(40)]


def embed(project: Project, hashes: list[str], at: float, weights: str = "w") -> None:
    for audio in hashes:
        project.store.write(
            RECIPE, audio, windows_of(audio, weights), embedded_at=int(at), replace=True
        )
    project.tables.put_embeddings(Embedding(RECIPE, audio, 3, 30.0, at=at) for audio in hashes)


def test_vectors_that_are_on_this_machine_are_not_requested_from_the_store(
    object_server: ObjectServer, bucket: str, tmp_path: Path
) -> None:
    project = Project.of(settings_at(tmp_path, vectors=f"s3://{bucket}/vectors"))
    embed(project, AUDIO, at=1.5)
    audio = {f"track {i}": h for i, h in enumerate(AUDIO)} | {"copy": AUDIO[0]}

    def ask() -> tuple[dict[str, np.ndarray], int]:
        before = object_server.requests(bucket)["GET"]
        found = stored_vectors(project, MEAN, audio)
        return found, object_server.requests(bucket)["GET"] - before

    far, requests = ask()
    assert (len(far), requests) == (41, 40), "no index step ran on this machine"
    TrackVectorFile(project.store, MEAN).keep(dict.fromkeys(AUDIO[1:], 1.5))
    near, requests = ask()
    assert requests == 1, "the one that the file lacks"
    assert all(np.array_equal(near[track], far[track]) for track in audio)

    # What was embedded again since is another vector than that of the file.
    embed(project, AUDIO[3:5], at=2.5, weights="again")
    changed, requests = ask()
    assert requests == 3
    same = {track for track in audio if np.array_equal(changed[track], far[track])}
    assert set(audio) - same == {"track 3", "track 4"}


def test_a_file_that_is_being_written_or_was_damaged_gives_what_is_whole(tmp_path: Path) -> None:
    project = Project.of(settings_at(tmp_path))
    times = dict.fromkeys(AUDIO, 1.5)
    assert read_some(project.store, MEAN, times) == {}
    embed(project, AUDIO, at=1.5)
    file = TrackVectorFile(project.store, MEAN)
    file.keep(times)
    assert set(read_some(project.store, MEAN, times)) == set(AUDIO)
    assert read_some(project.store, MEAN, {}) == {}
    assert read_some(project.store, MEAN, dict.fromkeys(AUDIO, 1.0)) == {}
    with open(file.vectors_file, "r+b") as vectors:
        vectors.write(bytes(4 * DIM))
        vectors.truncate(4 * DIM * (len(AUDIO) - 1) - 3)
    with open(file.names_file, "ab") as names:
        names.write(b"half a name")
    found = read_some(project.store, MEAN, times)
    assert len(found) == len(AUDIO) - 3
    for audio, vector in found.items():
        mean = windows_of(audio)[:, 0].mean(axis=0)
        assert vector @ mean == pytest.approx(np.linalg.norm(mean), rel=1e-5)
