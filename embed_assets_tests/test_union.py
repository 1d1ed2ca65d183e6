"""`union`: what another machine embedded is as if it had been embedded here."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import tomllib
import zipfile
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from embed_assets.cli.json_shapes import SHAPES
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.library.manifest import scan_folder
from embed_assets.library.walk import walk
from embed_assets.operations.union import union
from embed_assets.project import Project
from embed_assets.storage import shard_rows
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_file import open_shard, shards_in
from embed_assets.storage.vector_format import to_npy
from embed_assets.workers import open_pool
from embed_assets_tests.borrowed import NOT_NEEDED, Borrowed, remade, settings_at
from embed_assets_tests.embedded import embed_folder
from embed_assets_tests.encoded import silent_flac
from embed_assets_tests.synth import write_track
from embed_assets_tests.test_json import compare_with_page

PAGE = Path(__file__).parent.parent / "docs/shards.md"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Two albums of three tracks, a copy, a file that is no audio, and one that is silent."""
    root = tmp_path_factory.mktemp("music")
    for seed in range(6):
        write_track(root / f"Album {seed // 3}" / f"{seed}.ogg", seconds=3, seed=seed)
    shutil.copy(root / "Album 0/1.ogg", root / "Album 1/copy.ogg")
    (root / "Album 0/text.mp3").write_text("no audio")
    (root / "Album 1/silent.flac").write_bytes(silent_flac(22_050, 1, 66_150))
    return root


@pytest.fixture(scope="module")
def borrowed(library, tmp_path_factory) -> Borrowed:
    """A machine with the library at another place, which embedded it into two shards."""
    root = tmp_path_factory.mktemp("borrowed")
    made = Borrowed(root, shutil.copytree(library, root / "mnt/all music"))
    printed = json.loads(made.embed("--json", "Album 0"))
    compare_with_page("embed", printed)
    assert (printed["tracks"], printed["embedded"], len(printed["shards"])) == (4, 3, 1)
    assert "1 new shard" in made.embed()
    return made


@pytest.fixture
def home(library, tmp_path) -> Project:
    """An empty home."""
    return Project.of(settings_at(tmp_path, library))


def take(tmp_path, *places, **options):
    return union(settings_at(tmp_path, options.pop("library", None)), places, check=0, **options)


def rows_of(project: Project) -> dict[str, Embedding]:
    digest = project.spec().recipe.digest
    return {row.audio_hash: row for row in shard_rows.embeddings(project.tables, digest)}


def scan(project: Project) -> None:
    with open_pool(1) as pool:
        for folder in walk(project.library.root):
            scan_folder(project.library, folder.path, project.tables, pool)


def test_a_borrowed_machine_needs_only_music_and_the_packages_of_the_page(borrowed):
    assert len(shards_in(borrowed.shards)) == 2
    assert not borrowed.home.exists()
    pyproject = tomllib.loads((PAGE.parent.parent / "pyproject.toml").read_text())
    names = {re.split(r"[<>=~!]", d)[0] for d in pyproject["project"]["dependencies"]}
    listed = re.search(r"--no-deps[^#]*?\n\n((?:    .*\n)+)", PAGE.read_text())[1].split()
    # Those come with others.
    assert sorted({*listed, *NOT_NEEDED}) == sorted(names)


def test_a_second_union_takes_nothing(borrowed, home, tmp_path):
    first = take(tmp_path, borrowed.shards)
    assert (first.shards, first.new, first.known, first.rejected) == (2, 6, 0, 1)
    assert (first.not_in_library, first.refused) == (6, [])
    before = {path: path.stat() for path in home.store.root.rglob("*.npy")}
    rows = rows_of(home)
    again = take(tmp_path, borrowed.shards, *shards_in(borrowed.shards))
    assert (again.new, again.known, again.rejected, again.refused) == (0, 12, 0, [])
    assert {path: path.stat() for path in home.store.root.rglob("*.npy")} == before
    assert rows_of(home) == rows


def test_it_is_as_if_it_had_been_embedded_here(borrowed, home, library, tmp_path):
    take(tmp_path, borrowed.shards)
    scan(home)
    direct = Project.of(settings_at(tmp_path / "direct", library))
    scan(direct)
    recipe = direct.spec().recipe
    context = EmbedContext(
        direct.library, recipe, direct.vectors.tracks, direct.tables, direct.store
    )
    with open_pool(1) as pool:
        for folder in walk(library):
            embed_folder(context, folder.path, pool)

    def told(row: Embedding) -> tuple:
        return astuple(replace(row, run_id="", at=0.0))

    here, there = rows_of(direct), rows_of(home)
    assert {h: told(row) for h, row in there.items()} == {h: told(row) for h, row in here.items()}
    assert {row.run_id for row in there.values()} == {p.stem for p in shards_in(borrowed.shards)}
    for audio, row in here.items():
        if row.reason is None:
            mine = home.store.read(recipe.digest, audio)
            assert np.array_equal(mine, direct.store.read(recipe.digest, audio))
    for folder in direct.tables.folders():
        assert home.tables.pending(folder[0], recipe.digest) == []


def test_other_programs_can_open_a_shard(borrowed):
    (path, _) = shards_in(borrowed.shards)
    shard = np.load(path, allow_pickle=False)
    manifest = json.loads(shard["manifest.json"])
    for track in manifest["tracks"]:
        assert shard[track["audio_hash"]].dtype == np.float32
        assert len(shard[track["audio_hash"]]) == track["windows"]
        assert track["duration"] == pytest.approx(3.0, abs=0.1)
    assert str(borrowed.root) not in json.dumps(manifest)
    assert manifest["origin"]["environment"]["numpy"] == np.__version__


def test_a_damaged_entry_is_refused_and_the_rest_is_taken(borrowed, home, tmp_path):
    whole, other = shards_in(borrowed.shards)
    with open_shard(whole) as shard:
        track = shard.manifest.tracks[0]
        at = whole.read_bytes().index(to_npy(shard.read(track)))
    raw = bytearray(whole.read_bytes())
    raw[at + 200] ^= 1
    flipped = tmp_path / "flipped.npz"
    flipped.write_bytes(raw)
    found = take(tmp_path, flipped, other)
    assert found.new == 5
    (refused,) = found.refused
    assert (refused.shard, refused.tracks) == (str(flipped), 1)
    assert track.audio_hash in refused.reason
    assert track.audio_hash not in rows_of(home)
    assert take(tmp_path, whole).new == 1


@pytest.mark.parametrize("damage", ["cut", "manifest", "empty", "text", "folder", "missing"])
def test_a_damaged_shard_is_refused_and_the_rest_is_taken(borrowed, tmp_path, damage):
    whole, other = shards_in(borrowed.shards)
    raw = bytearray(whole.read_bytes())
    bad = tmp_path / "bad.npz"
    if damage == "cut":
        bad.write_bytes(raw[:-300])
    elif damage == "manifest":
        raw[raw.index(b'"tracks"') + 1] ^= 1
        bad.write_bytes(raw)
    elif damage == "folder":
        bad.mkdir()
    elif damage != "missing":
        bad.write_bytes(b"" if damage == "empty" else b"no shard at all")
    found = take(tmp_path, bad, other)
    assert (found.shards, found.new) == (1, 3)
    (refused,) = found.refused
    assert (refused.shard, refused.tracks) == (str(bad), None)
    assert refused.reason


def test_a_shard_of_other_settings_is_refused_with_both_values(borrowed, tmp_path):
    found = union(settings_at(tmp_path, windows=5), [borrowed.shards], check=0)
    assert (found.shards, found.new, len(found.refused)) == (0, 0, 2)
    assert "EMBED_WINDOWS: 3 there, 5 here" in found.refused[0].reason
    compare_with_page("union", found.as_json())
    assert SHAPES["union"]


def crafted(shard: Path, target: Path, craft, compression: int = zipfile.ZIP_STORED) -> Path:
    """A shard with another manifest or other entries, whose checksums are right."""
    with zipfile.ZipFile(shard) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    manifest = json.loads(entries.pop("manifest.json"))
    craft(manifest, entries)
    for track in manifest["tracks"]:
        if isinstance(track, dict) and f"{track['audio_hash']}.npy" in entries:
            raw = entries[f"{track['audio_hash']}.npy"]
            track["sha256"] = hashlib.sha256(raw).hexdigest()
    text = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, raw in (entries | {"manifest.json": text}).items():
            archive.writestr(name, raw)
        digest = hashlib.sha256(text).hexdigest()
        archive.comment = b"SHA-256 of manifest.json: " + digest.encode()
    return target


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _pickled(manifest, entries):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    entries[f"{manifest['tracks'][0]['audio_hash']}.npy"] = buffer.getvalue()


def _not_npy(manifest, entries):
    entries[f"{manifest['tracks'][0]['audio_hash']}.npy"] = pickle.dumps(Evil())


def _huge_shape(manifest, entries):
    name = f"{manifest['tracks'][0]['audio_hash']}.npy"
    entries[name] = entries[name].replace(b"'shape': (1,", b"'shape': (99999999999,")


def _code_in_header(manifest, entries):
    # numpy evaluates the header, and a list is no key.
    name = f"{manifest['tracks'][0]['audio_hash']}.npy"
    entries[name] = b"\x93NUMPY\x01\x00\x07\x00{[]: 1}" + bytes(64)


def _not_finite(manifest, entries):
    name = f"{manifest['tracks'][0]['audio_hash']}.npy"
    entries[name] = entries[name][:-4] + np.float32("nan").tobytes()


def _wider(manifest, entries):
    name = f"{manifest['tracks'][0]['audio_hash']}.npy"
    entries[name] = to_npy(np.ones((1, 1, 129), np.float32))


def _zero(manifest, entries):
    name = f"{manifest['tracks'][0]['audio_hash']}.npy"
    entries[name] = entries[name][:128] + bytes(len(entries[name]) - 128)


def _missing(manifest, entries):
    del entries[f"{manifest['tracks'][0]['audio_hash']}.npy"]


@pytest.mark.parametrize(
    "craft",
    [_pickled, _not_npy, _huge_shape, _code_in_header, _not_finite, _wider, _zero, _missing],
    ids=lambda f: f.__name__,
)
def test_entries_that_are_no_vectors_are_refused(borrowed, home, tmp_path, craft):
    whole = shards_in(borrowed.shards)[0]
    found = take(tmp_path, crafted(whole, tmp_path / "crafted.npz", craft))
    assert (found.new, [r.tracks for r in found.refused]) == (2, [1])


A_REJECTION = {"audio_hash": "0" * 32, "message": "", "at": 0.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "not a shard"),
        ({"recipe_digest": "0" * 32}, "damaged"),
        ({"tracks": [{"audio_hash": "../../../etc/passwd"}]}, "manifest is wrong at tracks.0"),
        ({"tracks": [["[" * 100]]}, "manifest is wrong"),
        ({"rejected": [{"reason": 1} | A_REJECTION]}, "wrong at rejected.0.reason"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(borrowed, home, tmp_path, wrong, says):
    whole = shards_in(borrowed.shards)[0]
    made = crafted(whole, tmp_path / "crafted.npz", lambda manifest, _: manifest.update(wrong))
    found = take(tmp_path, made)
    assert (found.shards, found.new) == (0, 0)
    assert says in found.refused[0].reason
    assert not home.store.root.exists()


def test_a_compressed_shard_is_refused_before_it_is_unpacked(borrowed, tmp_path):
    whole = shards_in(borrowed.shards)[0]
    made = crafted(whole, tmp_path / "z.npz", lambda *_: None, zipfile.ZIP_DEFLATED)
    assert "compressed" in take(tmp_path, made).refused[0].reason


def test_shards_that_overlap_give_each_track_once(borrowed, home, tmp_path):
    first, second = shards_in(borrowed.shards)
    with open_shard(first) as a, open_shard(second) as b:
        digest = a.manifest.recipe_digest
        both = [track.row(digest, "", 2e9) for track in (*a.manifest.tracks, *b.manifest.tracks)]
        rows = [row for row in both if row.audio_hash != a.manifest.tracks[0].audio_hash]
        store = Project.of(settings_at(tmp_path / "store")).store
        for track, shard in [(t, s) for s in (a, b) for t in s.manifest.tracks]:
            store.write(digest, track.audio, shard.read(track))
    overlapping = remade(first, tmp_path / "overlapping", rows=rows, store=store)
    found = take(tmp_path, first, overlapping, second)
    assert (found.new, found.known) == (6, 2 + 3)
    assert len(rows_of(home)) == 7


def test_vectors_replace_a_rejection_but_no_rejection_replaces_vectors(borrowed, home, tmp_path):
    whole = shards_in(borrowed.shards)[0]
    with open_shard(whole) as shard:
        digest = shard.manifest.recipe_digest
        audio = [track.audio for track in shard.manifest.tracks]
    rejected = [Embedding(digest, audio[0], reason="corrupt", message="there", at=1.0)]
    rejected += [Embedding(digest, "0" * 32, reason="decoder crashed", message="there", at=1.0)]
    bad = remade(whole, tmp_path / "bad", rows=rejected)
    found = take(tmp_path, bad)
    assert (found.rejected, rows_of(home)[audio[0]].reason) == (1, "corrupt")
    assert list(rows_of(home)) == [audio[0]], "a decoder that crashed there is tried here"
    assert take(tmp_path, whole).new == 3
    assert rows_of(home)[audio[0]].reason is None
    assert take(tmp_path, bad).rejected == 0
    assert rows_of(home)[audio[0]].reason is None


def test_a_reason_of_a_later_version_is_left_for_this_machine_to_decide(borrowed, home, tmp_path):
    whole = shards_in(borrowed.shards)[0]
    later = {"rejected": [{"reason": "bewitched"} | A_REJECTION]}
    found = take(tmp_path, crafted(whole, tmp_path / "l.npz", lambda m, _: m.update(later)))
    assert (found.new, found.rejected, found.refused) == (3, 0, [])
    assert "does not know ('bewitched'): `sync` tries them here" in found.warnings[0]
    assert A_REJECTION["audio_hash"] not in rows_of(home)


def test_rejections_of_a_machine_that_cannot_decode_are_refused_and_its_vectors_taken(
    borrowed, home, library, tmp_path
):
    settings = settings_at(tmp_path, library)
    scan(home)
    first, second = shards_in(borrowed.shards)
    with open_shard(first) as shard:
        digest = shard.manifest.recipe_digest
        good, *others = (track.row(digest, "", 2e9) for track in shard.manifest.tracks)
    bad = Embedding(digest, good.audio_hash, reason="corrupt", message="no frame", at=1.0)
    broken = remade(first, tmp_path / "broken", rows=[*others, bad])
    found = union(settings, [broken, second], check=1)
    (refused,) = found.refused
    assert (found.new, refused.shard, refused.tracks) == (2 + 3, str(broken), 1)
    assert re.match(r"Album 0/\d.ogg can be decoded here, and could not be", refused.reason)
    assert "(corrupt: no frame)" in refused.reason
    assert "the next `embed-assets sync` tries" in refused.reason
    assert good.audio_hash not in rows_of(home)
    # What can be decoded nowhere is rejected here as well.
    assert (found.rejected, found.rejected_checked, found.rejected_unchecked) == (1, 1, 0)
    assert [row.reason for row in rows_of(home).values() if row.reason] == ["silent"]
    assert union(settings, [broken], check=0).rejected == 1


def test_a_home_without_the_music_compares_no_more_than_the_clip(borrowed, tmp_path):
    _, whole = shards_in(borrowed.shards)
    found = union(settings_at(tmp_path), [whole], check=2)
    assert (found.new, found.checked, found.unchecked, found.clip_only) == (3, 0, 0, 1)
    assert (found.rejected, found.rejected_checked, found.rejected_unchecked) == (1, 0, 1)
    with open_shard(whole) as shard:
        clips = {c.name: shard.read_clip(c) for c in shard.manifest.clips if c.format != "mp3"}
    without_mp3 = remade(whole, tmp_path / "broken", clips=clips)
    found = union(settings_at(tmp_path / "other"), [without_mp3], check=2)
    assert (found.new, found.rejected, len(found.refused)) == (3, 0, 1)
    assert "clip.mp3 can be decoded here" in found.refused[0].reason


@pytest.mark.parametrize("compared", ["clip", "tracks"])
def test_vectors_that_this_machine_would_not_make_are_refused(
    borrowed, home, library, tmp_path, compared
):
    whole = shards_in(borrowed.shards)[0]
    settings = settings_at(tmp_path, library)
    if compared == "tracks":
        scan(home)
        turned = remade(whole, tmp_path / "turned", turn=True, clips={})
    else:
        turned = remade(whole, tmp_path / "turned", turn=True)
    found = union(settings, [turned, whole], check=1)
    (refused,) = found.refused
    assert refused.shard == str(turned)
    assert ("clip." if compared == "clip" else "Album ") in refused.reason
    assert "numpy, float32, cpu" in refused.reason
    assert (found.new, found.checked) == (3, 1 if compared == "tracks" else 0)
    assert not found.warnings
    assert union(settings, [turned], check=0).known == 3


def test_a_union_needs_no_music_and_says_what_it_could_not_compare(borrowed, tmp_path):
    whole = shards_in(borrowed.shards)[0]
    without = remade(whole, tmp_path / "without", clips={})
    found = union(settings_at(tmp_path), [without], check=2)
    assert (found.new, found.unchecked, found.not_in_library) == (3, 1, 3)


def test_tables_in_postgresql_take_shards_as_well(borrowed, postgres, tmp_path):
    settings = settings_at(tmp_path, tables=postgres)
    assert union(settings, [borrowed.shards], check=0).new == 6
    again = union(settings, [borrowed.shards], check=0)
    assert (again.new, again.known) == (0, 6)
    assert not (tmp_path / "home/tables.sqlite").exists()
