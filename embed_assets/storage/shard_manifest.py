"""What a shard says of itself: its recipe, where its vectors were made, and a row for each audio.

It comes from another machine, so everything is checked before it is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from embed_assets.errors import EmbedAssetsError, Reason
from embed_assets.formats import plain, validation_message
from embed_assets.identity import AudioHash, Recipe, RecipeDigest
from embed_assets.storage.records import Embedding

FORMAT = "embed_assets shard"
VERSION = 1

_TEXT = 2000
"""Most characters of a text."""

_Text = Annotated[str, Field(max_length=_TEXT), AfterValidator(plain)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ShardRefused(EmbedAssetsError):
    """A file is no shard, is damaged as a whole, or does not fit this library; others may."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Audio(_Row):
    """An audio that was embedded or rejected; `at`: when, in seconds since 1970."""

    audio_hash: _Hash
    at: _Seconds

    @property
    def audio(self) -> AudioHash:
        """Names the audio, and its vectors."""
        return AudioHash(self.audio_hash)


class ShardTrack(_Audio):
    """An audio with vectors. `sha256`: of its .npy.

    `duration`, `decoded_seconds`: of the whole audio, and of its windows, in seconds.
    """

    windows: Annotated[int, Field(ge=1)]
    duration: _Seconds
    decoded_seconds: _Seconds
    note: _Text
    engine: _Text
    device: _Text
    dtype: _Text
    sha256: _Sha256

    @classmethod
    def of(cls, row: Embedding, duration: float, sha256: str) -> ShardTrack:
        """The entry of an embedding."""
        return cls(
            audio_hash=row.audio_hash,
            windows=row.windows,
            duration=duration,
            decoded_seconds=row.decoded_seconds,
            note=row.note[:_TEXT],
            engine=row.engine,
            device=row.device,
            dtype=row.dtype,
            at=row.at,
            sha256=sha256,
        )

    def row(self, recipe: RecipeDigest, origin: str, now: float) -> Embedding:
        """Its row in the tables, with `origin` for its run; no later than `now`."""
        return Embedding(
            recipe=recipe,
            audio_hash=self.audio,
            windows=self.windows,
            decoded_seconds=self.decoded_seconds,
            note=self.note,
            engine=self.engine,
            device=self.device,
            dtype=self.dtype,
            run_id=origin,
            at=min(self.at, now),
        )


class ShardReject(_Audio):
    """An audio that could not be embedded, and why; a later version may have other reasons."""

    reason: _Text
    message: _Text

    @property
    def known_reason(self) -> Reason | None:
        """The reason; None if this version does not know it."""
        return Reason(self.reason) if self.reason in set(Reason) else None

    @classmethod
    def of(cls, row: Embedding) -> ShardReject:
        """The entry of a rejection."""
        return cls(
            audio_hash=row.audio_hash,
            reason=row.reason or "",
            message=(row.message or "")[:_TEXT],
            at=row.at,
        )

    def row(self, recipe: RecipeDigest, origin: str, now: float) -> Embedding:
        """As `ShardTrack.row`."""
        return Embedding(
            recipe=recipe,
            audio_hash=self.audio,
            reason=self.reason,
            message=self.message,
            run_id=origin,
            at=min(self.at, now),
        )


class ShardClip(_Row):
    """What its machine made of a format of the canary's clip; `name` is that of its vectors."""

    name: Annotated[str, Field(pattern=r"^clip-[A-Za-z0-9._-]{1,100}$")]
    format: _Text
    dtype: _Text
    windows: Annotated[int, Field(ge=1)]
    sha256: _Sha256

    @classmethod
    def of(cls, name: str, windows: int, sha256: str) -> ShardClip:
        """The entry of a clip; its name is `clip-FORMAT-ENGINE-DTYPE`."""
        _, of, rest = name.split("-", 2)
        dtype = rest.rpartition("-")[2]
        return cls(name=name, format=of, dtype=dtype, windows=windows, sha256=sha256)


class Origin(_Row):
    """The machine that made a shard: its name, and the versions that take part in a vector."""

    host: _Text = ""
    environment: dict[_Text, _Text] = {}


class ShardManifest(_Row):
    """`manifest.json` of a shard."""

    format: Literal["embed_assets shard"] = "embed_assets shard"
    version: Literal[1] = 1
    recipe_digest: _Hash
    recipe: Recipe
    origin: Origin
    tracks: list[ShardTrack]
    rejected: list[ShardReject] = []
    clips: list[ShardClip] = []

    def dump(self) -> bytes:
        """The JSON that `parse_manifest` reads."""
        fields = self.model_dump() | {"recipe": asdict(self.recipe)}
        return json.dumps(fields, indent=1).encode()


def parse_manifest(raw: bytes) -> ShardManifest:
    """The manifest in this JSON.

    Raises ShardRefused: it is of another format or version, or something in it cannot be.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        raise ShardRefused("its manifest is not JSON") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ShardRefused("it is not a shard: `embed-assets embed --into` did not write it")
    if fields.get("version") != VERSION:
        raise ShardRefused(
            f"its format has version {plain(fields.get('version'))[:40]}, and this embed_assets"
            f" reads version {VERSION}: update the older of both"
        )
    try:
        manifest = ShardManifest.model_validate(fields)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ShardRefused(
            f"its manifest is wrong at {plain(where)[:100]}: {validation_message(first['msg'])}"
        ) from None
    if manifest.recipe.digest != manifest.recipe_digest:
        raise ShardRefused("its manifest is damaged: the digest of its recipe is another")
    hashes = [track.audio for track in manifest.tracks]
    hashes += [reject.audio for reject in manifest.rejected]
    if len(set(hashes)) != len(hashes):
        raise ShardRefused("its manifest is damaged: it names an audio twice")
    return manifest
