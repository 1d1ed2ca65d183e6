"""What commands print and end with: exit codes, verdicts, streams of JSON, times."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from datetime import datetime

import pytest
from typer.testing import CliRunner

from embed_assets import cli
from embed_assets.cli.command_line import app
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
from embed_assets.identity import folder_id
from embed_assets.index.collection import load
from embed_assets.index.connection import connect
from embed_assets_tests.test_asking import index


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
    assert "there is no track or folder" in capsys.readouterr().err
    here.library.rmdir()
    assert exit_code(monkeypatch, "status") == 2
    assert exit_code(monkeypatch, "status", "--watch") == 2, "no terminal to redraw"
    assert exit_code(monkeypatch, "sync") == 2
    assert exit_code(monkeypatch, "doctor") == 1
    monkeypatch.setenv("EMBED_WINDOWS", "many")
    assert exit_code(monkeypatch, "status") == 2
    assert "EMBED_WINDOWS='many'" in capsys.readouterr().err


def test_what_is_not_there_and_what_cannot_be_written_end_with_1(here, monkeypatch, capsys):
    index_albums(here)
    nowhere = str(here.root / "no folder/x")
    for words, told in (
        (("promote", "nosuch"), "there is no collection nosuch"),
        (("collections", "--drop", "nosuch"), "there is no collection nosuch"),
        (("rollback",), "no other collection was served before"),
        (("retry", "01 album"), "Is it 'Album/01.ogg'?"),
        (("similar", "Album", "--m3u", f"{nowhere}.m3u"), "cannot write the playlist"),
        (("map", f"{nowhere}.html"), "cannot write"),
    ):
        assert exit_code(monkeypatch, *words) == ExitCode.FAILED, words
        assert told in capsys.readouterr().err
    assert exit_code(monkeypatch, "similar", "Album", "--m3u", "a.mp3") == ExitCode.WRONG
    here.album("New", 3)
    assert exit_code(monkeypatch, "gc") == ExitCode.FAILED
    assert "folders are new, changed or in runs" in capsys.readouterr().err
    assert exit_code(monkeypatch, "gc", "--dry-run") == ExitCode.DONE


def test_status_says_that_the_milvus_server_cannot_be_reached(here, monkeypatch, capsys):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
        monkeypatch.setenv("EMBED_MILVUS_URI", address)
        here.album("Album", 1)
        assert exit_code(monkeypatch, "status") == ExitCode.FAILED
        assert f"the Milvus server at {address} cannot be reached" in said(capsys)
        assert exit_code(monkeypatch, "status", "--json") == ExitCode.FAILED
        found = json.loads(capsys.readouterr().out)
        assert (address in found["milvus"], found["problem"]) == (True, "")


def test_status_and_errors_show_what_is_served_while_weights_are_missing(here, monkeypatch, capsys):
    index_albums(here)
    monkeypatch.setenv("EMBED_ENCODER", "muq")
    monkeypatch.setenv("EMBED_MODEL", "no/such-weights-here")
    assert exit_code(monkeypatch, "status") == ExitCode.WRONG
    shown = said(capsys)
    assert shown.startswith("WEIGHTS the weights of EMBED_ENCODER=muq are missing")
    assert "made with EMBED_ENCODER=acoustic" in shown
    assert "2 of 2 up to date" in shown
    assert "2 of 2 embedded" in shown
    assert exit_code(monkeypatch, "status", "--json") == ExitCode.WRONG
    found = json.loads(capsys.readouterr().out)
    assert (found["encoder"], found["collection"]) == ("muq", found["served"])
    assert (found["folders_to_do"], found["problem"]) == (0, "")
    assert exit_code(monkeypatch, "errors") == ExitCode.DONE
    told = capsys.readouterr()
    assert "no track rejected" in told.out
    assert "EMBED_ENCODER=muq are missing" in told.err


def test_a_folder_that_failed_elsewhere_does_not_count_while_the_library_is_away(
    here, monkeypatch, capsys
):
    index_albums(here)
    tables = here.project().tables
    for path in (b"Album", b"Never indexed"):
        tables.put_failures([(folder_id("music", path), path)], "milvus_index", "away", "run")
    here.library.rename(here.root / "moved")
    assert exit_code(monkeypatch, "status", "--json") == ExitCode.WRONG
    found = json.loads(capsys.readouterr().out)
    assert (found["folders_in_step"], found["folders_failed"]) == (2, 1)


def said(capsys) -> str:
    """What was printed, without the line breaks that the width of the terminal makes."""
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Album/clip.mp4", "video"),
        ("Album/.hidden.mp3", "is a hidden name"),
        ("Album/cover.jpg", "its extension is not one of audio files"),
        ("Album/away.mp3", "leads out of the library"),
        ("Album/gone.mp3", "are not followed"),
        ("Linked", "symbolic link"),
        ("Linked/1.mp3", "symbolic link to a folder"),
        ("Quiet/1.mp3", "Quiet holds .ndignore"),
        ("@eaDir/1.mp3", "NAS"),
    ],
)
def test_retry_says_why_a_file_is_left_out(here, monkeypatch, capsys, name, why):
    outside = here.root / "outside"
    outside.mkdir()
    (outside / "1.mp3").touch()
    album = here.library / "Album"
    for folder in ("Album", "Quiet", "@eaDir"):
        (here.library / folder).mkdir()
    for path in ("Album/clip.mp4", "Album/.hidden.mp3", "Album/cover.jpg", "Quiet/1.mp3"):
        (here.library / path).touch()
    (here.library / "Quiet/.ndignore").touch()
    (here.library / "@eaDir/1.mp3").touch()
    (album / "away.mp3").symlink_to(outside / "1.mp3")
    (album / "gone.mp3").symlink_to(outside / "none.mp3")
    (here.library / "Linked").symlink_to(outside)
    for one in (name, str(here.library / name)):
        assert exit_code(monkeypatch, "retry", one) == ExitCode.FAILED
        told = capsys.readouterr().err
        assert "is left out of the library" in told
        assert why in told
    assert exit_code(monkeypatch, "retry", "Album/new.mp3") == ExitCode.FAILED
    assert "there is no track or folder with that name" in capsys.readouterr().err


def index_albums(world) -> None:
    world.album("Album", 1)
    world.album("More", 2)
    index(world.project())


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


def test_ctrl_c_at_any_moment_prints_no_traceback(tmp_path):
    # From the first module that is imported on; the interpreter's own start is Python's.
    code = (
        "import os, signal, sys, embed_assets.cli\n"
        "name = sys.argv.pop(1)\n"
        "class Finder:\n"
        "    def find_spec(self, found, *_):\n"
        "        if found == name: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "embed_assets.cli.main()\n"
    )
    for module in ("typer", "embed_assets.settings", "embed_assets.operations.cluster_config"):
        done = subprocess.run(
            (sys.executable, "-c", code, module, "cluster-config"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "")


def test_output_onto_a_full_disk_ends_with_one_line(tmp_path):
    main = (sys.executable, "-c", "from embed_assets.cli import main; main()", "cluster-config")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(main, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "embed-assets: what it prints or reads: No space left on device; make room, or check the"
        " disk"
    ]


def test_collections_check_prints_the_verdict_and_ends_with_1_if_a_gate_fails(here):
    here.album("Album", 1, 2)
    here.sync()
    run = CliRunner().invoke
    told = run(app, ["collections", "--check", "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, found["passed"]) == (0, True)
    assert found["served"] == found["wanted"]
    told = run(app, ["collections", "--check"])
    assert f"{found['wanted']}: passed" in told.stdout
    assert "self_recall_at_1" in told.stdout

    project = here.project()
    with connect(project.uri, wait_seconds=60) as client:
        load(client, found["wanted"])
        client.delete(found["wanted"], filter='path == "Album/01.ogg"')
    told = run(app, ["collections", "--check", "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, found["passed"]) == (1, False)
    assert "folders_that_differ" in {g["name"] for g in found["gates"] if g["passed"] is False}
    told = run(app, ["collections", "--check"])
    assert told.exit_code == 1
    assert f"{found['wanted']}: FAILED" in told.stdout
    assert "WRONG, wanted 0" in told.stdout


def test_errors_say_when_in_iso_8601_too(here):
    here.put_bad("Album/empty.mp3", b"")
    here.sync()
    (row,) = json.loads(CliRunner().invoke(app, ["errors", "--json"]).stdout)
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
