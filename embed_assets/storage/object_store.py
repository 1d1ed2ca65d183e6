"""Vectors in an object store, such as S3: an object per entry, for several machines.

An object is put by one request, so that it is complete or absent. obstore speaks to S3, Google
Cloud Storage and Azure, and to what is compatible with them. Logins and the address of the server
are environment variables that obstore reads; they are in no setting.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage import object_errors
from embed_assets.storage.object_client import AlreadyThere, Missing, NotSupported, call, obstore
from embed_assets.storage.parallel import map_parallel
from embed_assets.storage.vector_cache import VectorCache
from embed_assets.storage.vector_format import (
    entry_name,
    hash_of,
    is_folder_of_entries,
    is_recipe,
    pack,
    unpack,
)
from embed_assets.storage.vector_store import MARK, Entry, VectorsLost, Wanted

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")

NAMES_PER_CALL = 1_000
"""Names in a request that lists or deletes: what S3 takes."""

PROBE_NAME = ".embed_assets-"
PROBE = b"embed_assets"
"""What is written to see whether that can be done."""


@dataclass(frozen=True)
class ObjectStore:
    """The window vectors in a bucket; see `Store`.

    `address`: in normal form. `home`: EMBED_HOME. `cache_bytes`: how much of the disk there may be
    used for copies of entries.
    """

    address: str
    home: Path
    cache_bytes: int = 0

    @property
    def where(self) -> str:
        """See `Store`."""
        return object_errors.place(self.address)

    @property
    def cache(self) -> VectorCache:
        """The copies on this machine."""
        return VectorCache(self.home / "cache" / "vectors", self.cache_bytes)

    def write(
        self,
        recipe_digest: RecipeDigest,
        audio_hash: AudioHash,
        windows: np.ndarray,
        *,
        embedded_at: int | None = None,
        replace: bool = False,
    ) -> None:
        """See `Store`. After the call the store has the entry."""
        raw, name = pack(windows), entry_name(recipe_digest, audio_hash)
        if replace or not self._create(name, raw):
            if not replace and self._is_intact(recipe_digest, audio_hash):
                return
            self._call(f"write {name}", obstore().put, name, raw)
        if embedded_at is not None:
            self.cache.put(recipe_digest, audio_hash, embedded_at, raw)

    def read(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> np.ndarray:
        """See `Store`."""
        return self._read(recipe_digest, Wanted(audio_hash), keep=False)

    def read_many(
        self, recipe_digest: RecipeDigest, wanted: Iterable[Wanted], *, keep: bool = False
    ) -> Iterator[np.ndarray | TransientError]:
        """See `Store`; many at a time."""

        def read(one: Wanted) -> np.ndarray | TransientError:
            try:
                return self._read(recipe_digest, one, keep=keep)
            except VectorsLost as lost:
                return lost

        def size(found: np.ndarray | TransientError) -> int:
            return 0 if isinstance(found, TransientError) else found.nbytes

        return map_parallel(read, wanted, size=size)

    def has(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        """See `Store`; a request."""
        name = entry_name(recipe_digest, audio_hash)
        try:
            return bool(
                self._call(f"look for {name}", obstore().head, name, may_be_missing=True)["size"]
            )
        except Missing:
            return False

    def known_lost(
        self,
        recipe_digest: RecipeDigest,  # noqa: ARG002  # see below
        audio_hashes: Iterable[AudioHash],  # noqa: ARG002
    ) -> list[AudioHash]:
        """See `Store`: none, as asking would cost a request for each track of each run."""
        return []

    def delete(self, recipe_digest: RecipeDigest, audio_hashes: Collection[AudioHash]) -> None:
        """See `Store`; many in one request, where the store can do that."""
        names = [entry_name(recipe_digest, audio_hash) for audio_hash in audio_hashes]
        for begin in range(0, len(names), NAMES_PER_CALL):
            some = names[begin : begin + NAMES_PER_CALL]
            try:
                self._delete(some)
            except Missing:
                # Some stores stop at one that is gone already.
                for name in some:
                    with suppress(Missing):
                        self._delete([name])

    def recipes(self) -> Iterator[RecipeDigest]:
        """See `Store`."""
        found = self._call("list recipes", obstore().list_with_delimiter)
        for prefix in found["common_prefixes"]:
            name = prefix.strip("/")
            if is_recipe(name):
                yield RecipeDigest(name)

    def folders(self, recipe_digest: RecipeDigest) -> Iterator[str]:
        """See `Store`."""
        found = self._call(
            f"list {recipe_digest}", obstore().list_with_delimiter, f"{recipe_digest}/"
        )
        for prefix in found["common_prefixes"]:
            name = prefix.strip("/").rpartition("/")[2]
            if is_folder_of_entries(name):
                yield name

    def entries(self, recipe_digest: RecipeDigest, folder: str = "") -> Iterator[Entry]:
        """See `Store`; a request for each thousand."""
        prefix = f"{recipe_digest}/{folder}/" if folder else f"{recipe_digest}/"
        pages = self._call(f"list {prefix}", obstore().list, prefix, chunk_size=NAMES_PER_CALL)
        while page := self._next(prefix, pages):
            for there in page:
                folder, _, file = there["path"].removeprefix(f"{recipe_digest}/").rpartition("/")
                if audio_hash := hash_of(folder, file):
                    yield Entry(audio_hash, there["size"], there["last_modified"].timestamp())

    def read_mark(self, *, hurried: bool = False) -> bytes | None:
        """See `Store`; a request."""
        try:
            return self._get(MARK, hurried=hurried)
        except Missing as missing:
            if not missing.is_certain:
                next(self.recipes(), None)
            return None

    def write_mark(self, raw: bytes, *, replace: bool = False) -> None:
        """See `Store`."""
        if replace:
            self._call(f"write {MARK}", obstore().put, MARK, raw)
        else:
            self._create(MARK, raw)

    def requiring_mark(self) -> ObjectStore:
        """See `Store`: a bucket that is away says so itself."""
        return self

    def now(self) -> float:
        """See `Store`: when an object that is written now was written."""
        with self._probe() as name:
            found = self._call(f"look for {name}", obstore().head, name)
        return found["last_modified"].timestamp()

    def sweep_temporary(self, older_than: float) -> int:
        """See `Store`: only `check` and `now` leave something, if they are killed."""
        before = self.now() - older_than
        found = self._call("list its root", obstore().list_with_delimiter)["objects"]
        old = [o["path"] for o in found if o["last_modified"].timestamp() < before]
        probes = [name for name in old if name.startswith(PROBE_NAME)]
        for name in probes:
            with suppress(Missing):
                self._delete([name])
        return len(probes)

    def check(self) -> str:
        """See `Store`."""
        with self._probe() as name:
            note = self._about_puts(name)
            if self._get(name) != PROBE:
                raise TransientError(f"{self.where}: it returns something else than was written")
        next(self.recipes(), None)
        return f"{self.where}: written, read, listed and deleted{note}"

    def _about_puts(self, name: str) -> str:
        """What is to be said of putting an object that is there only if there is none."""
        kept = "vectors are whole all the same, and the last writer's are kept"
        try:
            self._call(f"write {name}", obstore().put, name, PROBE, mode="create")
        except AlreadyThere:
            return ""
        except NotSupported:
            return f"; it cannot put objects only if absent (AWS_CONDITIONAL_PUT=disabled): {kept}"
        return f"; it replaces objects although asked not to: {kept}"

    @contextmanager
    def _probe(self) -> Iterator[str]:
        """Write a small object, and delete it."""
        name = f"{PROBE_NAME}{uuid.uuid4().hex}"
        self._call(f"write {name}", obstore().put, name, PROBE)
        try:
            yield name
        finally:
            with suppress(Missing):
                self._delete([name])

    def _create(self, name: str, raw: bytes) -> bool:
        """Put an object if there is none; returns whether there was none.

        A store that cannot do this in one step replaces it.
        """
        try:
            self._call(f"write {name}", obstore().put, name, raw, mode="create")
        except AlreadyThere:
            return False
        except NotSupported:
            self._call(f"write {name}", obstore().put, name, raw)
        return True

    def _is_intact(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        try:
            self.read(recipe_digest, audio_hash)
        except VectorsLost:
            return False
        return True

    def _read(self, recipe_digest: RecipeDigest, one: Wanted, *, keep: bool) -> np.ndarray:
        name = entry_name(recipe_digest, one.audio_hash)
        if one.embedded_at is not None:
            copy = self.cache.get(recipe_digest, one.audio_hash, one.embedded_at)
            if copy is not None:
                with suppress(ValueError):
                    return unpack(copy)
        try:
            raw = self._get(name)
        except Missing as missing:
            if not missing.is_certain:
                next(self.recipes(), None)
            raise VectorsLost(
                f"no vectors at {self.where}/{name}: embed this audio again"
            ) from None
        try:
            windows = unpack(raw)
        except ValueError as error:
            raise VectorsLost(
                f"the vectors at {self.where}/{name} are damaged ({error}): embed this audio again"
            ) from None
        if keep and one.embedded_at is not None:
            self.cache.put(recipe_digest, one.audio_hash, one.embedded_at, raw)
        return windows

    def _get(self, name: str, *, hurried: bool = False) -> bytes:
        def get(client: Any, name: str) -> bytes:
            return bytes(obstore().get(client, name).bytes())

        address = self.address
        doing = f"read {name}"
        return call(address, doing, get, name, may_be_missing=True, hurried=hurried)

    def _delete(self, names: list[str]) -> None:
        self._call(f"delete {names[0]}", obstore().delete, names, may_be_missing=True)

    def _next(self, name: str, pages: Any) -> Any:
        return self._call(f"list {name}", lambda _: next(pages, None))

    def _call(self, doing: str, function: Callable[..., R], *args: Any, **how: Any) -> R:
        return call(self.address, doing, function, *args, **how)
