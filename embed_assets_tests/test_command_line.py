"""What commands print and end with: exit codes, verdicts, streams of JSON, times."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from typer.testing import CliRunner

from embed_assets import cli
from embed_assets.errors import (
    ConfigurationError,
    EmbedAssetsError,
    ExitCode,
    FolderChanged,
    IndexBusy,
    LibraryUnavailable,
    NotFound,
    TransientError,
    WeightsMissing,
)
from embed_assets.index.collection import load
from embed_assets.index.connection import connect


@pytest.fixture
def here(world, monkeypatch):
    """The settings of the world are those of this process."""
    for name, value in world.environment.items():
        if name.startswith("EMBED_"):
            monkeypatch.setenv(name, value)
    return world


def exit_code(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["embed-assets", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_each_kind_of_error_has_its_exit_code():
    for error in (EmbedAssetsError, NotFound, TransientError, IndexBusy, FolderChanged):
        assert error.exit_code == 1
    for error in (ConfigurationError, LibraryUnavailable, WeightsMissing):
        assert error.exit_code == 2


def test_a_command_ends_with_the_code_of_what_went_wrong(here, monkeypatch, capsys):
    assert exit_code(monkeypatch, "similar", "blue train") == 2
    assert "nothing is indexed yet" in capsys.readouterr().err
    assert exit_code(monkeypatch, "similar", "blue train", "--year", "soon") == 2
    assert exit_code(monkeypatch, "similar", "--no-such-option") == 2
    assert exit_code(monkeypatch, "errors", "--clear", "Album") == 1
    assert "no track and no folder" in capsys.readouterr().err
    here.library.rmdir()
    assert exit_code(monkeypatch, "status") == 2
    assert exit_code(monkeypatch, "status", "--watch") == 2, "no terminal to redraw"
    assert exit_code(monkeypatch, "sync") == 2
    assert exit_code(monkeypatch, "doctor") == 1
    monkeypatch.setenv("EMBED_WINDOWS", "many")
    assert exit_code(monkeypatch, "status") == 2
    assert "EMBED_WINDOWS='many'" in capsys.readouterr().err


def test_an_option_that_is_empty_is_refused(here, monkeypatch, capsys):
    for words in (("errors", "--clear", ""), ("collections", "--drop", " ")):
        assert exit_code(monkeypatch, *words) == ExitCode.WRONG
        assert f"{words[1]} is empty" in capsys.readouterr().err


def test_status_that_is_watched_as_json_prints_a_document_a_line_until_ctrl_c(world):
    world.album("Album", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "embed_assets.cli", "status", "--watch", "--json"],
        env=world.environment,
        cwd=world.root,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [t["tracks"] for t in told] == [1, 1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.wait()


def test_collections_check_prints_the_verdict_and_ends_with_1_if_a_gate_fails(here):
    here.album("Album", 1, 2)
    here.sync()
    run = CliRunner().invoke
    told = run(cli.app, ["collections", "--check", "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, found["passed"]) == (0, True)
    assert found["served"] == found["wanted"]
    told = run(cli.app, ["collections", "--check"])
    assert f"{found['wanted']}: passed" in told.stdout
    assert "self_recall_at_1" in told.stdout

    project = here.project()
    with connect(project.uri, wait_seconds=60) as client:
        load(client, found["wanted"])
        client.delete(found["wanted"], filter='path == "Album/01.ogg"')
    told = run(cli.app, ["collections", "--check", "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, found["passed"]) == (1, False)
    assert "folders_that_differ" in {g["name"] for g in found["gates"] if g["passed"] is False}
    told = run(cli.app, ["collections", "--check"])
    assert told.exit_code == 1
    assert f"{found['wanted']}: FAILED" in told.stdout
    assert "WRONG, wanted 0" in told.stdout


def test_errors_say_when_in_iso_8601_too(here):
    here.put_bad("Album/empty.mp3", b"")
    here.sync()
    (row,) = json.loads(CliRunner().invoke(cli.app, ["errors", "--json"]).stdout)
    when = datetime.fromisoformat(row["time"])
    assert when.utcoffset().total_seconds() == 0
    assert when.timestamp() == int(row["at"])


def test_definitions_are_imported_whatever_the_settings_are(world):
    script = (
        "from embed_assets.definitions import build_defs, defs\n"
        "from embed_assets.errors import ConfigurationError\n"
        "try: defs()\n"
        "except ConfigurationError as e: print(e)\n"
    )
    wrong = world.environment | {"EMBED_WINDOWS": "many"}
    done = subprocess.run([sys.executable, "-c", script], env=wrong, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "EMBED_WINDOWS='many'" in done.stdout
