"""The music folder: walking it, detecting changes, and reading files and tags."""
