"""Embedding folders and tracks: worker processes that decode and encode, on CPUs and GPUs.

Knows nothing of Dagster or Milvus.
"""
