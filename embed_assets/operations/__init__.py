"""What the commands do, one command per file, as plain functions that return values."""
