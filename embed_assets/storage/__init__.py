"""The data in EMBED_HOME: the tables (SQLite), the stored vectors (files), and queries over them.

`tables` describes folders and tracks, `vector_store` contains the vectors of their windows. Imports
neither Dagster nor Milvus nor torch.
"""
