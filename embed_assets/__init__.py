"""Keeps a Milvus vector index in step with a music library.

The way in for a reader is `embed_assets.definitions`: the whole project on one page.
"""
