"""Builds and parses partition keys, without Dagster: a partition is a music folder.

A key is the readable path of a folder relative to the library. Bytes of names that Dagster forbids
(`...`, control characters) or that are not printable text are written as `%XX`; a `%` before two
hex digits is escaped too. The library's root is `.`. The encoding is reversible, and each folder
has exactly one key.
"""

from __future__ import annotations

import re

from embed_assets.errors import ConfigurationError
from embed_assets.identity import PartitionKey

ROOT = "."

MOST_PARTITIONS = 100_000
"""More than that slow down the pages of Dagster's UI; see docs/decisions/partitions.md."""
_ESCAPE = re.compile(r"%([0-9A-F]{2})")
_AMBIGUOUS = re.compile(r"%(?=[0-9A-F]{2})")
_PLAIN = re.compile(r"[!-$&-~][ !-$&-~]*(?<! )")
_THIRD_DOT = re.compile(r"(?<=\.\.)\.")


def key_of(path: bytes) -> PartitionKey:
    """Partition key of a library-relative path (raw bytes, `/` between parts, root `b""`)."""
    if not path:
        return PartitionKey(ROOT)
    text = path.decode("utf-8", "surrogateescape")
    if _PLAIN.fullmatch(text) and "..." not in text:
        return PartitionKey(text)
    text = _AMBIGUOUS.sub("%25", text)
    text = "".join(c if c == " " or c.isprintable() else _escaped(c) for c in text)
    text = _THIRD_DOT.sub("%2E", text)
    if text[:1] == " ":
        text = "%20" + text[1:]
    if text[-1:] == " ":
        text = text[:-1] + "%20"
    return PartitionKey(text)


def path_of(key: str) -> bytes:
    """Library-relative path of a partition key.

    Raises:
        ConfigurationError: no folder has this key, e.g. because it was typed by hand.
    """
    if key == ROOT:
        return b""
    raw = key.encode("utf-8", "surrogateescape")
    path = re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), raw)
    parts = path.split(b"/")
    if b"\0" in path or any(p in (b"", b".", b"..") for p in parts) or key_of(path) != key:
        raise ConfigurationError(
            f"{key!r} is no key of a music folder: keys are paths relative to EMBED_LIBRARY, and"
            " the sensor and `embed-assets sync` add them; delete this partition"
        )
    return path


def _escaped(char: str) -> str:
    return "".join(f"%{b:02X}" for b in char.encode("utf-8", "surrogateescape"))


def about_many(folders: int) -> str:
    """What to know about this many folders, for people; empty for fewer than 80,000."""
    if folders < 0.8 * MOST_PARTITIONS:
        return ""
    return (
        f"Dagster's UI becomes slow above {MOST_PARTITIONS:,} folders, and each folder is a"
        " partition: docs/decisions/partitions.md says what happens then"
    )
