"""A disk that fails on demand: `faults.c`, preloaded into what a test starts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

DEAD = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)
"""What a dying disk, a stale NFS mount, a dead FUSE mount and a share that is away answer."""

HANGS = 0
"""The error of a call that does not come back while its rule stands."""


@dataclass(frozen=True)
class Faults:
    """Rules by which calls on files under a folder fail, in processes with its `environment`."""

    rules: Path
    environment: dict[str, str]

    def begin(self, *rules: tuple[str, int, float, Path]) -> None:
        """From now on: (open, read, write, list, stat or any; errno or HANGS; chance; prefix)."""
        beside = self.rules.with_suffix(".new")
        beside.write_text("".join(f"{o} {e} {chance:g} {p}\n" for o, e, chance, p in rules))
        beside.replace(self.rules)

    def end(self) -> None:
        """The disk is well again."""
        self.begin()

    def told(self) -> Counter[str]:
        """How many calls failed, by operation and error."""
        log = Path(f"{self.rules}.log")
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return Counter(_kind(line) for line in lines)


def compiled(source: str, library: Path) -> None:
    """Compile a C file of this folder to a library; skips where that cannot be done."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if os.uname().sysname != "Linux" or compiler is None:
        pytest.skip(f"needs Linux and a C compiler, for {source}")
    flags = ["-shared", "-fPIC", "-O1", "-o", str(library)]
    code = str(Path(__file__).with_name(source))
    made = subprocess.run([compiler, *flags, code, "-ldl"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{source} does not compile here: {made.stderr[-300:]}")


def preloaded(folder: Path, under: Path, seed: int = 0) -> Faults:
    """Compile the faults and arm them for files under a folder; skips where that cannot be done."""
    library = folder / "faults.so"
    compiled("faults.c", library)
    rules = folder / "faults"
    rules.write_text("")
    return Faults(
        rules,
        {
            "LD_PRELOAD": str(library),
            "FAULTS": str(rules),
            "FAULTS_UNDER": str(under),
            "FAULTS_SEED": str(seed),
        },
    )


def _kind(line: str) -> str:
    operation, error, _ = line.split(" ", 2)
    return f"{operation} {errno.errorcode.get(int(error), 'hangs')}"
