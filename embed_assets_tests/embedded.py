"""Embedding one folder, for tests that need its vectors."""

from __future__ import annotations

from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult, embed_folders
from embed_assets.workers import Pool


def embed_folder(context: EmbedContext, path: bytes, pool: Pool | DecodeAhead) -> EmbedResult:
    """Embed the tracks of one folder; what went wrong is raised."""
    ((_, outcome),) = embed_folders(context, [path], pool)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
