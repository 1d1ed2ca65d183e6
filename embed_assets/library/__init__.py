"""The music folder: walking it, noticing changes, reading what its files are."""
