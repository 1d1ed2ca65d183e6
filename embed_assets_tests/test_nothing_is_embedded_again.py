"""An update of the software embeds nothing again: recipes and collections keep their names.

The digests were written down from version 0.1.0, before each encoder had a folder of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embed_assets import encoders
from embed_assets.identity import IndexSpec, Recipe
from embed_assets.storage.folder_store import FolderStore

NAMES = {
    "acoustic": ("25db8f71ca56a7de628b9a50f88ab454", "tracks_acoustic_68b82a101a24"),
    "muq": ("abc114e921562b20ef978ad83dca653c", "tracks_muq_dd449ff9aca2"),
    "muq-int8": ("73e440b1c41c68ac5d8641f45262d774", "tracks_muq_int8_daeb371f1d85"),
}


@pytest.mark.parametrize("name", NAMES)
def test_recipe_store_and_collection_keep_their_names(name: str, tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "models"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"encoder_dim": 1024, "w2v2_config": {}}))
    (model / "model.safetensors").write_bytes(b"weights")
    weights = encoders.describe("muq", str(model), cache).weights
    made = cache / "openvino" / f"{weights}-int8-1"
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"model.bin": [7, 11]}))

    info = encoders.describe(name, str(model), cache)
    recipe = Recipe(
        info.name, info.weights, info.sample_rate, info.dim, 10.0, 3, frame_stats=info.frame_stats
    )
    assert (recipe.digest, IndexSpec(recipe).collection) == NAMES[name]
    file = FolderStore(tmp_path).path(recipe.digest, "ab" + "0" * 30)
    assert file == tmp_path / NAMES[name][0] / "ab" / f"ab{'0' * 30}.npy"
