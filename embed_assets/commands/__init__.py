"""The commands, one a file, as plain functions that return what `cli` prints."""
