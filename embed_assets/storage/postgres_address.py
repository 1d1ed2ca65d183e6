"""What EMBED_TABLES names: a PostgreSQL database."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from embed_assets.errors import ConfigurationError

EXAMPLE = "postgresql://user@host/database"


@dataclass(frozen=True)
class PostgresAddress:
    """An address of libpq, without a password, and where the password is.

    Without a password here libpq looks for one in PGPASSWORD, PGPASSFILE and `~/.pgpass`.
    """

    url: str
    password: str = field(default="", repr=False)
    password_file: Path | None = None

    def __str__(self) -> str:
        """The database and its host, for messages."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", [""])[0]
        name = unquote(parts.path.strip("/"))
        return f"the database {name!r} on {host or 'this machine'}"

    def read_password(self) -> str:
        """The password; empty if libpq should look for one.

        Raises:
            ConfigurationError: its file cannot be read.
        """
        if self.password_file is None:
            return self.password
        setting = f"EMBED_TABLES_PASSWORD_FILE={self.password_file}"
        if self.password:
            raise ConfigurationError(
                "EMBED_TABLES_PASSWORD and EMBED_TABLES_PASSWORD_FILE are both set: remove one"
            )
        try:
            found = self.password_file.read_text("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or e
            raise ConfigurationError(f"{setting} cannot be read: {why}") from None
        if not found:
            raise ConfigurationError(f"{setting}: the file is empty: write the password into it")
        return found


def normal_postgres_url(text: str) -> str:
    """An address as libpq knows it: `postgresql://user@host:port/database?option=value`.

    Raises:
        ValueError: it is none, or it holds a password, which others could see.
    """
    text = text.strip()
    form = re.fullmatch(r"(postgres(?:ql)?)(\+\w+)?://(.*)", text, re.S)
    if not form or form[2]:
        raise ValueError(f"must be an address of PostgreSQL, like {EXAMPLE}")
    url = f"postgresql://{form[3]}"
    parts = urlsplit(url)
    if ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query):
        raise ValueError(
            "holds a password, which others could see: put it into EMBED_TABLES_PASSWORD, or into"
            " a file that EMBED_TABLES_PASSWORD_FILE names"
        )
    if not parts.path.strip("/"):
        raise ValueError(f"names no database, as {EXAMPLE} does")
    return url
