"""What `up` prints, and the file that Dagster prints into."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.utils import make_new_run_id

from embed_assets.defs.activity import FolderOutcome, Tick
from embed_assets.defs.evaluation import run_tags
from embed_assets.identity import PartitionKey
from embed_assets.operations import dagster_output
from embed_assets.operations.dagster_output import DagsterOutput, bound, tail
from embed_assets.operations.library_log import LibraryLog, folder_lines
from embed_assets.operations.up_log import UpLog
from embed_assets.planning.values import RunRequest
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets_tests.patience import PATIENCE

PRINTED = b"""\
\x1b[32m2026-11-29 01:00:22 +0000\x1b[0m - dagster - \x1b[34mINFO\x1b[0m - Launching services...
2026-11-29 01:00:49 +0000 - dagster.daemon.EventLogConsumerDaemon - WARNING - No cursor for event \
type DagsterEventType.RUN_FAILURE, ignoring older events
\x1b[32m2026-11-29 01:02:18 +0000\x1b[0m - dagster.code_server - \x1b[31mERROR\x1b[0m - \
ValueError: this is wrong

Stack Trace:
  File "definitions.py", line 1, in <module>
2026-11-29 01:01:29 +0000 - dagster.daemon.SensorDaemon - ERROR - Sensor tick caught an error
2026-11-29 01:00:49 +0000 - dagster.daemon.MonitoringDaemon - WARNING - 2 slots are held
2026-11-29 01:01:49 +0000 - dagster.daemon.MonitoringDaemon - WARNING - 3 slots are held
"""

STALLED = """
from pathlib import Path
from embed_assets_tests.test_up_log import up_log
with up_log(Path("."), verbose=True) as log:
    log.info("x" * 1_000_000)
print("left")
"""


@contextmanager
def up_log(home, verbose):
    settings = Settings(_env_file=None, home=home, library=home, encoder="acoustic")
    with dg.DagsterInstance.ephemeral() as instance:
        library = LibraryLog(instance, Project.of(settings))
        with UpLog(library, home / "dagster.log", verbose=verbose) as log:
            yield log


def test_of_what_dagster_prints_only_news_that_need_a_person_are_shown(tmp_path):
    output = DagsterOutput(tmp_path / "dagster.log")
    assert output.new() == b""
    output.path.write_bytes(PRINTED + b"half a li")
    assert list(output.warnings(output.new())) == ["ValueError: this is wrong", "2 slots are held"]
    assert output.new() == b""
    with open(output.path, "ab") as file:
        file.write(b"ne\n")
    assert output.new() == b"half a line\n"
    assert tail(output.path, len(PRINTED)) == ["half a line"]


def test_the_file_that_dagster_prints_into_stays_short(tmp_path, monkeypatch):
    monkeypatch.setattr(dagster_output, "LOG_BYTES", 1000)
    output = DagsterOutput(tmp_path / "dagster.log")
    with open(output.path, "ab", buffering=0) as dagster:
        for number in range(100):
            dagster.write(b"%0100d\n" % number)
            bound(output.path)
            assert output.path.stat().st_size <= 1000
            output.new()
        dagster.write(b"the last line\n")
    assert output.new() == b"the last line\n"
    assert 1000 < (tmp_path / "dagster.log.1").stat().st_size < 2000


def test_verbose_prints_all_that_dagster_prints(tmp_path, capfd):
    log = tmp_path / "dagster.log"
    log.write_bytes(b"of the last time\n")
    with up_log(tmp_path, verbose=True) as up:
        up.stop_watching()
        up.info("Dagster UI: here")
        with open(log, "ab") as dagster:
            dagster.write(PRINTED)
    printed = capfd.readouterr().err
    first, _, rest = printed.partition("\n")
    assert first.endswith(" Dagster UI: here")
    assert rest.encode() == PRINTED


def test_a_terminal_that_takes_nothing_holds_up_nothing(tmp_path):
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", STALLED],
        env=os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Its stderr is not read before it has ended.
    assert process.wait(PATIENCE) == 0
    assert process.communicate()[0] == b"left\n"


def test_a_line_a_folder_says_what_became_of_its_tracks():
    rejects = tuple((f"A/B/{n}.mp3", "corrupt") for n in range(5))
    lines = folder_lines(
        [
            FolderOutcome("A/B", read=17, embedded=12, rejected=5, rejects=rejects),
            FolderOutcome("A/C", read=1, embedded=1, words=1),
            FolderOutcome("A/D", words=2),
            FolderOutcome("A/Retagged", read=1, written=1),
            FolderOutcome("A/Gone", removed=3),
            FolderOutcome("A/As it was", rejected=1),
        ]
    )
    assert list(lines) == [
        "A/B: 12 tracks embedded, 5 rejected (0.mp3: corrupt; 1.mp3: corrupt; 2.mp3: corrupt"
        " and 2 more)",
        "A/C: 1 track embedded, 1 for `find`",
        "A/D: 2 tracks embedded for `find`",
        "A/Retagged: 1 track written to the index",
        "A/Gone: 3 removed",
    ]


def test_a_run_of_many_folders_gets_one_line():
    many = [FolderOutcome(f"A/{n}", read=2, embedded=2, rejected=n % 2) for n in range(64)]
    assert list(folder_lines(many)) == [
        "64 folders: 128 tracks embedded, 32 rejected; `embed-assets errors` says why"
    ]


class Sensor:
    """An instance in memory has no ticks: this is the last one."""

    tick = None

    def last_tick(self):
        return self.tick


@contextmanager
def library_log(home):
    settings = Settings(_env_file=None, home=home, library=home, encoder="acoustic")
    with dg.DagsterInstance.ephemeral() as instance:
        log = LibraryLog(instance, Project.of(settings))
        log.sensor = Sensor()
        yield log


def test_a_run_over_several_folders_names_them(tmp_path):
    with library_log(tmp_path) as log:
        instance = log.instance
        added = ["The Shakers/Drums", "Nina/New", "A/1", "A/2", "A/3"]
        for n in (1, 2, 5):
            request = RunRequest(tuple(map(PartitionKey, added[:n])), is_import=False)
            tags = run_tags(request)
            instance.add_run(dg.DagsterRun("bring_in_step", make_new_run_id(), tags=tags))
        assert [re.sub(r" \(run \w+\)", "", line) for line in log.news()] == [
            "to do: The Shakers/Drums",
            "to do: 2 folders: Nina/New, The Shakers/Drums",
            "to do: 5 folders: A/1, A/2, A/3 and 2 more",
        ]


def test_a_scan_that_began_before_a_run_ended_does_not_say_how_things_stand(tmp_path):
    with library_log(tmp_path) as log:
        instance, sensor = log.instance, log.sensor
        run = instance.add_run(dg.DagsterRun("library_map", make_new_run_id()))
        assert list(log.news()) == []
        during = time.time()
        instance.report_run_canceled(run)
        sensor.tick = Tick(during, summary="7 folders, 7 in runs")
        (ended,) = log.news()
        assert "was canceled" in ended
        sensor.tick = Tick(time.time(), summary="7 folders, 7 in step")
        assert list(log.news()) == ["7 folders, 7 in step"]


def test_a_line_of_another_day_has_its_date(tmp_path, capfd):
    with up_log(tmp_path, verbose=False) as up:
        up.stop_watching()
        up.day = time.localtime(0)[:3]
        up.info("first")
        up.info("second")
    first, second = capfd.readouterr().err.splitlines()
    assert first == time.strftime("%Y-%m-%d ") + first.split(" ", 1)[1]
    assert second.split(" ", 1)[1] == "second"
