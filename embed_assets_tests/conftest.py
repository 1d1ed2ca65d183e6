"""What all tests share: hypothesis without a clock, and no settings from outside."""

import os

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """Tests see neither the machine's EMBED_* variables nor a .env of the working directory."""
    for name in list(os.environ):
        if name.startswith(("EMBED_", "DAGSTER_")) and not name.startswith("EMBED_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
