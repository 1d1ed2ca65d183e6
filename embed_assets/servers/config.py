"""Which music servers there are, by EMBED_SERVERS and the variables of their logins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from embed_assets.errors import ConfigurationError

KINDS = ("navidrome", "subsonic", "jellyfin", "lyrion")


@dataclass(frozen=True)
class ServerConfig:
    """A music server: a short name of ours, its kind, its address, and the login."""

    name: str
    kind: str
    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def variables(self) -> str:
        """How the variables of its login begin."""
        return variables_of(self.name)


def parse(text: str) -> tuple[ServerConfig, ...]:
    """The servers of `name=kind+url,...`, without logins.

    Raises:
        ValueError: it does not have this form; says what is wrong.
    """
    found: dict[str, ServerConfig] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        form = re.fullmatch(r"([^=]*)=([a-z]+)\+(https?://.+)", part, re.S)
        if not form:
            raise ValueError(
                f"{_hidden(part)!r} is not NAME=KIND+URL, as in nd=navidrome+http://host:4533"
            )
        name, kind, url = form.groups()
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
            raise ValueError(f"the name {name!r} may have a-z, 0-9, - and _ only")
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        if variables_of(name) in map(variables_of, found):
            raise ValueError(f"two servers are called {name!r}")
        found[name] = ServerConfig(name, kind, *_address(name, url))
    return tuple(found.values())


def with_login(server: ServerConfig, variables: Mapping[str, str | None]) -> ServerConfig:
    """The server with the login that the variables have: `EMBED_SERVER_<NAME>_USER` and so on.

    Each may be in a file that `..._FILE` names.

    Raises:
        ConfigurationError: such a file cannot be read.
    """
    return ServerConfig(
        server.name,
        server.kind,
        server.url,
        _value(variables, f"{server.variables}_USER") or server.user,
        _value(variables, f"{server.variables}_PASSWORD"),
        _value(variables, f"{server.variables}_TOKEN"),
    )


def variables_of(name: str) -> str:
    """How the variables of a server's login begin."""
    return f"EMBED_SERVER_{name.upper().replace('-', '_')}"


def _address(name: str, url: str) -> tuple[str, str]:
    """The address without a login, and the user that it names."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise ValueError(f"the address of {name}: {e}") from None
    if not host or parts.query or parts.fragment:
        raise ValueError(f"the address of {name} is not like http://host:4533")
    if parts.password is not None:
        raise ValueError(
            f"the address of {name} holds a password, which others could see: put it into"
            f" {variables_of(name)}_PASSWORD"
        )
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    address = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
    return address, unquote(parts.username or "")


def _value(variables: Mapping[str, str | None], name: str) -> str:
    if value := variables.get(name):
        return value
    if file := variables.get(f"{name}_FILE"):
        try:
            return Path(file).expanduser().read_text("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or e
            raise ConfigurationError(f"{name}_FILE={file} cannot be read: {why}") from None
    return ""


def _hidden(part: str) -> str:
    return re.sub(r"//.*@", "//***@", part)
