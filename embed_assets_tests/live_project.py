"""A library, a home and real processes: what the journeys and the stress are made of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil

from embed_assets.defs.instance import open_instance
from embed_assets.identity import display_path
from embed_assets.index.collection import ALIAS, load
from embed_assets.index.connection import connect
from embed_assets.index.milvus_compat import PAGE
from embed_assets.library.walk import walk
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets_tests import command_server
from embed_assets_tests.assertions import SECONDS, reference, versions_in_dagster
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.privileges import give_up_roots
from embed_assets_tests.synth import write_track

AFTER_UP = 60.0
"""Seconds to wait for what runs that `up` left may still do, once it has ended."""


@dataclass
class LiveProject:
    """A music folder and an EMBED_HOME of a test.

    `tracks` says which audio each good file should be, `bad` which files should be rejected, and
    `sounds` which audio there ever was, as a seed and a suffix. What permissions forbid, the
    commands of a `humble` one may not do, though root runs the tests.
    """

    root: Path
    settings: dict[str, str] = field(default_factory=dict)
    tracks: dict[bytes, int] = field(default_factory=dict)
    bad: set[bytes] = field(default_factory=set)
    sounds: set[tuple[int, str]] = field(default_factory=set)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    humble: bool = False

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "EMBED_LIBRARY": str(self.library),
            "EMBED_HOME": str(self.home),
            "EMBED_ENCODER": "acoustic",
            "EMBED_SETTLE_SECONDS": "1",
        }
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("EMBED_", "DAGSTER_"))}
        return outside | mine | self.settings

    def project(self) -> Project:
        """The project's objects, in this process."""
        return Project.of(self.made_settings())

    def made_settings(self) -> Settings:
        """What the processes of this world read from their environment."""
        env = self.environment.items()
        return Settings(_env_file=None, **{k[6:].lower(): v for k, v in env if k[:6] == "EMBED_"})

    # The library

    def put(self, path: str | bytes, seed: int, **tags: str) -> bytes:
        """Write a track of its own sound at a path of the library."""
        raw = os.fsencode(path)
        making = self.root / f"making{os.fsdecode(os.path.splitext(raw)[1])}"
        write_track(making, seconds=SECONDS, seed=seed, tags=tags or None)
        self._place(making, raw)
        self.tracks[raw] = seed
        self.sounds.add((seed, making.suffix))
        return raw

    def put_bad(self, path: str | bytes, content: bytes) -> bytes:
        """Write a file that no decoder can read."""
        raw = os.fsencode(path)
        making = self.root / "making"
        making.write_bytes(content)
        self._place(making, raw)
        self.bad.add(raw)
        return raw

    def _place(self, making: Path, raw: bytes) -> None:
        full = self.full(raw)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        os.rename(making, full)
        self.tracks.pop(raw, None)
        self.bad.discard(raw)

    def full(self, path: str | bytes) -> bytes:
        """The bytes that open a path of the library."""
        return os.path.join(os.fsencode(self.library), os.fsencode(path))

    def album(self, name: str | bytes, *seeds: int) -> list[bytes]:
        """A folder of tracks, one after the other, as somebody copies an album."""
        raw = os.fsencode(name)
        return [self.put(raw + b"/%02d.ogg" % i, seed) for i, seed in enumerate(seeds, 1)]

    def move(self, old: str | bytes, new: str | bytes) -> None:
        """Rename a file or a folder."""
        a, b = os.fsencode(old), os.fsencode(new)
        base = os.fsencode(self.library)
        os.makedirs(os.path.dirname(os.path.join(base, b)), exist_ok=True)
        os.rename(os.path.join(base, a), os.path.join(base, b))
        self.tracks.pop(b, None)
        self.bad.discard(b)
        for path in [p for p in self.tracks if p == a or p.startswith(a + b"/")]:
            self.tracks[b + path[len(a) :]] = self.tracks.pop(path)
        for path in [p for p in self.bad if p == a or p.startswith(a + b"/")]:
            self.bad.remove(path)
            self.bad.add(b + path[len(a) :])

    def remove(self, name: str | bytes) -> None:
        """Delete a file or a folder."""
        raw = os.fsencode(name)
        full = os.path.join(os.fsencode(self.library), raw)
        shutil.rmtree(full) if os.path.isdir(full) else os.unlink(full)
        stays = [p for p in (*self.tracks, *self.bad) if p != raw and not p.startswith(raw + b"/")]
        self.tracks = {p: self.tracks[p] for p in stays if p in self.tracks}
        self.bad.intersection_update(stays)

    # Commands and processes

    def run(
        self, *arguments: str, timeout: float = PATIENCE, program: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `embed-assets` to its end; as a `program` its processes are among `processes()`."""
        # Rights and libraries are settled when a program starts, not when it forks. A server has
        # `stats.so` preloaded, which reads its settings at each call, as the others do not.
        at_start = {name for name in self.settings if name.startswith("LD_")}
        if "STATS_UNDER" in self.settings:
            at_start.remove("LD_PRELOAD")
        if not (program or self.humble or at_start):
            return command_server.run(arguments, self.environment, self.root, timeout)
        command = [sys.executable, "-m", "embed_assets.cli", *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=give_up_roots if self.humble else None,
        )

    def sync(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """`sync --json`, with the exit code that is expected."""
        done = self.run("sync", "--json", *arguments)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def up(self) -> None:
        """Start `up` and wait until its UI answers."""
        if not self.port:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.port = s.getsockname()[1]
        command = [sys.executable, "-m", "embed_assets.cli", "up", "--port", str(self.port)]
        log = open(self.root / "up.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.root,
            stdout=log,
            stderr=log,
            preexec_fn=give_up_roots if self.humble else None,
        )
        self.until(self.answers, "the UI answers")

    def printed(self) -> str:
        """What `up` has printed."""
        return (self.root / "up.log").read_text()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=60):
                return True
        except OSError:
            return False

    def down(self) -> int:
        """Stop `up` as Ctrl-C does; returns its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def processes(self) -> list[psutil.Process]:
        """Every process that works for this home."""
        found = []
        for p in psutil.process_iter():
            try:
                if p.pid != os.getpid() and p.environ().get("EMBED_HOME") == str(self.home):
                    found.append(p)
            except (psutil.Error, OSError):
                continue
        return found

    def power_loss(self) -> None:
        """Kill everything at once, as a power loss does."""
        while victims := self.processes():
            for p in victims:
                try:
                    p.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(victims, timeout=5)
            if self.process is not None:
                self.process.wait()
        self.process = None

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask the webserver, as the UI does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body = json.load(answer)
        assert "errors" not in body, body
        return body["data"]

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The Dagster instance of this home."""
        with open_instance(self.made_settings()) as instance:
            yield instance

    # What must be so

    def until(self, question: Any, what: str, seconds: float = PATIENCE) -> None:
        """Wait until something is so; not for long after `up` has ended."""
        deadline = time.monotonic() + seconds
        while True:
            answer = question()
            if answer:
                return
            if self.process is not None and self.process.poll() is not None:
                deadline = min(deadline, time.monotonic() + AFTER_UP)
            if time.monotonic() > deadline:
                logs = [p for p in (self.root / "up.log", self.home / "dagster.log") if p.exists()]
                tail = "\n".join(p.read_text(errors="replace")[-3000:] for p in logs)
                raise AssertionError(f"not after {seconds:.0f} s: {what}; last: {answer}\n{tail}")
            time.sleep(0.3)

    def rows(self) -> dict[str, tuple[str, np.ndarray]]:
        """The index: path -> (audio hash, vector); fails if a path has two rows."""
        with connect(self.project().uri, wait_seconds=PATIENCE) as client:
            if not client.has_collection(ALIAS):
                return {}
            load(client, ALIAS)
            rows = client.query(
                ALIAS,
                'track_id != ""',
                ["path", "audio_hash", "vector"],
                limit=PAGE,
                consistency_level="Strong",
            )
        paths = [r["path"] for r in rows]
        assert len(paths) == len(set(paths)), "a track has two rows"
        return {r["path"]: (r["audio_hash"], np.asarray(r["vector"])) for r in rows}

    def indexed(self) -> dict[str, str]:
        """Path -> audio hash of the rows, by the tables' word (cheap; for waiting)."""
        spec = self.project().spec()
        with self.project().tables.connect() as db:
            return {
                display_path(p): h
                for p, h in db.execute(
                    "SELECT t.path, t.audio_hash FROM tracks t JOIN indexed i"
                    " ON i.folder_id = t.folder_id AND i.collection_key = ? JOIN folders f"
                    " ON f.folder_id = t.folder_id AND f.digest IS NOT NULL",
                    (spec.collection_key(self.project().uri),),
                )
            }

    def in_step(self) -> bool:
        """Whether Dagster's record says that every folder is indexed as it is now."""
        from embed_assets.defs import state
        from embed_assets.defs.partitions import key_of
        from embed_assets.index.folders import version_of, written_versions

        project = self.project()
        spec = project.spec()
        digests = {f.path: f.digest for f in walk(self.library) if f.digest}
        written = written_versions(project.tables, spec, project.uri)
        if any(written.get(path) != version_of(digests[path], spec) for path in digests):
            return False  # Dagster need not be asked, which costs a processor more
        want = {key_of(path): version_of(digests[path], spec) for path in digests}
        with self.instance() as instance:
            have = versions_in_dagster(instance)
            known = state.known_keys(instance)
            live = state.live_runs(instance)
        return not live and {k: have.get(k) for k in known} == want

    def assert_index_is_library(self) -> None:
        """Index == library: one row a track, each with the vector of its own audio."""
        rows = self.rows()
        want = {display_path(p): seed for p, seed in self.tracks.items()}
        assert sorted(rows) == sorted(want)
        for path, seed in want.items():
            cosine = float(rows[path][1] @ reference(seed, os.path.splitext(path)[1]))
            assert cosine > 0.9999, f"{path}: the vector of another audio ({cosine:.4f})"

    def embedded_runs(self) -> dict[str, str]:
        """Audio hash -> id of the run that embedded it."""
        with self.project().tables.connect() as db:
            return dict(db.execute("SELECT audio_hash, run_id FROM embeddings"))
