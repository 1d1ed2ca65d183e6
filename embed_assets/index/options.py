"""How a Milvus server holds a collection: index type, replicas, mmap, and how vectors are stored.

Plain values: nothing here opens a connection. What a size of library needs is computed here as well
(`suggested`, `memory_of`), for docs/index.md and `embed-assets cluster-config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from embed_assets.identity import IndexSpec

if TYPE_CHECKING:
    import numpy as np

AUTO = "auto"
"""Keep the index that a collection has; a new one gets `DEFAULT_INDEX`."""

DEFAULT_INDEX = "HNSW"

Version = tuple[int, int]

MMAP, MMAP_SINCE = "mmap.enabled", (2, 4)
"""Property of a collection. Earlier servers accept it, and do nothing."""


@dataclass(frozen=True)
class VectorType:
    """How the vectors of a collection are stored.

    `milvus`: the name of its `DataType`. `tolerance`: how much a cosine may differ from that of
    float32 vectors. `since`: the first version of a server that has it.
    """

    name: str
    milvus: str
    bytes_per_number: int
    tolerance: float
    since: Version = (0, 0)

    def encode(self, vector: np.ndarray) -> np.ndarray | bytes:
        """What pymilvus takes for a float32 `[dim]` vector."""
        import numpy as np

        if self.name == "float16":
            return vector.astype(np.float16)
        if self.name == "bfloat16":
            return _to_bfloat16(vector).tobytes()
        return vector.astype(np.float32)

    def decode(self, stored: Any) -> np.ndarray:
        """The float32 `[dim]` vector of what pymilvus returns."""
        import numpy as np

        if isinstance(stored, list) and len(stored) == 1 and isinstance(stored[0], bytes):
            stored = stored[0]
        if isinstance(stored, bytes):
            if self.name == "bfloat16":
                return (np.frombuffer(stored, "<u2").astype(np.uint32) << 16).view(np.float32)
            return np.frombuffer(stored, "<f2").astype(np.float32)
        return np.asarray(stored).astype(np.float32)

    def rounded(self, vector: np.ndarray) -> np.ndarray:
        """A float32 `[dim]` vector as it is after storing and reading it."""
        return self.decode(self.encode(vector))


def _to_bfloat16(vector: np.ndarray) -> np.ndarray:
    """Uint16 `[dim]`: the upper half of each float32, rounded to the nearest, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(vector, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


FLOAT32 = VectorType("float32", "FLOAT_VECTOR", 4, 1e-6)

VECTOR_TYPES = {
    one.name: one
    for one in (
        FLOAT32,
        VectorType("float16", "FLOAT16_VECTOR", 2, 2e-3, (2, 4)),
        VectorType("bfloat16", "BFLOAT16_VECTOR", 2, 1e-2, (2, 4)),
    )
}
"""EMBED_MILVUS_VECTOR_TYPE -> how vectors are stored."""


def vector_type_of(milvus: str) -> VectorType:
    """The vector type of a `DataType`, by its name; raises KeyError if it is none of ours."""
    return {one.milvus: one for one in VECTOR_TYPES.values()}[milvus]


@dataclass(frozen=True)
class IndexType:
    """An index of Milvus over the vectors.

    `params`: how it is built. `exact_scores`: whether a search returns the cosine of the stored
    vectors. `bytes_per_number`: memory for each number of a vector; None: that of the vector type.
    `bytes_per_row`: memory for each row, e.g. for the edges of a graph.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    exact_scores: bool = True
    bytes_per_number: float | None = None
    bytes_per_row: int = 0
    since: Version = (0, 0)


_GRAPH = MappingProxyType({"M": 16, "efConstruction": 200})
_CELLS = MappingProxyType({"nlist": 1024})
"""Each segment, of some hundred thousand rows, has an index of its own, however many rows."""

INDEX_TYPES = {
    one.name: one
    for one in (
        IndexType("FLAT"),
        # Two edges per M at the lowest layer, of 4 bytes, and a few above.
        IndexType("HNSW", _GRAPH, bytes_per_row=140),
        IndexType("IVF_FLAT", _CELLS),
        IndexType("IVF_SQ8", _CELLS, exact_scores=False, bytes_per_number=1),
        IndexType(
            "IVF_RABITQ",
            _CELLS | {"refine": True, "refine_type": "SQ8"},
            exact_scores=False,
            bytes_per_number=1.125,
            since=(2, 6),
        ),
        # Codes of an eighth of float32 in memory; the vectors themselves on a local SSD.
        IndexType("DISKANN", bytes_per_number=0.5),
        # What a server chooses, e.g. at Zilliz Cloud, which takes nothing else.
        IndexType("AUTOINDEX", bytes_per_row=140, exact_scores=False),
    )
}
"""EMBED_MILVUS_INDEX -> index type."""

PROBED_CELLS = 64
"""Of 1,024 cells of a segment; docs/decisions/milvus.md has the recall that this gives."""

LEAST_CANDIDATES = 128
"""Candidates of a graph (`ef`), also if fewer hits are asked for."""


def search_params(limit: int) -> dict[str, Any]:
    """Search parameters for `limit` hits, for each index type: a server ignores those of others.

    The collection may have been made with other settings than those of now.
    """
    # DiskANN: at most 200, or ten times the limit if that is more.
    search_list = max(limit, min(200, 10 * limit))
    params = {
        "ef": max(LEAST_CANDIDATES, limit),
        "nprobe": PROBED_CELLS,
        "search_list": search_list,
    }
    return {"metric_type": "COSINE", "params": params}


@dataclass(frozen=True)
class IndexOptions:
    """What a server can change without filling a collection again.

    `index`: name of an index type, or `auto`. `replicas`, `mmap`: None leaves them as they are.
    """

    index: str = AUTO
    replicas: int | None = None
    mmap: bool | None = None

    @property
    def set_by_hand(self) -> bool:
        """Whether anything is to differ from what a collection may have already."""
        return self != DEFAULT_OPTIONS

    def chosen(self, spec: IndexSpec) -> list[str]:
        """The settings that differ from their defaults, as a person wrote them."""
        values = {
            "INDEX": "" if self.index == AUTO else self.index,
            "VECTOR_TYPE": "" if spec.vector_type == FLOAT32.name else spec.vector_type,
            "SHARDS": "" if spec.shards == 1 else spec.shards,
            "REPLICAS": self.replicas,
            "MMAP": self.mmap,
        }
        return [f"EMBED_MILVUS_{k}={v}" for k, v in values.items() if v not in ("", None)]

    def as_json(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {k: v for k, v in asdict(self).items() if v != getattr(DEFAULT_OPTIONS, k)}

    @property
    def index_type(self) -> IndexType:
        """The index type of a new collection."""
        return INDEX_TYPES[DEFAULT_INDEX if self.index == AUTO else self.index]


DEFAULT_OPTIONS = IndexOptions()

SCALARS_PER_ROW = 1_000
"""Bytes of the fields of a row besides its vector: paths, tags, ids."""

_SPARE = 1.2
"""Deleted rows that are not compacted yet, segments that still grow, the server itself."""


@dataclass(frozen=True)
class ServerPlan:
    """Settings for a number of rows on a server."""

    rows: int
    options: IndexOptions
    vector_type: str
    shards: int

    def settings(self) -> dict[str, str]:
        """The settings that differ from their defaults, by the name of the variable."""
        values: dict[str, object] = {
            "INDEX": self.options.index,
            "VECTOR_TYPE": self.vector_type,
            "SHARDS": self.shards,
            "MMAP": self.options.mmap,
        }
        defaults = (AUTO, FLOAT32.name, 1, None)
        return {
            f"EMBED_MILVUS_{name}": str(value).lower() if value is True else str(value)
            for (name, value), default in zip(values.items(), defaults, strict=True)
            if value != default
        }

    def memory(self, dim: int) -> int:
        """Bytes of memory of all query nodes for one replica, computed."""
        return memory_of(self.rows, dim, self.options, self.vector_type)


def memory_of(rows: int, dim: int, options: IndexOptions, vector_type: str) -> int:
    """Bytes of memory that a loaded collection takes, computed; mmap leaves the scalars on disk."""
    kind = options.index_type
    number = kind.bytes_per_number
    per_number = VECTOR_TYPES[vector_type].bytes_per_number if number is None else number
    scalars = 0 if options.mmap else SCALARS_PER_ROW
    return int(rows * (dim * per_number + kind.bytes_per_row + scalars) * _SPARE)


def suggested(rows: int) -> ServerPlan:
    """The settings that docs/index.md suggests for a number of rows."""
    if rows <= 2_000_000:
        return ServerPlan(rows, IndexOptions(), FLOAT32.name, 1)
    if rows <= 20_000_000:
        return ServerPlan(rows, IndexOptions(mmap=True), "float16", 2)
    return ServerPlan(rows, IndexOptions("DISKANN", mmap=True), FLOAT32.name, 8)
