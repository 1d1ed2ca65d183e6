"""`python -m embed_assets.cli`."""

from embed_assets.cli import main

main()
