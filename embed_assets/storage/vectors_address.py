"""What EMBED_VECTORS names: a folder, or a bucket of an object store and a prefix in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

FORMS = (
    "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder, or the path of"
    " a folder"
)
OBJECT_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az"}
"""The beginning of an address -> what it is in its normal form."""


def normal_vectors_address(text: str) -> str:
    """The normal form of an address that a person wrote: `s3://bucket/prefix`, or a path.

    Raises:
        ValueError: it cannot be one, or holds a login; says which forms there are.
    """
    text = text.strip()
    scheme, sign, rest = text.partition("://")
    if not sign:
        path = Path(os.path.expanduser(text))
        if not path.is_absolute():
            raise ValueError(f"is a relative path, and a run has another folder: write {FORMS}")
        return str(path)
    if scheme.lower() == "file":
        return _folder(text)
    kind = OBJECT_STORES.get(scheme.lower())
    if kind is None:
        raise ValueError(f"{scheme}:// is not known here: write {FORMS}")
    if "@" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            "has more than a bucket and a prefix: logins and options are environment variables of"
            f" their own (docs/vectors.md), so that nobody sees them; write {FORMS}"
        )
    bucket, *prefix = [part for part in rest.split("/") if part] or [""]
    if not bucket:
        raise ValueError(f"names no bucket: write {FORMS}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,221}", bucket):
        raise ValueError(
            f"{bucket!r} cannot be the name of a bucket, which has at least three letters, digits,"
            f" `.`, `_` or `-`: write {FORMS}"
        )
    if any(part in (".", "..") for part in prefix):
        raise ValueError(f"has `.` or `..` in its prefix: write {FORMS}")
    return "/".join([f"{kind}://{bucket}", *prefix])


def is_folder(address: str) -> bool:
    """Whether a normal address is that of a folder."""
    return "://" not in address


def parts_of(address: str) -> tuple[str, str, str]:
    """`s3`, `gs` or `az`, the bucket, and the prefix of a normal address."""
    kind, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    return kind, bucket, prefix


def _folder(text: str) -> str:
    parts = urlsplit(text)
    path = unquote(parts.path)
    unusable = not path.startswith("/") or "\0" in path or parts.query
    if parts.netloc not in ("", "localhost") or unusable:
        raise ValueError(f"is not the address of a folder of this machine: write {FORMS}")
    return str(Path(path))
