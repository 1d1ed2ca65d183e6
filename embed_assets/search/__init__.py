"""Answering queries: which tracks a name means, filters, nearest tracks and parts, paths, the map.

A query is answered from an immutable `Snapshot` in memory (`searcher`, `exact`), or by Milvus where
it is a server (`milvus`). Either way it becomes a `Result` (`answers`).
"""
