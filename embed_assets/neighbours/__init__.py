"""Neighbours as numbers: how they are ranked, and how good they are on a library's own tags.

Plain arrays in, plain values out. Where vectors and tags come from is in `search/` and `index/`.
"""
