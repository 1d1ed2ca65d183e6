"""The output of each command with `--json`: fields, types and meanings.

docs/json.md is generated from this module, and a test compares what the commands print with it.
The commands themselves do not use it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict, get_type_hints

from embed_assets.defs.history import Pruned
from embed_assets.embedding.canary.report import Comparison, Report
from embed_assets.index.gates import Gate
from embed_assets.index.nearest import Match
from embed_assets.library.left_out import LeftOutCounts
from embed_assets.neighbours.figures import Difference, Hubs, Relation
from embed_assets.operations.collections import CollectionRow, ServingJson
from embed_assets.operations.doctor import Finding
from embed_assets.operations.embed import EmbedIntoResult, RejectedTrack, UnfinishedFolder
from embed_assets.operations.errors import ErrorRow
from embed_assets.operations.gc import Collected, History
from embed_assets.operations.music_servers import ServerRow
from embed_assets.operations.retry import Asked
from embed_assets.operations.status import Status, WordsStatus
from embed_assets.operations.sync import SyncResult
from embed_assets.operations.try_int8 import Trial
from embed_assets.operations.union import Refused, UnionResult
from embed_assets.search.by_words import WordMatch
from embed_assets.search.draw import WrittenMap
from embed_assets.search.duplicates import DuplicateGroup
from embed_assets.search.evaluation import Beside, Evaluation, SameTrack
from embed_assets.search.segments import Part
from embed_assets.storage.garbage import GcReport


@dataclass(frozen=True)
class Field:
    """A field of a JSON object; `type`: the type in Python, e.g. `str | None`."""

    name: str
    type: Any
    meaning: str


@dataclass(frozen=True)
class Shape:
    """What a command prints: one object, or a list of objects, with these fields."""

    fields: tuple[Field, ...]
    is_list: bool = False
    note: str = ""


class Cleared(TypedDict):
    """What `errors --clear PATH --json` prints."""

    cleared: list[str]
    """The folders with tracks that will be read again, relative to the library."""


def fields_of(cls: type, *, without: tuple[str, ...] = ()) -> tuple[Field, ...]:
    """The fields of a dataclass or TypedDict, with the docstrings below them."""
    types = get_type_hints(cls)
    meanings: dict[str, str] = {}
    for base in reversed(getattr(cls, "__mro__", (cls,))):
        if base.__module__.startswith("embed_assets"):
            meanings |= _docstrings(base)
    return tuple(Field(n, types[n], meanings[n]) for n in types if n not in without)


def _docstrings(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    lines = body.body if isinstance(body, ast.ClassDef) else []
    found = {}
    for line, below in pairwise(lines):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[line.target.id] = inspect.cleandoc(text.value)
    return found


_MATCHES = Shape(fields_of(Match), is_list=True)
_SERVING = Shape(fields_of(ServingJson))

SHAPES: dict[str, Shape] = {
    "sync": Shape(fields_of(SyncResult, without=("listed",))),
    "status": Shape(
        fields_of(Status), note="`status --watch --json` prints such an object per line, every 2 s."
    ),
    "errors": Shape(fields_of(ErrorRow), is_list=True),
    "errors --clear": Shape(fields_of(Cleared)),
    "retry": Shape(fields_of(Asked)),
    "doctor": Shape(fields_of(Finding), is_list=True),
    "canary": Shape(fields_of(Report)),
    "similar": Shape(_MATCHES.fields, is_list=True, note="`score` is the cosine to the query."),
    "find": Shape(fields_of(WordMatch), is_list=True, note="`score` is the cosine to the phrases."),
    "parts": Shape(
        fields_of(Part), is_list=True, note="`score` is the cosine of the best window of a track."
    ),
    "path": Shape(_MATCHES.fields, is_list=True, note="`score` is the cosine to the track before."),
    "radio": Shape(
        _MATCHES.fields, is_list=True, note="`score` is the cosine to the track before."
    ),
    "duplicates": Shape(fields_of(DuplicateGroup), is_list=True),
    "map": Shape(fields_of(WrittenMap)),
    "evaluate": Shape(fields_of(Evaluation)),
    "collections": Shape(
        fields_of(CollectionRow),
        is_list=True,
        note="With `--drop NAME` it lists what is left.",
    ),
    "collections --check": _SERVING,
    "promote": _SERVING,
    "rollback": _SERVING,
    "gc": Shape(
        (*fields_of(Collected, without=("swept",)), *fields_of(GcReport)),
        note="Sizes are in bytes.",
    ),
    "try-int8": Shape(fields_of(Trial)),
    "embed": Shape(fields_of(EmbedIntoResult)),
    "union": Shape(fields_of(UnionResult)),
}
"""The shape by command; options that change the shape have their own entry."""

OBJECTS: dict[str, type] = {
    "match": Match,
    "gate": Gate,
    "canary comparison": Comparison,
    "history": History,
    "pruned": Pruned,
    "left-out counts": LeftOutCounts,
    "music servers": ServerRow,
    "words status": WordsStatus,
    "serving": ServingJson,
    "relation": Relation,
    "same track": SameTrack,
    "hubs": Hubs,
    "comparison": Beside,
    "difference": Difference,
    "rejected track": RejectedTrack,
    "unfinished folder": UnfinishedFolder,
    "refused": Refused,
}
"""Objects inside these shapes, by their names in docs/json.md."""
