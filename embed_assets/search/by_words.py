"""Search by words of sound: the tracks nearest to phrases, and how far they stand out.

Cosines of words and music are small, and how small differs from phrase to phrase. What a score is
worth is said by its distance from the mean over the library, in standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from embed_assets import encoders
from embed_assets.encoders.cards import default_model, has_words
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, NothingIndexed, WeightsMissing
from embed_assets.identity import IndexSpec
from embed_assets.index.nearest import Match
from embed_assets.project import Project
from embed_assets.search import exact
from embed_assets.search.answers import Filters
from embed_assets.search.snapshot import Snapshot

LESS = 0.5
"""How much of the unwanted phrases is subtracted."""

SAMPLE = 8192
"""Tracks, evenly spaced, from which the spread of a larger library is estimated, to 1 %.

A scan of all vectors would take longer than the search itself.
"""

STANDS_OUT = 2.0
"""Standard deviations above the mean from which a result is worth mentioning."""


@dataclass(frozen=True)
class WordMatch(Match):
    """A track that was found by words."""

    deviations: float = 0.0
    """How many standard deviations the score is above the mean of all tracks of the library."""


def phrase_vector(
    project: Project, spec: IndexSpec, phrases: Sequence[str], without: Sequence[str]
) -> np.ndarray:
    """What phrases mean to the model of the served collection: float32 `[dim]` of length 1.

    The mean of the phrases, less half of the mean of those to do without.

    Raises:
        ConfigurationError: that model knows no words or is not here, or a phrase cannot be used.
    """
    if not phrases:
        raise ConfigurationError("say what is to be heard, in one or more phrases")
    encoder_config = _encoder_config(project, spec)
    vector = _mean(encoder_config.phrase_vectors(phrases))
    if without:
        vector = _unit(vector - LESS * _mean(encoder_config.phrase_vectors(without)))
    return vector.astype(np.float32)


def find(
    searcher: Snapshot,
    words: np.ndarray,
    seeds: Sequence[int],
    n: int,
    filters: Filters,
) -> tuple[list[WordMatch], tuple[str, ...]]:
    """The `n` tracks nearest to the vector of words, best first, and notes for people.

    `seeds`: positions of tracks to be like, too. Their cosines vary more than those of words, so
    that each counts by its standard deviations. They and their copies are left out.
    """
    searcher = searcher.snapshot()
    query = words
    if seeds:
        alike = exact.direction(searcher, seeds)
        each = [v / max(_spread(searcher, v)[1], 1e-6) for v in (words, alike)]
        query = _unit(np.sum(each, axis=0)).astype(np.float32)
    mean, deviation = _spread(searcher, query)
    allowed = exact.mask(searcher, filters.where)
    if seeds:
        allowed &= ~searcher.of_same_audio(seeds)
    heard = list(seeds) if filters.one_recording else None
    near = exact.nearest(searcher, query, n, allowed, per_artist=filters.per_artist, heard=heard)
    matches = [_match(m, (m.score - mean) / deviation if deviation else 0.0) for m in near]
    return matches, _notes(matches)


def _encoder_config(project: Project, spec: IndexSpec) -> EncoderConfig:
    """The encoder whose words fit the collection."""
    recipe, wanted = spec.recipe, project.vectors.tracks
    if project.vectors.words and project.vectors.words.name == recipe.encoder:
        wanted = project.vectors.words
    if wanted != project.vectors.tracks and (missing := project.vectors.words_missing()):
        raise WeightsMissing(missing)
    if not has_words(recipe.encoder) and project.vectors.words:
        if missing := project.vectors.words_missing():
            raise WeightsMissing(f"no music can be found by words yet: {missing}")
        raise NothingIndexed(
            f"no music can be found by words yet: `embed-assets sync`, or `up`, embeds it with"
            f" {project.vectors.words.name} for EMBED_WORDS, beside {wanted.name}"
        )
    if not has_words(recipe.encoder):
        encoders.require_words(wanted.name)
        raise NothingIndexed(
            f"the served collection was made by {recipe.encoder}, which knows no words, until the"
            f" one of EMBED_ENCODER={wanted.name} is complete: see `embed-assets collections`"
        )
    if spec.pooling != "mean":
        raise ConfigurationError(
            f"EMBED_POOLING is {spec.pooling!r}, whose vectors cannot be compared with words: set"
            " EMBED_POOLING=mean and run `embed-assets sync`, which embeds nothing again"
        )
    used = wanted
    if wanted.name != recipe.encoder:
        used = replace(wanted, name=recipe.encoder, model=default_model(recipe.encoder))
    if encoders.describe(used.name, used.model, used.cache).weights != recipe.weights:
        setting = "EMBED_MODEL" if wanted == project.vectors.tracks else "EMBED_WORDS_MODEL"
        raise ConfigurationError(
            "the served collection was made with other weights than"
            f" {setting}={used.model}: words can be found when the new one is complete;"
            " see `embed-assets collections`"
        )
    return used


def _spread(searcher: Snapshot, query: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the cosines of all tracks, or of `SAMPLE` of them."""
    live = np.flatnonzero(searcher.live_mask)
    some = live[:: -(-len(live) // SAMPLE) or 1]
    scores = (searcher.vectors(some) @ query).astype(np.float64)
    return (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 0.0)


def _match(match: Match, deviations: float) -> WordMatch:
    values = {field.name: getattr(match, field.name) for field in fields(Match)}
    return WordMatch(**values, deviations=round(deviations, 3))


def _notes(matches: Sequence[WordMatch]) -> tuple[str, ...]:
    if not matches or (best := matches[0].deviations) >= STANDS_OUT:
        return ()
    return (
        f"nothing stands out: the best is {best:.1f} standard deviations above the mean of the"
        " library; try other words, or two to four short phrases",
    )


def _mean(vectors: np.ndarray) -> np.ndarray:
    return _unit(vectors.mean(axis=0, dtype=np.float64))


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise ConfigurationError("these phrases cancel each other out: name fewer of them")
    return vector / norm
