"""Where `serve` listens, and who may ask it: addresses and tokens, parsed and checked."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from embed_assets.errors import ConfigurationError

LARGEST_TOKEN_FILE = 4_096
"""Bytes; what is longer is no token but another file."""

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


@dataclass(frozen=True)
class Address:
    """A host and a port to listen at; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Address:
        """An address from `host:port`.

        Raises ValueError.
        """
        host, separator, port = text.strip().rpartition(":")
        if not separator or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("must be host:port, for example 127.0.0.1:8000")
        if int(port) > 65_535:
            raise ValueError("the port must be a number from 0 to 65535")
        if _HOST.fullmatch(host):
            return cls(host, int(port))
        if "/" in host or not re.search(r"[:\[]", host):
            raise ValueError("must be host:port, for example 127.0.0.1:8000")
        try:
            if not (host.startswith("[") and host.endswith("]")):
                raise ValueError(host)
            return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError("an IPv6 address must be in brackets, as in [::1]:8000") from None


DEFAULT_ADDRESS = Address("127.0.0.1", 8000)


@dataclass(frozen=True)
class Tokens:
    """What clients must send; if both are empty, they need no token."""

    full: str = field(default="", repr=False)
    """May ask and act."""
    read: str = field(default="", repr=False)
    """May only ask queries."""

    def __bool__(self) -> bool:
        return bool(self.full or self.read)


def read_tokens(token: str, token_file: Path | None, read: str, read_file: Path | None) -> Tokens:
    """The tokens, each given as text or as a file.

    Raises:
        ConfigurationError: a token is given twice, its file cannot be read, or it cannot be sent in
            an HTTP header. The message never contains the token.
    """
    tokens = Tokens(
        _token("EMBED_HTTP_TOKEN", token, token_file),
        _token("EMBED_HTTP_READ_TOKEN", read, read_file),
    )
    if tokens.full and tokens.full == tokens.read:
        raise ConfigurationError(
            "EMBED_HTTP_READ_TOKEN is the same as EMBED_HTTP_TOKEN: choose another one for clients"
            " that may only ask queries"
        )
    return tokens


def require_token(address: Address, tokens: Tokens, setting: str) -> None:
    """Refuse an address that other machines reach if they need no token for it.

    `setting`: the option or setting that the address comes from, as the user wrote it.

    Raises:
        ConfigurationError: there is no token.
    """
    if not tokens and not address.is_loopback:
        raise ConfigurationError(
            f"{setting}: without a token only this machine may ask. Set EMBED_HTTP_TOKEN (or, for"
            f" queries only, EMBED_HTTP_READ_TOKEN), or use {DEFAULT_ADDRESS.host}"
        )


def _token(setting: str, value: str, file: Path | None) -> str:
    if file is not None:
        if value:
            raise ConfigurationError(
                f"{setting} and {setting}_FILE are both set: remove one of them"
            )
        value, setting = _content(f"{setting}_FILE={file}", file), f"{setting}_FILE={file}"
        if not value:
            raise ConfigurationError(f"{setting}: the file is empty: write the token into it")
    if value and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ConfigurationError(
            f"{setting} cannot be sent in a header: use letters, digits and ASCII punctuation, on"
            " one line, for example what `openssl rand -hex 32` prints"
        )
    return value


def _content(setting: str, file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            data = opened.read(LARGEST_TOKEN_FILE + 1)
    except OSError as e:
        raise ConfigurationError(
            f"{setting} cannot be read ({e.strerror}): check the path and its permissions"
        ) from e
    if len(data) > LARGEST_TOKEN_FILE:
        raise ConfigurationError(
            f"{setting} has more than {LARGEST_TOKEN_FILE} bytes: is it the file with the token?"
        )
    # Editors and `echo` end a line; a token that is not ASCII is refused anyway.
    return data.decode("latin-1").strip("\r\n \t")
