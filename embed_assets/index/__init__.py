"""The vector index in Milvus; the only package that knows pymilvus."""
