"""What holds for every encoder, and that adding one is a folder and a line in the table."""

from __future__ import annotations

import ast
import json
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import embed_assets
from embed_assets import encoders
from embed_assets.audio.decode import read_windows
from embed_assets.audio.windows import WindowPolicy
from embed_assets.encoders.base import EncoderCard
from embed_assets.encoders.cards import CARDS, same_recording_cosine
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError
from embed_assets.storage.pooling import pool
from embed_assets.workers import cpu_count
from embed_assets_tests.toy_encoder.card import TOY
from embed_assets_tests.toy_encoder.encoder import load

ROOT = Path(embed_assets.__file__).parent
REGISTER = """
from embed_assets.encoders.cards import CARDS
from embed_assets_tests.toy_encoder.card import TOY
CARDS[TOY.name] = TOY
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> EncoderCard:
    """A card that this process has in its table, and no other."""
    monkeypatch.setitem(CARDS, TOY.name, TOY)
    return TOY


def test_an_encoder_that_is_added_to_the_table_embeds_a_library_and_answers(world):
    # Python imports this module at its start: so each process has the line in its table.
    site = world.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(REGISTER)
    paths = [str(site), str(ROOT.parent), os.environ.get("PYTHONPATH", "")]
    world.settings |= {"PYTHONPATH": os.pathsep.join(paths), "EMBED_ENCODER": TOY.name}
    world.album("Album", 1, 2, 3, 4)

    done = world.run("sync", "--json", program=True)
    assert done.returncode == 0, done.stderr
    asked = world.run("similar", "Album/01.ogg", "--json", program=True)
    assert asked.returncode == 0, asked.stderr

    encoder = load("", "cpu", world.root)

    def vector(name: str) -> np.ndarray:
        path = world.full(name)
        windows = read_windows(path, 0.0, WindowPolicy(10.0, 3), TOY.sample_rate).windows
        return pool(np.concatenate([encoder.encode(w[None]) for w in windows]), "mean")

    query = vector("Album/01.ogg")
    others = [f"Album/{i:02}.ogg" for i in (2, 3, 4)]
    expected = {name: float(query @ vector(name)) for name in others}
    found = {match["path"]: match["score"] for match in json.loads(asked.stdout)}
    assert list(found) == sorted(expected, key=expected.__getitem__, reverse=True)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_new_card_is_all_that_settings_devices_and_workers_ask(
    toy: EncoderCard, tmp_path: Path
) -> None:
    config = EncoderConfig(toy.name, "", "cpu", tmp_path)
    config.require()
    assert config.load().info == encoders.describe(toy.name, "", tmp_path)
    assert config.workers() == cpu_count()
    assert (config.device_slots(), config.uses_single_device()) == (1, False)
    assert config.first_load_notice() == ""
    assert same_recording_cosine(toy.name) == 0.995
    with pytest.raises(
        ConfigurationError, match=r"toy runs on CPUs only.*EMBED_ENCODER=muq or muq-mulan,"
    ):
        EncoderConfig(toy.name, "", "cuda", tmp_path).require()


def test_an_encoder_of_another_version_has_a_threshold_for_one_recording_too() -> None:
    assert same_recording_cosine("acoustic") == 0.95
    assert same_recording_cosine("of-another-version") == 0.995


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_functions_that_a_card_names_are_there(card: EncoderCard) -> None:
    named = [card.describe, card.load, card.require, card.load_exact, card.first_load_notice]
    for function in filter(None, [*named, card.unused_files]):
        module, _, name = function.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_a_card_says_what_its_encoder_says(card: EncoderCard, tmp_path: Path) -> None:
    if card.default_model:
        assert card.download_size
        assert card.instead in CARDS
        assert not CARDS[card.instead].default_model, "it would have to be downloaded as well"
        return
    info = encoders.describe(card.name, "", tmp_path)
    assert (info.name, info.sample_rate, info.note) == (card.name, card.sample_rate, card.note)
    assert info.dim == card.dim


def test_only_an_encoders_own_folder_names_it() -> None:
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).parts[:2] in {("encoders", f.name) for f in OWN}:
            continue
        texts = [n.value for n in ast.walk(ast.parse(file.read_text())) if is_text(n)]
        assert not CARDS.keys() & set(texts), f"{file}: what it wants to know, a card should say"


OWN = [folder for folder in (ROOT / "encoders").iterdir() if (folder / "card.py").exists()]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
