"""Random changes of a library and random kills of what works for it, by seed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import mutagen
import psutil

from embed_assets_tests.assertions import SOUNDS, SUFFIXES, by_role
from embed_assets_tests.live_project import LiveProject

NAMES = (
    b"Nina Simone/Pastel Blues",
    b"Nina Simone",
    b"Nina Simone/Pastel Blues/CD 2",
    "Björk/Début...".encode(),
    b"caf\xe9/\xff",
    b"100%41",
    b" lead/trail ",
    b"new\nline/tab\t",
    b"q'uo\"te\\ {x} $y",
    b"Various/A",
    b"Various/B",
    b"Various",
    "日本/音楽".encode(),
    b"",
)
"""Folders that albums come to, nested and in any bytes; `b""` is the library itself."""

BAD = (b"", b"this is no music at all\n" * 50, b"\x89PNG\r\n" + b"x" * 900, b"\0" * 5000)

IMPORT, MOST_TRACKS = 24, 250
"""Albums of an import, and how many tracks there may be for one more."""

KILLS = (
    ("step", 4),
    ("forkserver", 2),
    ("pool worker", 4),
    ("pool forkserver", 2),
    ("run worker", 3),
    ("run forkserver", 1),
    ("code server", 2),
    ("daemon", 2),
    ("webserver", 1),
    ("dev", 1),
    ("up", 2),
    ("sync", 3),
    ("power", 1),
)
"""What is killed, and how often in proportion."""


class Chaos:
    """Random changes and kills, by seed."""

    def __init__(self, world: LiveProject, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.changes: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.sync: subprocess.Popen[bytes] | None = None
        self.number = 0
        self.seconds_to_follow: float | None = None

    # Changes

    def change(self) -> None:
        """One change of the library; where there is nothing to change, an album comes."""
        kinds = {
            "add album": (self.add_album, 4),
            "import": (self.import_albums, 1),
            "add track": (self.add_track, 3),
            "remove track": (self.remove_track, 3),
            "replace track": (self.replace, 3),
            "retag": (self.retag, 3),
            "edit in place": (self.edit_in_place, 3),
            "rename track": (self.rename, 3),
            "move track": (self.move_track, 3),
            "copy track": (self.copy, 3),
            "swap tracks": (self.swap, 2),
            "move folder": (self.move_folder, 3),
            "merge folders": (self.merge, 1),
            "remove folder": (self.remove_folder, 2),
            "there and back": (self.there_and_back, 2),
            "bad file": (self.spoil, 2),
            "mend file": (self.mend, 2),
        }
        weights = [w for _, w in kinds.values()]
        (kind,) = self.random.choices(list(kinds), weights)
        done = kinds[kind][0]()
        if done is False:
            kind = "add album"
            self.add_album()
        self.changes[kind] += 1

    def add_album(self) -> None:
        folder = self.random.choice(NAMES)
        for _ in range(self.random.randint(1, 5)):
            self.put(self.new_name(folder))

    def import_albums(self) -> bool | None:
        """So many at once that they go the way of an import, with a process a step."""
        if len(self.world.tracks) > MOST_TRACKS:
            return False
        number = self.next()
        for i in range(IMPORT):
            self.put(b"Import/%d/%d/1.ogg" % (number, i))
        return None

    def add_track(self) -> None:
        self.put(self.new_name(self.random.choice(NAMES)))

    def remove_track(self) -> bool | None:
        if len(self.moving()) < 2:
            return False
        self.world.remove(self.track())
        return None

    def replace(self) -> None:
        self.put(self.track())

    def retag(self) -> None:
        tags = mutagen.File(os.fsdecode(self.world.full(self.track())), easy=True)
        tags["title"] = f"Title {self.random.random()}"
        tags["artist"] = "Jürgen"
        tags.save()

    def edit_in_place(self) -> None:
        """Other audio in the same inode, written in pieces, as some editors and shares do."""
        path = self.track()
        seed = self.random.randrange(SOUNDS)
        source = self.world.put(b"Making/x" + os.path.splitext(path)[1], seed)
        with open(self.world.full(source), "rb") as file:
            content = file.read()
        self.world.remove(b"Making")
        with open(self.world.full(path), "r+b") as file:
            file.truncate(0)
            for i in range(0, len(content), len(content) // 5 + 1):
                file.write(content[i : i + len(content) // 5 + 1])
                file.flush()
                time.sleep(self.random.choice((0.0, 0.0, 0.15)))
        self.world.tracks[path] = seed

    def rename(self) -> None:
        path = self.track()
        self.world.move(path, self.new_name(os.path.dirname(path), os.path.splitext(path)[1]))

    def move_track(self) -> None:
        path = self.track()
        self.world.move(path, self.new_name(self.random.choice(NAMES), os.path.splitext(path)[1]))

    def copy(self) -> None:
        path = self.track()
        suffix = os.path.splitext(path)[1]
        copy = self.new_name(self.random.choice((*NAMES, os.path.dirname(path))), suffix)
        os.makedirs(os.path.dirname(self.world.full(copy)), exist_ok=True)
        shutil.copy2(self.world.full(path), self.world.full(copy))
        self.world.tracks[copy] = self.world.tracks[path]

    def swap(self) -> bool | None:
        one = self.track()
        others = [p for p in self.world.tracks if p != one and p[-4:] == one[-4:]]
        if not others:
            return False
        two = self.random.choice(sorted(others))
        aside = os.path.dirname(one) + b"/swap.tmp" if b"/" in one else b"swap.tmp"
        self.world.move(one, aside)
        self.world.move(two, one)
        self.world.move(aside, two)
        return None

    def move_folder(self) -> bool | None:
        folder = self.folder()
        if folder is None:
            return False
        self.world.move(folder, b"Moved/%d" % self.next())
        return None

    def merge(self) -> bool | None:
        folder, target = self.folder(), self.folder()
        if folder is None or target is None or (folder + b"/").startswith(target + b"/"):
            return False
        for path in [p for p in self.world.tracks if os.path.dirname(p) == folder]:
            self.world.move(path, target + b"/" + os.path.basename(path))
        return None

    def remove_folder(self) -> bool | None:
        folder = self.folder()
        if folder is None or len(self.moving()) < 6:
            return False
        self.world.remove(folder)
        return None

    def there_and_back(self) -> bool | None:
        folder = self.folder()
        if folder is None:
            return False
        away = b"Away %d" % self.next()
        self.world.move(folder, away)
        time.sleep(self.random.choice((0.1, 1.0, 4.0, 8.0)))
        self.world.move(away, folder)
        return None

    def spoil(self) -> None:
        path = self.random.choice((self.track(), self.new_name(self.random.choice(NAMES))))
        self.world.put_bad(path, self.random.choice((*BAD, self.random.randbytes(4000))))

    def mend(self) -> bool | None:
        if not self.world.bad:
            return False
        path = self.random.choice(sorted(self.world.bad))
        self.put(path) if self.random.random() < 0.6 else self.world.remove(path)
        return None

    def put(self, path: bytes) -> None:
        tags = {"title": f"Song {self.next()}"} if self.random.random() < 0.5 else {}
        self.world.put(path, self.random.randrange(SOUNDS), **tags)

    def moving(self) -> list[bytes]:
        """Tracks that may go; those below Anchor stay where they are."""
        return sorted(p for p in self.world.tracks if p[:7] != b"Anchor/")

    def track(self) -> bytes:
        return self.random.choice(self.moving())

    def folder(self) -> bytes | None:
        """A folder with tracks, never the library itself, nor what stays as it is."""
        folders = {os.path.dirname(p) for p in self.moving()} - {b""}
        return self.random.choice(sorted(folders)) if folders else None

    def new_name(self, folder: bytes, suffix: bytes | None = None) -> bytes:
        name = self.random.choice((b"%d", b"%d \xff", "%d ö".encode(), b"%d...", b"%d\n"))
        ending = suffix or os.fsencode(self.random.choice(SUFFIXES))
        return (folder + b"/" if folder else b"") + name % self.next() + ending

    def next(self) -> int:
        self.number += 1
        return self.number

    # Kills

    def kill(self) -> None:
        """Kill something that is there; what a person would start again is started again."""
        weights = dict(KILLS)
        (kind,) = self.random.choices(list(weights), list(weights.values()))
        if kind == "sync":
            self.start_sync()
        deadline = time.monotonic() + 3
        while kind not in (roles := by_role(self.world)) and kind != "power":
            # Steps and what they start live for seconds only.
            if time.monotonic() > deadline:
                there = sorted(weights.keys() & roles)
                (kind,) = self.random.choices(there, [weights[k] for k in there])
                break
            time.sleep(0.1)
        time.sleep(self.random.uniform(0.0, 1.0))
        if kind == "power":
            self.world.power_loss()
            self.sync = None
        else:
            victim = self.random.choice(roles[kind])
            try:
                victim.kill()
                victim.wait(5)
            except (psutil.Error, OSError):
                return
        self.kills[kind] += 1
        if self.world.process is None or self.world.process.poll() is not None:
            self.world.up()

    def start_sync(self) -> None:
        """A `sync` beside `up`, which is not waited for."""
        if self.sync is not None and self.sync.poll() is None:
            return
        with open(self.world.root / "sync.log", "ab") as log:
            self.sync = subprocess.Popen(
                [sys.executable, "-m", "embed_assets.cli", "sync"],
                env=self.world.environment,
                cwd=self.world.root,
                stdout=log,
                stderr=log,
            )

    def storm(self, kills: int) -> None:
        """Change in bursts and pauses, and kill so often, now and then twice in a row."""
        while self.kills.total() < kills:
            for _ in range(self.random.choice((1, 1, 1, 2, 3, 8))):
                self.change()
            if self.random.random() < 0.08:
                self.start_sync()
            time.sleep(self.random.choice((0.1, 0.3, 0.8, 1.5, 4.0)))
            for _ in range(self.random.choice((0, 1, 1, 2))):
                self.kill()
