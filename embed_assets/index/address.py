"""Addresses of an index: a folder of Milvus Lite, or a server and one of its databases.

An address is one string, in the form that pymilvus accepts: an absolute path that ends in `.db`, or
`http(s)://host[:port][/database]`.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

_DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def is_server(address: str) -> bool:
    """Whether a normal address is that of a server and not a Lite folder."""
    return address.startswith(("http://", "https://"))


def normal_address(text: str, database: str = "") -> str:
    """The normal form of an address that a person wrote; `database`: EMBED_MILVUS_DATABASE.

    Raises:
        ValueError: it cannot be one; says why, and what to write.
    """
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("http", "https"):
        return _server(text, scheme, database)
    if scheme or not text.endswith(".db"):
        raise ValueError("must be a path that ends in .db (Milvus Lite), or http(s)://host:port")
    if database:
        raise ValueError("Milvus Lite has only one database: leave EMBED_MILVUS_DATABASE empty")
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError as e:
        raise ValueError(str(e)) from None


def _server(text: str, scheme: str, database: str) -> str:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise ValueError(f"is not a web address ({e}): write {scheme}://host:port") from None
    if not host:
        raise ValueError(f"names no host: write {scheme}://host:port")
    if parts.username or parts.password:
        raise ValueError("contains a login, which would be visible in logs: use EMBED_MILVUS_TOKEN")
    if parts.query or parts.fragment:
        raise ValueError(f"has more than host, port and database: write {scheme}://host:port")
    named = parts.path.strip("/")
    if named and database and named != database:
        raise ValueError(f"names database {named!r}, and EMBED_MILVUS_DATABASE {database!r}")
    database = database or named
    if database and not _DATABASE.fullmatch(database):
        raise ValueError(
            f"{database!r} is not a name of a database (letters, digits and _): write"
            f" {scheme}://host:port, and put the name in EMBED_MILVUS_DATABASE"
        )
    where = f"[{host}]" if ":" in host else host
    where += f":{port}" if port is not None else ""
    return f"{scheme}://{where}" + (f"/{database}" if database else "")
