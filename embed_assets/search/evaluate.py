"""How good the neighbours in a collection are: `evaluate` and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from embed_assets.encoders.cards import WITHOUT_DOWNLOAD
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.formats import counted
from embed_assets.identity import IndexSpec
from embed_assets.neighbours.choose import Choice, best_method
from embed_assets.neighbours.figures import (
    differences,
    hubs_of,
    mean_of,
    relations_of,
)
from embed_assets.neighbours.labels import Labels, labels_of
from embed_assets.neighbours.lists import Vectors
from embed_assets.neighbours.measure import SAME_GENRE, Measured, halves_found, measure
from embed_assets.neighbours.ranking import BY_COSINE, COSINE, METHODS, Ranking
from embed_assets.project import Project
from embed_assets.search.evaluation import Beside, Evaluation, SameTrack
from embed_assets.search.local import LocalAnswers
from embed_assets.search.order import sample_of
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage import collection_registry
from embed_assets.storage.pooling import pool
from embed_assets.storage.ranking_choice import choose_ranking
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets.storage.vector_store import Wanted, not_lost

HALVES = 2_000
"""Tracks whose windows are read for `SameTrack`: each is a file."""

BEST = "best"
"""Stands for the best method, as `best_method` finds it."""

FEWEST = 3
"""Tracks without which there is nothing to measure."""

FEWEST_ARTISTS = 10
"""Artists without which nothing can be said against chance."""


@dataclass(frozen=True)
class Material:
    """What is evaluated: vectors and labels of the tracks of a snapshot, one for each audio.

    In the order of track ids, which are hashes: the first ones are a random sample, and the same
    one while the library grows. `asked`: positions in this order. `sample`: vectors that other
    orders of neighbours measure tracks against.
    """

    snapshot: Snapshot
    positions: np.ndarray
    vectors: Vectors
    labels: Labels
    asked: np.ndarray
    sample: np.ndarray

    def measure(self, method: str) -> Measured:
        """What neighbours are worth if they are ranked by a method."""
        return measure(self.vectors, self.labels, self.asked, Ranking(method, self.sample))


def material_of(snapshot: Snapshot, sample: int = 0) -> Material:
    """The tracks of a snapshot; `sample`: number of tracks to ask for, 0: all.

    Raises:
        ConfigurationError: there are too few tracks.
    """
    if sample < 0:
        raise ConfigurationError(f"sample is {sample}: it must be 0, for all, or a positive number")
    one_each = np.flatnonzero(snapshot.one_each(snapshot.live_mask)).tolist()
    positions = np.array(sorted(one_each, key=lambda i: snapshot.track(i).track_id), np.intp)
    if len(positions) < FEWEST:
        raise ConfigurationError(
            f"{counted(len(positions), 'different track')} with vectors: neighbours can be"
            f" evaluated from {FEWEST} on; `embed-assets doctor` says if vectors are missing"
        )
    tracks = [snapshot.track(i) for i in positions.tolist()]
    asked = np.arange(min(sample, len(positions)) or len(positions))
    vectors = snapshot.stored(positions)
    audio = (t.audio for t in tracks)
    compared = vectors.array[sample_of(zip(audio, vectors.rows.tolist(), strict=True))]
    return Material(snapshot, positions, vectors, labels_of(tracks), asked, compared)


def evaluate(answers: LocalAnswers, sample: int = 0) -> Evaluation:
    """Measure the neighbours in a collection by tags, by halves of tracks, and by hubs.

    `sample`: number of tracks whose neighbours are looked at, always among all; 0: all tracks.

    Raises:
        ConfigurationError: there are too few tracks.
    """
    material = material_of(answers.tracks, sample)
    method = answers.ranking
    measured = {one: material.measure(one) for one in dict.fromkeys((method, COSINE))}
    return _evaluation(answers, material, method, measured)


def choose(answers: LocalAnswers, method: str, sample: int = 0) -> Evaluation:
    """Evaluate all orders of neighbours, and use one from now on: `BEST` or a method.

    Raises:
        ConfigurationError: there are too few tracks, or there is no such method.
    """
    if method not in (BEST, *METHODS):
        there = ", ".join((BEST, *METHODS))
        raise ConfigurationError(f"there is no order {method!r}: choose one of {there}")
    material = material_of(answers.tracks, sample)
    measured = {one: material.measure(one) for one in METHODS}
    choice = best_method(measured) if method == BEST else Choice(method, "chosen by hand")
    found = _evaluation(answers, material, choice.method, measured)
    key = answers.spec.collection_key(answers.project.uri)
    choose_ranking(answers.project.tables, key, choice.method, choice.why)
    return replace(found, chosen=choice.method, why=choice.why)


def _evaluation(
    answers: LocalAnswers, material: Material, method: str, every: Mapping[str, Measured]
) -> Evaluation:
    measured = every[method]
    others = [
        Beside(
            name,
            len(material.labels),
            relations_of(other),
            hubs_of(other),
            differences(measured, other),
        )
        for name, other in every.items()
        if name != method
    ]
    built_in = _beside_built_in(answers.project, material, method, measured)
    return Evaluation(
        collection=answers.spec.collection,
        encoder=answers.spec.recipe.encoder,
        ranking=method,
        tracks=len(material.positions),
        asked=len(material.asked),
        relations=relations_of(measured),
        same_track=same_track(answers.project, material),
        hubs=hubs_of(measured),
        beside=(*others, built_in) if built_in else tuple(others),
    )


def problems_of(found: Evaluation) -> list[str]:
    """What is wrong with neighbours, as sentences: they are no better than chance, or worse than
    those that cost nothing. Genres are not judged, as tags of genres often say little.
    """
    wrong = []
    for one in found.relations:
        if one.relation == SAME_GENRE or one.artists < FEWEST_ARTISTS:
            continue
        if one.low is not None and one.chance is not None and one.low <= one.chance:
            wrong.append(
                f"the ten nearest are of the {one.relation} no more often than by chance"
                f" ({one.precision:.3f}, chance {one.chance:.3f})"
            )
    for other in found.beside:
        name = found.ranking if other.name in METHODS else found.encoder
        worse = [d.relation for d in other.differences if d.high < 0 and d.relation != SAME_GENRE]
        if worse:
            wrong.append(f"{name} is worse than {other.name}: {'; '.join(worse)}")
    return wrong


def same_track(project: Project, material: Material) -> SameTrack | None:
    """How often the halves of tracks find each other, for a sample of `HALVES` tracks."""
    spec = material.snapshot.spec
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    kept: list[int] = []
    audio = (material.snapshot.track(int(p)).audio for p in material.positions)
    stored = project.store.read_many(spec.recipe.digest, map(Wanted, audio))
    for i, windows in not_lost(range(len(material.positions)), stored):
        if len(kept) == HALVES:
            break
        with suppress(TrackRejected):
            # Of an odd number the middle one is left out, so that both halves are equally long.
            half = len(windows) // 2
            if not half:
                continue
            halves = [pool(w, spec.pooling) for w in (windows[:half], windows[-half:])]
            first.append(halves[0])
            second.append(halves[1])
            kept.append(i)
    if len(kept) < 2:
        return None
    found = halves_found(np.stack(first), np.stack(second)).astype(np.float64)
    mean = mean_of(found, material.labels.group[kept])
    return SameTrack(float(found.mean()), mean.low, mean.high, 1 / len(kept), len(kept))


def _beside_built_in(
    project: Project, material: Material, method: str, measured: Measured
) -> Beside | None:
    """The built-in encoder, if the store has its vectors: a model should be better than it."""
    if material.snapshot.spec.recipe.encoder == WITHOUT_DOWNLOAD.name:
        return None
    tracks = [material.snapshot.track(i) for i in material.positions.tolist()]
    folders = {t.folder_id for t in tracks}
    for spec in _built_in_specs(project):
        embedded = project.tables.embedded_at(folders, spec.recipe.digest)
        if not embedded:
            continue
        pooled = TrackVectorFile(project.store, spec)
        pooled.keep(embedded)
        there = np.array([t.audio in pooled.rows for t in tracks])
        if there.sum() < FEWEST:
            continue
        rows = np.array([pooled.rows[t.audio][0] for t in tracks if t.audio in pooled.rows])
        other = Vectors(pooled.vectors, rows)
        return _compare(WITHOUT_DOWNLOAD.name, material, method, measured, there, other)
    return None


def _compare(
    name: str,
    material: Material,
    method: str,
    measured: Measured,
    there: np.ndarray,
    other: Vectors,
) -> Beside:
    """Compare with other vectors of the tracks that are `there`, bool `[tracks]`."""
    labels = material.labels.take(there)
    asked = np.flatnonzero(np.isin(np.flatnonzero(there), material.asked))
    if not there.all():
        ranking = Ranking(method, material.sample)
        measured = measure(material.vectors.only(there), labels, asked, ranking)
    beside = measure(other, labels, asked, BY_COSINE)
    return Beside(
        name,
        len(labels),
        relations_of(beside),
        hubs_of(beside),
        differences(measured, beside),
    )


def _built_in_specs(project: Project) -> list[IndexSpec]:
    """Specs of the built-in encoder: those of known collections, and that of the settings."""
    name = WITHOUT_DOWNLOAD.name
    every = collection_registry.known(project.tables, project.uri).values()
    known = [c.spec for c in every if c.spec is not None and c.spec.recipe.encoder == name]
    card = EncoderConfig(name, "", "auto", project.vectors.tracks.cache)
    recipe = card.recipe(project.vectors.window_seconds, project.vectors.windows)
    return [*reversed(known), IndexSpec(recipe)]
