"""Filters mean for Milvus what they mean here, whatever stands in a tag.

On real Lite, or on the server of EMBED_TEST_MILVUS_URI.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_assets.index.collection import ensure
from embed_assets.index.connection import connect
from embed_assets.index.row import TrackRow
from embed_assets.search.filters import Condition, expression
from embed_assets_tests.shelf import DIM, SPEC

NASTY = [
    "",
    'Q"uote',
    "back\\slash",
    '\\"',
    "\\",
    "it's",
    "%like_%",
    "{brace} $1",
    "line\nbreak\ttab\rreturn",
    "\x00\x1b[31m",
    "Jazz",
    "Acid Jazz; Fusion",
    "ÉLECTRO",
    "日本語",
    "🎵",
    '" or track_id != "',
    '"] or true or genre in ["',
    "\\u0041",
    "\\n",
    "a\u2028b",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    lite = str(tmp_path_factory.mktemp("lite") / "milvus.db")
    with connect(os.environ.get("EMBED_TEST_MILVUS_URI") or lite) as client:
        client.drop_collection(SPEC.collection)
        ensure(client, SPEC)
        yield client


def ask(client, rows, conditions):
    """Track ids that Milvus finds among these rows."""
    client.upsert(SPEC.collection, [r.stored() | {"vector": [1.0] * DIM} for r in rows])
    words = expression(conditions, lambda field: {getattr(r, field) for r in rows})
    ids = ", ".join(f'"{r.track_id}"' for r in rows)
    text = f"track_id in [{ids}]" + (f" and {words}" if words else "")
    found = client.query(
        SPEC.collection, text, ["track_id"], limit=1000, consistency_level="Strong"
    )
    return sorted(r["track_id"] for r in found)


def fitting(rows, conditions):
    fit = [r for r in rows if all(c.fits(getattr(r, c.field)) for c in conditions)]
    return sorted(r.track_id for r in fit)


TEXT = st.one_of(st.sampled_from(NASTY), st.text(max_size=12))
WORDS = st.builds(
    lambda f, w, n: Condition(f, words=w, negate=n),
    st.sampled_from(["genre", "artist", "codec"]),
    TEXT.filter(str.strip),
    st.booleans(),
)
RANGES = st.builds(
    lambda f, a, b, n: Condition(f, low=min(a, b), high=max(a, b), negate=n),
    st.sampled_from(["year", "bit_rate", "added_at", "duration"]),
    st.one_of(st.integers(0, 60).map(float), st.just(float("-inf"))),
    st.one_of(st.integers(0, 60).map(float), st.just(float("inf"))),
    st.booleans(),
)
ROW = st.builds(
    lambda g, a, c, y, d: (g, a, c, y, float(d)), TEXT, TEXT, TEXT, st.integers(0, 60),
    st.integers(0, 60),
)  # fmt: skip


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(ROW, min_size=1, max_size=8),
    conditions=st.lists(st.one_of(WORDS, RANGES), max_size=3),
)
def test_milvus_finds_exactly_the_rows_that_fit(client, made, conditions):
    rows = [
        TrackRow(
            f"{i:032x}", "a", "f", "", "", genre=g, artist=a, codec=c, year=y, bit_rate=y,
            added_at=y, duration=d,
        )
        for i, (g, a, c, y, d) in enumerate(made)
    ]  # fmt: skip
    assert ask(client, rows, conditions) == fitting(rows, conditions)


def test_each_nasty_tag_is_found_by_itself(client):
    rows = [TrackRow(f"{i:032x}", "a", "f", "", "", genre=g) for i, g in enumerate(NASTY)]
    for text in filter(str.strip, NASTY):
        one = [Condition("genre", words=text)]
        assert ask(client, rows, one) == fitting(rows, one), text
        assert f"{NASTY.index(text):032x}" in ask(client, rows, one)
