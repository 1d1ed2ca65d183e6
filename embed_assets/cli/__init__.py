"""The command line: options in, a call of `Library` or an operation, lines or JSON out."""

import sys

from embed_assets.errors import ExitCode


def main() -> None:
    """Entry point; Ctrl-C ends it quietly while its modules are imported, too."""
    try:
        from embed_assets.cli.command_line import run

        run()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
