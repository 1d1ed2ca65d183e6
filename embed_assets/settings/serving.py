"""Settings of `serve`: where it listens, its tokens, and the music servers that it knows."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PrivateAttr, field_validator

from embed_assets.access import Address, Tokens, read_tokens, require_token
from embed_assets.servers.config import ServerConfig, parse, with_login
from embed_assets.settings.area import AbsolutePath, Area
from embed_assets.settings.variables import logins


class ServingSettings(Area):
    """Address and tokens of `serve`, and the music servers with their logins."""

    http: str = Field(
        "",
        description="`host:port` at which `embed-assets up` also answers queries over HTTP, e.g."
        " `127.0.0.1:8000`; `embed-assets serve` uses it too. Empty: `up` does not.",
    )
    http_token: str = Field(
        "",
        description="Token that clients of `embed-assets serve` must send. Required to serve on any"
        " address but loopback.",
        repr=False,
    )
    http_token_file: AbsolutePath | None = Field(
        None, description="A file with this token, instead of `EMBED_HTTP_TOKEN`."
    )
    http_read_token: str = Field(
        "",
        description="Token for clients that may only ask queries, and change nothing.",
        repr=False,
    )
    http_read_token_file: AbsolutePath | None = Field(
        None, description="A file with this token, instead of `EMBED_HTTP_READ_TOKEN`."
    )
    servers: str = Field(
        "",
        description="Music servers with the same library: `name=kind+url`, separated by commas,"
        " e.g. `nd=navidrome+http://host:4533`. Kinds: `navidrome`, `subsonic`, `jellyfin`,"
        " `lyrion`. Logins: `EMBED_SERVER_<NAME>_USER`, `..._PASSWORD`, `..._TOKEN`, each also"
        " as `..._FILE`. See docs/music-servers.md.",
    )

    _logins: dict[str, str] = PrivateAttr(default_factory=dict)
    """Variables with logins of music servers, by name."""

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002  # pydantic's
        """Read the logins, whose names depend on those of the servers."""
        self._logins.update(logins())

    @field_validator("http")
    @classmethod
    def _an_address(cls, value: str) -> str:
        return str(Address.parse(value)) if value else value

    @field_validator("servers")
    @classmethod
    def _a_list_of_servers(cls, value: str) -> str:
        parse(value)
        return value

    def music_servers(self) -> tuple[ServerConfig, ...]:
        """The servers of EMBED_SERVERS with their logins.

        Raises:
            ConfigurationError: a file with a login cannot be read.
        """
        return tuple(with_login(server, self._logins) for server in parse(self.servers))

    @property
    def http_address(self) -> Address | None:
        """Where `up` serves queries; None if it does not."""
        return Address.parse(self.http) if self.http else None

    def http_tokens(self) -> Tokens:
        """The tokens of `serve`, from the settings or their files.

        Raises:
            ConfigurationError: a file cannot be read, or a token cannot be used.
        """
        return read_tokens(
            self.http_token, self.http_token_file, self.http_read_token, self.http_read_token_file
        )

    def require_http(self) -> None:
        """Refuse an EMBED_HTTP that `serve` would refuse.

        Raises:
            ConfigurationError: another address than loopback without a token, or a wrong token.
        """
        if self.http_address is not None:
            require_token(self.http_address, self.http_tokens(), f"EMBED_HTTP={self.http}")
