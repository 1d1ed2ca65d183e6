"""The command line: options in, a call of `Library` or an operation, lines or JSON out."""

from embed_assets.cli.command_line import app, main

__all__ = ["app", "main"]
