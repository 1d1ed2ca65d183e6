"""Embedding one folder, for tests that need its vectors, and a pool without processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult, embed_folders
from embed_assets.workers import Pool


def embed_folder(context: EmbedContext, path: bytes, pool: Pool | DecodeAhead) -> EmbedResult:
    """Embed the tracks of one folder; what went wrong is raised."""
    ((_, outcome),) = embed_folders(context, [path], pool)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@dataclass(frozen=True)
class Here:
    """The tasks of a pool, in this process, where a test can change a library."""

    def allowing(self, _: Callable[[Any], float]) -> Here:
        return self

    def run(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            try:
                yield item, function(item)
            except Exception as error:  # as a pool does
                yield item, error


HERE: Any = Here()
