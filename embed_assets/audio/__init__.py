"""From a file's bytes to windows of mono samples: which windows, and how they are decoded.

Uses FFmpeg (through PyAV) and soxr; knows nothing of encoders, tables or the library.
"""
