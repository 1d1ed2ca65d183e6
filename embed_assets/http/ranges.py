"""Parts of a file over HTTP (RFC 9110): which bytes a request is about."""

from __future__ import annotations

import os
import re
from hashlib import blake2b

from starlette.datastructures import Headers


def etag_of(info: os.stat_result) -> str:
    """Changes whenever the file may have."""
    seen = f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
    return f'"{blake2b(seen.encode(), digest_size=12).hexdigest()}"'


def wanted_range(headers: Headers, size: int, etag: str) -> tuple[int, int] | None:
    """The bytes [begin, end) that a request wants; None: all of them.

    Several ranges at once, other units and what cannot be read are answered with all bytes, as a
    server may. A range of an older state of the file (`If-Range`) as well.

    Raises:
        ValueError: the file has no such bytes.
    """
    found = re.fullmatch(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", headers.get("range", ""))
    if found is None or found[0].strip().endswith("=-"):
        return None
    if headers.get("if-range", etag) != etag:
        return None
    first, last = found[1], found[2]
    if not first:
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return None  # It is no range.
    if begin >= end:
        raise ValueError("no such bytes")
    return begin, end
