"""With `--json` every command prints the fields and types of docs/json.md."""

from __future__ import annotations

import json
import shutil
from dataclasses import is_dataclass
from datetime import datetime
from types import UnionType
from typing import Any, get_args, get_origin, is_typeddict

import pytest
import typer.main

from embed_assets.cli.command_line import app
from embed_assets.cli.json_shapes import SHAPES, fields_of
from embed_assets.library.left_out import LeftOutCounts
from embed_assets_tests.live_project import LiveProject

WITHOUT_JSON = {
    "copy-tables",
    "adopt-vectors",
    "copy-vectors",
    "up",
    "demo",
    "download",
    "serve",
    "cluster-config",
}


@pytest.fixture(scope="module")
def two_collections(tmp_path_factory):
    """Six tracks, one of them twice, a broken file, things that are left out; two collections."""
    made = LiveProject(tmp_path_factory.mktemp("json"), {"EMBED_PARTS": "true"})
    made.library.mkdir()
    made.album("Album", 1, 2, 3)
    made.album("More", 4, 5, 6)
    shutil.copy(made.library / "Album/01.ogg", made.library / "More/again.ogg")
    made.put_bad("More/empty.mp3", b"")
    (made.library / "More/song.mid").touch()
    (made.library / "More/away").symlink_to(made.root)
    made.sync()
    made.settings["EMBED_POOLING"] = "enriched"
    printed = made.sync()
    return made, printed


def compare(found: Any, kind: Any, where: str) -> None:
    """Fail if a value of JSON is not of a type of Python, with the fields that it has."""
    if is_dataclass(kind) or is_typeddict(kind):
        fields = fields_of(kind)
        without = {"copies"} if where.startswith("duplicates") else set()
        compare_fields(found, [f for f in fields if f.name not in without], where)
    elif get_origin(kind) is UnionType:
        kinds = [type(None) if k is None else k for k in get_args(kind)]
        if found is None:
            assert type(None) in kinds, where
        else:
            (inner,) = (k for k in kinds if k is not type(None))
            compare(found, inner, where)
    elif get_origin(kind) in (list, tuple):
        assert isinstance(found, list), where
        for one in found:
            compare(one, get_args(kind)[0], where)
    elif get_origin(kind) is dict:
        assert isinstance(found, dict), where
        for value in found.values():
            compare(value, get_args(kind)[1], where)
    elif kind is float:
        assert type(found) in (int, float), where
    elif isinstance(kind, type) and issubclass(kind, str):
        assert type(found) is str, (where, found)
    elif kind is not object:
        assert type(found) is kind, (where, found)


def compare_fields(found: Any, fields: Any, where: str) -> None:
    assert isinstance(found, dict), where
    assert list(found) == [f.name for f in fields], where
    for field in fields:
        compare(found[field.name], field.type, f"{where}: {field.name}")


def compare_with_page(command: str, printed: Any) -> None:
    shape = SHAPES[command]
    if shape.is_list:
        assert isinstance(printed, list)
        assert printed, f"{command} printed an empty list, which shows nothing"
    for one in printed if shape.is_list else [printed]:
        compare_fields(one, shape.fields, command)


def ask(world: LiveProject, *arguments: str, code: int = 0) -> Any:
    done = world.run(*arguments, "--json")
    assert done.returncode == code, done.stderr
    assert done.stdout.count("\n") == 1, "one document, and nothing else"
    return json.loads(done.stdout)


def test_the_page_has_every_command_that_prints_json():
    commands = typer.main.get_command(app).commands
    with_json = {n for n, c in commands.items() if any("--json" in p.opts for p in c.params)}
    assert with_json == {name.split(" ")[0] for name in SHAPES}
    assert with_json == set(commands) - WITHOUT_JSON


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("status", []),
        ("errors", []),
        ("similar", ["Album/01.ogg", "-n", "3"]),
        ("parts", ["Album/01.ogg", "-n", "3"]),
        ("path", ["Album/01.ogg", "More/02.ogg", "--steps", "3"]),
        ("radio", ["Album/01.ogg", "-n", "3"]),
        ("duplicates", ["--min-score", "-1"]),
        ("map", ["map.html"]),
        ("evaluate", []),
        ("collections", []),
        ("collections --check", []),
        ("gc", ["--dry-run"]),
        ("canary", []),
    ],
)
def test_a_command_prints_what_the_page_says(two_collections, command, arguments):
    world, _ = two_collections
    compare_with_page(command, ask(world, *command.split(" "), *arguments))


def test_sync_prints_what_the_page_says(two_collections):
    compare_with_page("sync", two_collections[1])


def test_doctor_prints_what_the_page_says(two_collections):
    printed = ask(two_collections[0], "doctor")
    compare_with_page("doctor", printed)
    for check in printed:
        if check["check"] == "left out":
            compare(check["counts"], LeftOutCounts, "doctor")
            assert check["counts"]["endings"] == {".mid": 1}
            assert check["counts"]["links_to_folders"] == 1
        else:
            assert check["counts"] == {}


def test_promote_and_rollback_print_what_the_page_says(two_collections):
    world, _ = two_collections
    back = ask(world, "rollback")
    compare_with_page("rollback", back)
    assert (back["moved"], back["served"] == back["wanted"]) == (True, False)
    again = ask(world, "promote", back["served"])
    assert again["moved"] is False
    assert {again["served"], again["wanted"]} == {back["served"], back["wanted"]}
    assert again["served"] == back["served"]
    forward = ask(world, "promote")
    compare_with_page("promote", forward)
    assert (forward["moved"], forward["served"], forward["passed"]) == (True, back["wanted"], True)


def test_retry_prints_what_the_page_says(two_collections):
    world, _ = two_collections
    compare_with_page("retry", ask(world, "retry", "More/empty.mp3"))
    compare_with_page("errors --clear", ask(world, "errors", "--clear", "More"))


def test_times_are_in_iso_8601_and_utc(two_collections):
    world, _ = two_collections
    times = [row["gates_at"] for row in ask(world, "collections") if row["gates_at"]]
    times += [row["time"] for row in ask(world, "errors")]
    assert len(times) > 1
    for text in times:
        assert datetime.fromisoformat(text).utcoffset().total_seconds() == 0
