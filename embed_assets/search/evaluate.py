"""How good the neighbours in a collection are: `evaluate` and what it returns."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from embed_assets.encoders.cards import WITHOUT_DOWNLOAD
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.identity import IndexSpec
from embed_assets.neighbours.figures import (
    Difference,
    Hubs,
    Relation,
    differences,
    hubs_of,
    mean_of,
    relations_of,
)
from embed_assets.neighbours.labels import Labels, labels_of
from embed_assets.neighbours.lists import Vectors
from embed_assets.neighbours.measure import Measured, halves_found, measure
from embed_assets.neighbours.ranking import BY_COSINE, Ranking
from embed_assets.project import Project
from embed_assets.search.local import LocalAnswers
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage import collection_registry
from embed_assets.storage.pooling import pool
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets.storage.vector_store import VectorsLost

HALVES = 2_000
"""Tracks whose windows are read for `SameTrack`: each is a file."""


FEWEST = 3
"""Tracks without which there is nothing to measure."""

FEWEST_ARTISTS = 10
"""Artists without which nothing can be said against chance."""


@dataclass(frozen=True)
class SameTrack:
    """How often the two halves of a track find each other; needs no tags."""

    found: float
    """Share of tracks whose second half is the one nearest to their first half."""
    low: float | None
    """Lower end of its 95 % confidence interval, by drawing artists."""
    high: float | None
    """Upper end."""
    chance: float
    """The expected share of random choices."""
    tracks: int
    """Number of tracks, each with at least two windows; these are searched, too."""


@dataclass(frozen=True)
class Beside:
    """The same figures for other vectors or another order of neighbours."""

    name: str
    """The encoder, the collection or the order."""
    tracks: int
    """Number of tracks that both have; only these are compared."""
    relations: tuple[Relation, ...]
    """Its figures by tags."""
    hubs: Hubs
    """Its figures without tags."""
    differences: tuple[Difference, ...]
    """By how much the evaluated collection is better."""


@dataclass(frozen=True)
class Evaluation:
    """How good the neighbours in a collection are."""

    collection: str
    """The collection that was evaluated."""
    encoder: str
    """The encoder that made its vectors."""
    ranking: str
    """What neighbours are ranked by."""
    tracks: int
    """Number of its tracks; identical audio counts once."""
    asked: int
    """Number of tracks whose neighbours were looked at; less than `tracks` for a sample."""
    relations: tuple[Relation, ...]
    """How often the ten nearest of a track belong together with it by their tags."""
    same_track: SameTrack | None
    """How often a track finds itself; null if no track has two windows."""
    hubs: Hubs
    """How evenly tracks occur among the neighbours of others."""
    beside: tuple[Beside, ...]
    """What it is compared with: the built-in encoder, if its vectors are stored."""


@dataclass(frozen=True)
class Material:
    """What is evaluated: vectors and labels of the tracks of a snapshot, one for each audio.

    In the order of track ids, which are hashes: the first ones are a random sample, and the same
    one while the library grows.
    """

    snapshot: Snapshot
    positions: np.ndarray
    vectors: Vectors
    labels: Labels
    asked: np.ndarray


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
            f"{len(positions)} tracks are indexed: neighbours can be evaluated from {FEWEST} on"
        )
    labels = labels_of([snapshot.track(i) for i in positions.tolist()])
    asked = np.arange(min(sample, len(positions)) or len(positions))
    return Material(snapshot, positions, snapshot.stored(positions), labels, asked)


def evaluate(answers: LocalAnswers, sample: int = 0) -> Evaluation:
    """Measure the neighbours in a collection by tags, by halves of tracks, and by hubs.

    `sample`: number of tracks whose neighbours are looked at, always among all; 0: all tracks.

    Raises:
        ConfigurationError: there are too few tracks.
    """
    material = material_of(answers.tracks, sample)
    ranking = BY_COSINE
    measured = measure(material.vectors, material.labels, material.asked, ranking)
    beside = _beside_built_in(answers.project, material, measured, ranking)
    return Evaluation(
        collection=answers.spec.collection,
        encoder=answers.spec.recipe.encoder,
        ranking=ranking.method,
        tracks=len(material.positions),
        asked=len(material.asked),
        relations=relations_of(measured),
        same_track=same_track(answers.project, material),
        hubs=hubs_of(measured),
        beside=(beside,) if beside else (),
    )


def beats_chance(found: Evaluation) -> list[str]:
    """What is wrong with neighbours: sentences, none if they are better than chance."""
    wrong = []
    for one in found.relations:
        if one.low is None or one.chance is None or one.artists < FEWEST_ARTISTS:
            continue
        if one.low <= one.chance:
            wrong.append(
                f"the ten nearest are of the {one.relation} no more often than by chance"
                f" ({one.precision:.3f}, chance {one.chance:.3f})"
            )
    for other in found.beside:
        worse = [d.relation for d in other.differences if d.high < 0]
        if worse:
            wrong.append(f"{found.encoder} is worse than {other.name}: {'; '.join(worse)}")
    return wrong


def same_track(project: Project, material: Material) -> SameTrack | None:
    """How often the halves of tracks find each other, for a sample of `HALVES` tracks."""
    spec = material.snapshot.spec
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    kept: list[int] = []
    for i in range(len(material.positions)):
        if len(kept) == HALVES:
            break
        audio = material.snapshot.track(int(material.positions[i])).audio
        with suppress(VectorsLost, TrackRejected):
            windows = project.store.read(spec.recipe.digest, audio)
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
    project: Project, material: Material, measured: Measured, ranking: Ranking
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
        return _compare(WITHOUT_DOWNLOAD.name, material, measured, ranking, there, other)
    return None


def _compare(
    name: str,
    material: Material,
    measured: Measured,
    ranking: Ranking,
    there: np.ndarray,
    other: Vectors,
) -> Beside:
    """Compare with other vectors of the tracks that are `there`, bool `[tracks]`."""
    labels = material.labels.take(there)
    asked = np.flatnonzero(np.isin(np.flatnonzero(there), material.asked))
    if not there.all():
        measured = measure(material.vectors.only(there), labels, asked, ranking)
    beside = measure(other, labels, asked, ranking)
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
    card = EncoderConfig(name, "", "auto", project.choice.cache)
    recipe = card.recipe(project.window_seconds, project.windows)
    return [*reversed(known), IndexSpec(recipe)]
