"""Every `EMBED_*` setting, read from the environment or `.env` and validated.

Only entry points (definitions, command line) read settings. They pass plain values to the domain,
which never reads configuration.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from embed_assets.access import Address, Tokens, read_tokens, require_token
from embed_assets.encoders import cards
from embed_assets.errors import ConfigurationError
from embed_assets.formats import validation_message
from embed_assets.index.address import is_server, normal_address
from embed_assets.index.options import IndexOptions
from embed_assets.servers.config import ServerConfig, parse, with_login
from embed_assets.storage.postgres_address import PostgresAddress, normal_postgres_url
from embed_assets.storage.vectors_address import normal_vectors_address

_TAGS_OF_DAGSTER = ("dagster/partition", "dagster/asset_partition", "dagster/backfill")
"""How tags begin that say what a run is to do; with another value it fails."""


class Settings(BaseSettings):
    """The settings; `docs/settings.md` is generated from their descriptions."""

    model_config = SettingsConfigDict(
        env_prefix="EMBED_", env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    library: Path | None = Field(None, description="The music folder. Required.")
    home: Path = Field(
        Path("~/.local/share/embed_assets"),
        description="Folder for all state: Dagster instance, tables, embeddings, Milvus Lite index,"
        " model cache.",
    )
    tables: str = Field(
        "",
        description="PostgreSQL database of the tables, for several machines:"
        " `postgresql://user@host/database` (docs/cluster.md). Empty: `tables.sqlite` in"
        " `EMBED_HOME`.",
    )
    tables_password: str = Field(
        "",
        description="Password for `EMBED_TABLES`. Empty: PGPASSWORD, PGPASSFILE or `~/.pgpass`.",
        repr=False,
    )
    tables_password_file: Path | None = Field(
        None, description="A file with this password, instead of `EMBED_TABLES_PASSWORD`."
    )
    vectors: str = Field(
        "",
        description="Where the vectors of all windows are stored, for several machines:"
        " `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or a folder"
        " (docs/vectors.md). Empty: `vectors` in `EMBED_HOME`.",
    )
    vectors_cache_gb: float = Field(
        2.0,
        ge=0.0,
        le=100_000.0,
        allow_inf_nan=False,
        description="How many GB of copies of an object store are kept in `EMBED_HOME`, on each"
        " machine. 0: none.",
    )
    dagster_home: Path | None = Field(
        None,
        description="A folder with your own `dagster.yaml`, which is never changed, e.g. for runs"
        " on several machines (docs/cluster.md). Empty: `$EMBED_HOME/dagster`.",
    )
    encoder: str = Field(
        cards.DEFAULT.name,
        description=f"{cards.choices()}.",
    )
    model: str = Field(
        "",
        validate_default=True,
        description="Weights: a Hugging Face id, or a local folder with config.json and"
        f" model.safetensors. Empty: {cards.with_weights()}.",
    )
    words: bool = Field(
        default=False,
        description=f"Also embed with `{cards.OF_WORDS.name}`, into a collection of its own, for"
        " `embed-assets find`. See docs/words.md for the cost.",
    )
    words_model: str = Field(
        "",
        validate_default=True,
        description=f"Weights of `{cards.OF_WORDS.name}` for `EMBED_WORDS`: a Hugging Face id or a"
        f" local folder. Empty: `EMBED_MODEL` if that is the encoder,"
        f" else `{cards.OF_WORDS.default_model}`.",
    )
    device: str = Field(
        "auto",
        description="`auto` (CUDA if available, otherwise the CPU), `cpu`, `cuda`, `cuda:N`, `mps`,"
        " `openvino:GPU` (Intel graphics). A device that is missing, or that the encoder cannot"
        " use, is an error.",
    )
    window_seconds: float = Field(
        cards.DEFAULT.window_seconds,
        ge=1.0,
        le=600.0,
        allow_inf_nan=False,
        description="Length of a window, in seconds.",
    )
    windows: int = Field(
        3, ge=0, le=10_000, description="Windows per track, spread evenly. 0: the whole track."
    )
    pooling: Literal["mean", "enriched"] = Field(
        "mean",
        description="How the windows of a track become one vector: `mean`, or `enriched` (three"
        " times as wide).",
    )
    parts: bool = Field(
        default=False,
        description="Also index each window, for `embed-assets parts`. See docs/index.md for the"
        " cost.",
    )
    milvus_uri: str = Field(
        "",
        description="A Milvus Lite file that ends in `.db`, or the `http(s)://` address of a"
        " server.",
    )
    milvus_token: str = Field(
        "",
        description="Token of the Milvus server: `user:password`, or an API key.",
        repr=False,
    )
    milvus_database: str = Field(
        "", description="Database of the Milvus server; it must exist. Empty: the default database."
    )
    milvus_index: Literal[
        "auto", "FLAT", "HNSW", "IVF_FLAT", "IVF_SQ8", "IVF_RABITQ", "DISKANN", "AUTOINDEX"
    ] = Field(
        "auto",
        description="Index of the vectors on a Milvus server. `auto`: HNSW, and what a collection"
        " has already. Which one for how many tracks: docs/milvus.md.",
    )
    milvus_vector_type: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="How a Milvus server stores vectors; `float16` and `bfloat16` take half the"
        " memory, and Milvus 2.4. A change fills another collection.",
    )
    milvus_shards: int = Field(
        1,
        ge=1,
        le=64,
        description="Shards of a collection on a Milvus server, which are written in parallel. A"
        " change fills another collection.",
    )
    milvus_replicas: int | None = Field(
        None,
        ge=1,
        le=64,
        description="On how many groups of query nodes a Milvus server loads a collection. Empty:"
        " one, or what it has.",
    )
    milvus_mmap: bool | None = Field(
        None,
        description="Whether a Milvus server maps a collection from its disk instead of holding it"
        " in memory (Milvus 2.4). Empty: as the server is configured.",
    )
    scan_seconds: int = Field(
        5, ge=1, le=86_400, description="Seconds between two scans of the library."
    )
    settle_seconds: float = Field(
        5.0,
        ge=0.0,
        le=86_400.0,
        allow_inf_nan=False,
        description="Seconds that a folder must stay unchanged before it is processed.",
    )
    folders_per_run: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Most folders in a run. Runs of an import also end after ten minutes of work."
        " On a GPU the default is 1024.",
    )
    run_tags: str = Field(
        "",
        description="Tags of the runs that embed, as a JSON object. With several machines they say"
        " what such a run needs of one, e.g. `dagster-k8s/config` or `dagster-ray/config`"
        " (docs/cluster.md).",
    )
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
    http_token_file: Path | None = Field(
        None, description="A file with this token, instead of `EMBED_HTTP_TOKEN`."
    )
    http_read_token: str = Field(
        "",
        description="Token for clients that may only ask queries, and change nothing.",
        repr=False,
    )
    http_read_token_file: Path | None = Field(
        None, description="A file with this token, instead of `EMBED_HTTP_READ_TOKEN`."
    )
    servers: str = Field(
        "",
        description="Music servers with the same library: `name=kind+url`, separated by commas,"
        " e.g. `nd=navidrome+http://host:4533`. Kinds: `navidrome`, `subsonic`, `jellyfin`,"
        " `lyrion`. Logins: `EMBED_SERVER_<NAME>_USER`, `..._PASSWORD`, `..._TOKEN`, each also"
        " as `..._FILE`. See docs/music-servers.md.",
    )
    history_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="Days after which runs over folders, and failed runs, are deleted from"
        " Dagster's history; what partitions show is kept. 0: never. Other runs are deleted after a"
        " week.",
    )

    _logins: dict[str, str] = PrivateAttr(default_factory=dict)
    """Variables with logins of music servers, by name."""

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002  # pydantic's
        """Read the logins, whose names depend on those of the servers."""
        from dotenv import dotenv_values

        # What is wrong with the file, `load` says.
        with suppress(OSError, UnicodeDecodeError):
            there = (dotenv_values(".env") if Path(".env").exists() else {}) | dict(os.environ)
            self._logins.update({k.upper(): v for k, v in there.items() if v and _is_login(k)})

    @field_validator(
        "library",
        "home",
        "dagster_home",
        "tables_password_file",
        "http_token_file",
        "http_read_token_file",
        mode="after",
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as e:
            raise ValueError(str(e)) from e

    @field_validator("home", "dagster_home", mode="after")
    @classmethod
    def _for_databases(cls, value: Path | None) -> Path | None:
        # Dagster puts it into the address of its database as it is; Milvus wants UTF-8.
        try:
            text = str(value).encode().decode()
        except UnicodeEncodeError:
            raise ValueError("the path is not UTF-8: choose another folder") from None
        if "?" in text or re.search(r"%[0-9a-fA-F]{2}", text):
            raise ValueError(
                "Dagster cannot keep its database below a folder with `?`, or `%` and two digits,"
                " in its name: choose another"
            )
        return value

    @field_validator("tables")
    @classmethod
    def _of_postgres(cls, value: str) -> str:
        return normal_postgres_url(value) if value else value

    @field_validator("vectors")
    @classmethod
    def _a_folder_or_a_bucket(cls, value: str) -> str:
        return normal_vectors_address(value) if value else value

    @field_validator("model")
    @classmethod
    def _of_the_encoder(cls, value: str, info: ValidationInfo) -> str:
        return value or cards.default_model(info.data.get("encoder", ""))

    @field_validator("words_model")
    @classmethod
    def _of_words(cls, value: str, info: ValidationInfo) -> str:
        is_encoder = info.data.get("encoder") == cards.OF_WORDS.name
        return value or (is_encoder and info.data.get("model")) or cards.OF_WORDS.default_model

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        # Whether it is there is found out by the encoder; a wrong word is wrong for each of them.
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|openvino:[A-Z0-9.:,]+", value):
            raise ValueError("must be auto, cpu, cuda, cuda:N, mps or openvino:GPU")
        return value

    @field_validator("run_tags")
    @classmethod
    def _a_json_object(cls, value: str) -> str:
        try:
            tags = json.loads(value or "{}")
        except (ValueError, RecursionError) as e:
            raise ValueError(f"is not JSON: {e}") from None
        if not isinstance(tags, dict):
            raise ValueError('must be a JSON object: {"name of a tag": its value}')
        if not all(name.strip() for name in tags):
            raise ValueError("a tag in the JSON has an empty name: leave it out")
        if refused := [name for name in tags if name.startswith(_TAGS_OF_DAGSTER)]:
            raise ValueError(f"Dagster sets the tag {refused[0]!r} itself: leave it out")
        return value

    @field_validator("http")
    @classmethod
    def _an_address(cls, value: str) -> str:
        return str(Address.parse(value)) if value else value

    @field_validator("milvus_uri")
    @classmethod
    def _lite_or_server(cls, value: str) -> str:
        return normal_address(value) if value else value

    @field_validator("milvus_database")
    @classmethod
    def _of_the_server(cls, value: str, info: ValidationInfo) -> str:
        if value and "milvus_uri" in info.data:
            normal_address(info.data["milvus_uri"] or "milvus.db", value)
        return value

    @field_validator(
        "milvus_index", "milvus_vector_type", "milvus_shards", "milvus_replicas", "milvus_mmap"
    )
    @classmethod
    def _of_a_server(cls, value: object, info: ValidationInfo) -> object:
        default = cls.model_fields[info.field_name or ""].default
        # What is wrong with the address is said of it.
        uri = info.data.get("milvus_uri")
        if uri is not None and value != default and not is_server(uri):
            raise ValueError(
                "is for a Milvus server, and Milvus Lite stores vectors in one way: leave"
                f" EMBED_{(info.field_name or '').upper()} empty, or name a server in"
                " EMBED_MILVUS_URI"
            )
        return value

    @field_validator("servers")
    @classmethod
    def _a_list_of_servers(cls, value: str) -> str:
        parse(value)
        return value

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Read the environment and `.env`; what is `given`, by its field's name, goes first.

        Raises:
            ConfigurationError: a value is not valid, or there is no setting of a name; names each
                variable and what is wrong.
        """
        for name in given.keys() - cls.model_fields.keys():
            near = get_close_matches(name, cls.model_fields, n=1)
            meant = f": is it {near[0]}?" if near else f"; there are: {', '.join(cls.model_fields)}"
            raise ConfigurationError(f"{name} is not a setting{meant}")
        try:
            return cls(**given)
        except ValidationError as e:
            problems = "; ".join(
                f"EMBED_{'_'.join(map(str, p['loc'])).upper()}={_shown(p['input'])}:"
                f" {validation_message(p['msg'])}"
                for p in e.errors()
            )
            raise ConfigurationError(f"wrong setting: {problems}") from None
        except UnicodeDecodeError as e:
            raise ConfigurationError(
                f"{Path('.env').absolute()} is not UTF-8 text ({e.reason} at byte {e.start}): save"
                " it as UTF-8, or move it away"
            ) from None

    @classmethod
    def mistyped(cls) -> list[str]:
        """A sentence for each variable that is not a setting but has almost the name of one."""
        from dotenv import dotenv_values

        known = [f"EMBED_{name.upper()}" for name in cls.model_fields]
        names = list(os.environ)
        # What is wrong with the file as a whole, `load` says.
        with suppress(OSError, UnicodeDecodeError):
            names += dotenv_values(".env")
        there = {name.upper(): name for name in names}
        near = {
            name: {
                *get_close_matches(upper, known, cutoff=0.85),
                *(k for k in known if len(upper) > len("EMBED_") and k.startswith(upper)),
            }
            for upper, name in there.items()
            if upper not in known and upper.startswith("EMBED") and not _is_login(upper)
        }
        return [
            f"{name} is not a setting and has no effect: is it {' or '.join(sorted(found))}?"
            for name, found in near.items()
            if found
        ]

    def music_servers(self) -> tuple[ServerConfig, ...]:
        """The servers of EMBED_SERVERS with their logins.

        Raises:
            ConfigurationError: a file with a login cannot be read.
        """
        return tuple(with_login(server, self._logins) for server in parse(self.servers))

    @property
    def tables_address(self) -> PostgresAddress | None:
        """Where the tables are; None if in EMBED_HOME."""
        if not self.tables:
            return None
        return PostgresAddress(self.tables, self.tables_password, self.tables_password_file)

    @property
    def tags_of_runs(self) -> dict[str, str]:
        """EMBED_RUN_TAGS as Dagster keeps tags: a value that is no text is JSON."""
        tags = json.loads(self.run_tags or "{}")
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in tags.items()}

    @property
    def vectors_cache_bytes(self) -> int:
        """EMBED_VECTORS_CACHE_GB in bytes."""
        return int(self.vectors_cache_gb * 1e9)

    @property
    def index_uri(self) -> str:
        """Address of the index: EMBED_MILVUS_URI with its database, or the Lite file."""
        if not self.milvus_uri:
            return str(self.home / "milvus.db")
        return normal_address(self.milvus_uri, self.milvus_database)

    @property
    def index_options(self) -> IndexOptions:
        """How a Milvus server is to hold the collections."""
        return IndexOptions(self.milvus_index, self.milvus_replicas, self.milvus_mmap)

    @property
    def instance_home(self) -> Path:
        """Folder of the Dagster instance: its dagster.yaml is ours, or a person's own."""
        return self.dagster_home or self.home / "dagster"

    @property
    def up_folder(self) -> Path:
        """Folder in which `up` notes what it started on this machine."""
        return self.home / "dagster"

    @property
    def model_cache(self) -> Path:
        """Folder of downloaded weights."""
        return self.home / "models"

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

    def environment(self) -> dict[str, str]:
        """The settings as absolute `EMBED_*` variables, for child processes other than `serve`."""
        return {name: value for name, value in self._variables().items() if not _is_http(name)}

    def http_environment(self) -> dict[str, str]:
        """The settings of `serve`, tokens and logins included, for the process that serves."""
        own = {name: value for name, value in self._variables().items() if _is_http(name)}
        return own | self._logins

    def without_http(self) -> Settings:
        """The settings without those of `serve`, for processes that may not know its tokens."""
        fields = type(self).model_fields.items()
        defaults = {n: field.default for n, field in fields if n.startswith("http")}
        copy = self.model_copy(update=defaults)
        copy._logins = {}  # noqa: SLF001  # of its own class
        return copy

    def _variables(self) -> dict[str, str]:
        values = self.model_dump(exclude_none=True)
        return {f"EMBED_{k.upper()}": str(v) for k, v in values.items() if v != ""}


def _is_login(variable: str) -> bool:
    return variable.upper().startswith("EMBED_SERVER_")


def _is_http(variable: str) -> bool:
    return variable.upper().startswith("EMBED_HTTP")


def forget_secrets() -> None:
    """Remove what only `serve` needs from the environment, so that no other child inherits it.

    Its tokens and the logins of music servers stay in the `Settings` that were loaded before.
    """
    for name in list(os.environ):
        if name.upper() in ("EMBED_HTTP_TOKEN", "EMBED_HTTP_READ_TOKEN") or _is_login(name):
            del os.environ[name]


def _shown(value: object) -> str:
    """A value for a message, without the login that an address may hold."""
    return re.sub(r"(//).*(?=@)|(password=)[^&]*", r"\1\2***", repr(value))
