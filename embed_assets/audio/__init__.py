"""From a file's bytes to windows of mono samples: which windows, and how they are decoded.

Knows FFmpeg (through PyAV) and soxr; knows nothing of encoders, tables or where a library lies.
"""
