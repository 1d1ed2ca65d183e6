"""Queries: finding tracks by name, filters, nearest tracks and parts, paths, duplicates, the map.

A query is answered from an immutable `Snapshot` in memory (`searcher`, `exact`), or by a Milvus
server (`milvus`). Both give a `Result` (`answers`).
"""
