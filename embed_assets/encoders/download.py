"""Downloads a large file into the hub's cache, and resumes where an earlier process stopped.

huggingface_hub resumes after a broken connection within one call, but since 1.x a new call starts
from the beginning. Here the part that a killed process had downloaded is kept, and the result is
verified.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

SHA256 = re.compile(r"[0-9a-f]{64}")
"""The hub's name of a large file: the digest of its content."""


class Damaged(Exception):
    """The downloaded file does not match the hub's digest."""


def into_cache(model: str, name: str, cache: Path, patience: float) -> None:
    """Download the file `name` of `model`, so that `snapshot_download` finds it; shows progress.

    `patience`: seconds to wait for the first answer. Files that the hub does not store as large
    files are left to `snapshot_download`. Waits for another process that downloads the same file.

    Raises:
        Damaged: the digest differs; the downloaded part is deleted.
        HfHubHTTPError, httpx.HTTPError, OSError: as huggingface_hub.
    """
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    found = get_hf_file_metadata(hf_hub_url(model, name), timeout=patience)
    if not found.etag or not SHA256.fullmatch(found.etag) or not found.size:
        return
    folder = repo_folder_name(repo_id=model, repo_type="model")
    blobs = cache / folder / "blobs"
    blob, partial = blobs / found.etag, blobs / f"{found.etag}.part"
    if blob.exists():
        return
    lock = _lock_of(partial, cache)
    for made in (blobs, lock.parent):
        made.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.exists():
            return
        _fetch(hf_hub_url(model, name), found.location, partial, found.size, name)
        if file_sha256(partial) != found.etag:
            partial.unlink()
            raise Damaged(f"the checksum of {name} is wrong")
        partial.replace(blob)


def stopped(cache: Path) -> list[Path]:
    """Incomplete downloads that no process is continuing."""
    from filelock import FileLock, Timeout

    found = []
    for partial in sorted(cache.glob("models--*/blobs/*.part")):
        with suppress(Timeout, OSError), FileLock(_lock_of(partial, cache), timeout=0):
            found.append(partial)
    return found


def _lock_of(partial: Path, cache: Path) -> Path:
    return cache / ".locks" / partial.parent.parent.name / f"{partial.name}.lock"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read through, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, location: str, partial: Path, size: int, name: str) -> None:
    import httpx
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    if httpx.URL(location).host != httpx.URL(url).host:
        # The storage behind the hub must not get the user's token.
        headers.pop("authorization", None)
    if partial.exists() and partial.stat().st_size > size:
        partial.unlink()
    with partial.open("r+b" if partial.exists() else "w+b") as file:
        there = file.seek(0, 2)
        http_get(
            location,
            file,
            resume_size=there,
            headers=headers,
            expected_size=size,
            displayed_filename=name,
        )
