"""What a collection must satisfy before it is served, measured.

`reconcile.compare` compares all rows; vectors are checked in samples.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.context import IndexContext
from embed_assets.errors import TrackRejected
from embed_assets.identity import ROW_SCHEMA_VERSION, TRACKS, IndexSpec
from embed_assets.index.collection import count, ensure, load, width_of
from embed_assets.index.nearest import vectors_of
from embed_assets.index.neighbour_gates import better_neighbours
from embed_assets.index.options import search_params
from embed_assets.index.recall import FEWEST, share_found
from embed_assets.index.reconcile import IndexDiff, compare
from embed_assets.index.row import VectorKey
from embed_assets.index.row_kinds import kind_of
from embed_assets.index.row_vectors import VectorSource, Windows
from embed_assets.neighbours.figures import Difference
from embed_assets.storage import embedded_tracks
from embed_assets.storage.vector_store import VectorsLost

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

SAMPLE = 500
"""Vectors that are read back: each must be finite, of length 1, and that of its own audio."""

NEIGHBOURS = 10
"""Neighbours of a track that are compared with those in the served collection."""

QUERIES_A_CALL = 50
NORM_TOLERANCE = 1e-3
STORE_COSINE = 0.999
SELF_RECALL = 0.99
RECALL = 0.9
TIE = 1e-4
"""Identical recordings find each other with equal scores; either one counts as found."""


@dataclass(frozen=True)
class Gate:
    """One measured figure of a collection."""

    name: str
    """Name; those of a collection of parts begin with `parts_`."""
    passed: bool | None
    """Whether the figure is as it must be; null if it is only informational."""
    value: float
    """The figure."""
    wanted: str
    """What it must be, or a remark, in words."""


@dataclass(frozen=True)
class ValidationReport:
    """The measured gates of a collection, and of its parts if the spec has them.

    `diffs`: how each comparable collection differs from the tables.
    """

    collection: str
    gates: tuple[Gate, ...]
    diffs: tuple[tuple[IndexSpec, IndexDiff], ...]

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(g.passed is not False for g in self.gates)

    @property
    def failed(self) -> list[str]:
        """Each failed gate in words."""
        return [
            f"{g.name} is {g.value:g}, wanted {g.wanted}" for g in self.gates if g.passed is False
        ]

    def as_json(self) -> dict[str, Any]:
        """The report for the tables, `--json` and Dagster's metadata."""
        return {"passed": self.passed, "gates": [asdict(g) for g in self.gates]}


def validate(client: IndexClient, index: IndexContext, served: str | None) -> ValidationReport:
    """Measure the collections of a spec, and how their neighbours differ from the served one's.

    Reads the id and digest of every row once, and samples of vectors; writes no rows.
    """
    gates: list[Gate] = []
    diffs = []
    for one in index.spec.collection_specs:
        # Neighbours are compared with the served collection's, which has a row per track.
        found, diff = _validate(client, index.of(one), None if gates else served)
        gates += [replace(g, name=f"{kind_of(one).gate_prefix}{g.name}") for g in found]
        diffs += [(one, diff)] if diff is not None else []
    return ValidationReport(index.spec.collection, tuple(gates), tuple(diffs))


def _validate(
    client: IndexClient, index: IndexContext, beside: str | None
) -> tuple[list[Gate], IndexDiff | None]:
    """The gates of one collection, and how it differs from the tables; `beside`: the served one."""
    spec, tables = index.spec, index.tables
    name, kind = spec.collection, kind_of(spec)
    if not client.has_collection(name):
        ensure(client, spec)
    width = width_of(client, name)
    gates = [Gate("vector_width", width == spec.dim, width, str(spec.dim))]
    diff = None
    if spec.row_schema == ROW_SCHEMA_VERSION and width == spec.dim:
        diff = compare(client, spec, tables, index.uri)
        gates += [
            Gate("folders_missing", diff.waiting == 0, diff.waiting, "0"),
            Gate("folders_that_differ", not diff.differing, len(diff.differing), "0"),
            Gate("folders_orphaned", not diff.orphans, len(diff.orphans), "0"),
            Gate("rows", None, diff.rows, "informational; compared by the three gates above"),
        ]
    else:
        load(client, name)
        gates.append(
            Gate(
                "rows",
                None,
                count(client, name),
                "informational; rows of an earlier version are not compared",
            )
        )
    both = [n for n in (name, beside) if n is not None]
    _step_aside(client, both)
    sample = kind.sample(
        embedded_tracks.sample_tracks(tables, spec.recipe.digest, secrets.token_hex(16), SAMPLE)
    )
    vectors = vectors_of(client, list(sample), name, kind.primary_key, "Strong")
    if vectors:
        gates += _vectors(vectors)
        stored = kind.vectors(spec, Windows(tables, index.store, forget_lost=False))
        gates.append(_as_stored(stored, sample, vectors))
        ids = sorted(vectors)[: kind.self_queries]
        hits = _search(client, name, [vectors[i] for i in ids], kind.primary_key)
        gates.append(_self_recall(ids, hits))
        if spec.rows == TRACKS and client.index_type(name).name != "FLAT":
            gates.append(_recall(client, index, vectors))
        if beside is not None and beside != name:
            gates += _overlap(client, beside, ids, hits)
            gates += [_better(one, beside) for one in better_neighbours(index, beside)]
    return gates, diff


def _vectors(vectors: dict[str, np.ndarray]) -> list[Gate]:
    stack = np.stack(list(vectors.values())).astype(np.float64)
    bad = int((~np.isfinite(stack).all(axis=1)).sum())
    off = float(np.abs(np.linalg.norm(np.nan_to_num(stack), axis=1) - 1).max())
    return [
        Gate("vectors_sampled", None, len(stack), ""),
        Gate("vectors_not_finite", bad == 0, bad, "0"),
        Gate("norm_error", off < NORM_TOLERANCE, round(off, 6), f"below {NORM_TOLERANCE:g}"),
    ]


def _as_stored(
    stored: VectorSource,
    sample: Mapping[str, VectorKey],
    vectors: Mapping[str, np.ndarray],
) -> Gate:
    """The smallest cosine between an indexed vector and the one from the store."""
    worst = 1.0
    meant_of = stored.of([sample[key] for key in vectors])
    for vector, meant in zip(vectors.values(), meant_of, strict=True):
        if isinstance(meant, VectorsLost | TrackRejected):
            # The store has lost it: that is the next embedding's concern, the row is all there is.
            continue
        if isinstance(meant, Exception):
            raise meant
        worst = min(worst, float(meant @ vector) if meant.shape == vector.shape else -1.0)
    return Gate("cosine_to_store", worst > STORE_COSINE, round(worst, 6), f"above {STORE_COSINE:g}")


def _better(one: Difference, served: str) -> Gate:
    """How much more often neighbours belong together than in the served collection."""
    word = "better" if one.low > 0 else "worse" if one.high < 0 else "no clear difference"
    name = re.sub("[^a-z]+", "_", one.relation)
    remark = f"informational; {word} than in {served} ({one.low:+.3f} to {one.high:+.3f})"
    return Gate(f"neighbours_of_{name}", None, one.difference, remark)


def _step_aside(client: IndexClient, names: list[str]) -> None:
    """Let waiting processes use a Lite index, and load the collections again afterwards."""
    if client.give_way():
        for name in names:
            load(client, name)


def _search(
    client: IndexClient,
    name: str,
    vectors: list[np.ndarray],
    key: str = "track_id",
) -> list[list[tuple[str, float]]]:
    """(key, cosine) of the rows nearest to each query, best first."""
    found, kind, limit = [], client.vector_type(name), NEIGHBOURS + 1
    for i in range(0, len(vectors), QUERIES_A_CALL):
        answer = client.search(
            name,
            [kind.encode(v) for v in vectors[i : i + QUERIES_A_CALL]],
            limit=limit,
            output_fields=[key],
            search_params=search_params(limit),
            consistency_level="Strong",
        )
        found += [[(h["entity"][key], float(h["distance"])) for h in hits] for hits in answer]
    return found


def _self_recall(ids: list[str], hits: list[list[tuple[str, float]]]) -> Gate:
    found = sum(
        any(t == own and score >= one[0][1] - TIE for t, score in one) or _all_twins(one)
        for own, one in zip(ids, hits, strict=True)
    )
    share = found / len(ids)
    return Gate("self_recall_at_1", share >= SELF_RECALL, round(share, 4), f">= {SELF_RECALL:g}")


def _recall(client: IndexClient, index: IndexContext, vectors: dict[str, np.ndarray]) -> Gate:
    share, measured = share_found(client, index, vectors)
    wanted = f">= {RECALL:g}"
    if measured < FEWEST:
        return Gate(
            "neighbours_found", None, round(share, 4), f"informational; of {measured} neighbours"
        )
    return Gate("neighbours_found", share >= RECALL, round(share, 4), wanted)


def _all_twins(hits: list[tuple[str, float]]) -> bool:
    """Whether all results tie for the first place, so that the track itself may be cut off."""
    return len(hits) > NEIGHBOURS and hits[-1][1] >= 1 - TIE


def _overlap(
    client: IndexClient,
    served: str,
    ids: list[str],
    hits: list[list[tuple[str, float]]],
) -> list[Gate]:
    """Share of a track's neighbours that the served collection returns as well."""
    load(client, served)
    there = vectors_of(client, ids, served, consistency="Strong")
    both = [i for i in ids if i in there]
    if not both:
        return []
    before = dict(zip(both, _search(client, served, [there[i] for i in both]), strict=True))
    shares = []
    for own, now in zip(ids, hits, strict=True):
        if own in before:
            a, b = ({t for t, _ in one if t != own} for one in (now, before[own]))
            shares.append(len(a & b) / max(len(a), 1))
    share = round(float(np.mean(shares)), 4)
    return [
        Gate(
            "neighbours_kept",
            None,
            share,
            "informational; share of the served collection's top 10",
        )
    ]
