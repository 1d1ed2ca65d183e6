"""Every folder has one partition key, which a person can read and Dagster accepts."""

import dagster as dg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embed_assets.defs.evaluation import Evaluation, summary
from embed_assets.defs.partitions import MUSIC_FOLDERS, key_of, path_of
from embed_assets.errors import ConfigurationError
from embed_assets.planning.values import Plan

NASTY = st.text(alphabet=". %25AaFf\n\t\x7f\u202e\u2028…éé", min_size=1, max_size=10)
PART = (
    st.one_of(
        st.binary(min_size=1, max_size=12),
        st.text(max_size=10).map(lambda s: s.encode("utf-8", "replace")),
        NASTY.map(str.encode),
    )
    .map(lambda b: b.replace(b"/", b"").replace(b"\0", b""))
    .filter(lambda b: b not in (b"", b".", b".."))
)
PATH = st.lists(PART, min_size=1, max_size=4).map(b"/".join)


@given(PATH)
@example("Sigur Rós/( )".encode())
@example(b"...And Justice for All")
@example(b"%2E%%25/%")
@example(b" leading/trailing ")
@example(b"caf\xe9/\xff\xfe\n")
def test_any_bytes_make_a_key_that_leads_back_to_them(path):
    key = key_of(path)
    assert path_of(key) == path
    assert "..." not in key
    assert key.isprintable()
    assert key == key.strip()


@given(st.lists(PATH, min_size=2, max_size=2, unique=True))
def test_two_folders_never_share_a_key(paths):
    assert key_of(paths[0]) != key_of(paths[1])


@given(st.lists(PATH, min_size=1, max_size=5, unique=True))
def test_dagster_accepts_the_keys(paths):
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(MUSIC_FOLDERS.name, [key_of(p) for p in paths])
        assert [path_of(k) for k in instance.get_dynamic_partitions(MUSIC_FOLDERS.name)] == paths


def test_an_ordinary_name_is_its_own_key():
    for name in ("Nina Simone/Pastel Blues", "100% Hits", "Björk/Début", "Earth, Wind & Fire [2]"):
        assert key_of(name.encode()) == name
    assert key_of(b"") == "."


@pytest.mark.parametrize(
    "key", ["", "/etc", "a/../../etc", "..", "a//b", "a/", "%00", "%41", "a\nb", " a"]
)
def test_a_key_that_is_no_folders_is_refused(key):
    with pytest.raises(ConfigurationError, match="no key of a music folder"):
        path_of(key)


@pytest.mark.parametrize(("folders", "said"), [(79_999, False), (80_000, True), (10**7, True)])
def test_a_library_too_large_for_dagsters_pages_is_told_so_before(folders, said):
    found = Evaluation(Plan(folders=folders), True, 0, 0.0, 0, {})
    assert ("docs/decisions/partitions.md" in summary(found)) == said
