"""A large file of the hub, into its place in the hub's cache, from where an earlier call stopped.

huggingface_hub goes on after a broken connection within one call, and since 1.x begins anew in the
next; here what a killed process had fetched is kept, and what was fetched is checked.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

SHA256 = re.compile(r"[0-9a-f]{64}")
"""What the hub calls a large file: by the digest of what is in it."""


class Damaged(Exception):
    """What came is not what the hub says that it has."""


def into_cache(model: str, name: str, cache: Path, patience: float) -> None:
    """Fetch the file `name` of `model`, so that `snapshot_download` finds it; shows progress.

    `patience`: seconds without a first answer. A file that is no large one of the hub's is left to
    `snapshot_download`. Another process that fetches the same is waited for.

    Raises:
        Damaged: another digest; what came is thrown away.
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
    """What came of files before their download was stopped, and nobody goes on with just now."""
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
        # A storage behind the hub has no business with the user's token.
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
