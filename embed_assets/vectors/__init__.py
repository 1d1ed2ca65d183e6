"""Vectors of tracks: where they are kept, how a track's windows become one, how a folder gets them.

Knows nothing of Dagster, Milvus or torch.
"""
