"""What EMBED_HOME keeps: the tables (SQLite) and the vectors (files), and queries over them.

`tables` holds what is known of each folder and track, `vector_store` the vectors of its windows.
Knows nothing of Dagster, Milvus or torch.
"""
