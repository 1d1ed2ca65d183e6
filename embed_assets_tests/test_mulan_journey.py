"""MuQ-MuLan from first use to `find`, on a small checkpoint of the real architecture."""

import json
import shutil

from embed_assets.storage.queries import tracks_frame
from embed_assets_tests import small_muq
from embed_assets_tests.muq_tools import edit_config
from embed_assets_tests.small_mulan import DIM


def test_five_files_are_fetched_and_music_is_found_by_words(world, small_mulan, tmp_path):
    world.album("Album", 1, 2, 3)
    whole = small_mulan.with_name(f"{small_mulan.name}-upstream")
    others = {"OpenMuQ/muq": whole / "muq", "xlm-roberta-base": whole / "xlm-roberta"}
    folder = shutil.copytree(small_mulan, tmp_path / "checkpoint")
    edit_config(folder, lambda c: c["audio_model"].update(name="OpenMuQ/muq"))
    edit_config(folder, lambda c: c["text_model"].update(name="xlm-roberta-base"))
    world.settings |= {"EMBED_ENCODER": "muq-mulan", "EMBED_MODEL": "OpenMuQ/MuLan-small"}
    world.settings |= {"EMBED_WINDOW_SECONDS": "5"}
    refused = world.run("sync")
    assert refused.returncode == 2
    assert "knows only windows of 10 s" in refused.stderr
    del world.settings["EMBED_WINDOW_SECONDS"]
    with small_muq.hub(folder, "OpenMuQ/MuLan-small", others=others) as address:
        world.settings["HF_ENDPOINT"] = address
        first = world.sync()
    assert first["embedded"] == 3
    assert {len(vector) for _, vector in world.rows().values()} == {DIM}
    project = world.project()
    frame = tracks_frame(project.tables, project.spec().recipe.digest)
    assert set(frame["engine"]) == {"openvino"}

    # The hub is gone now: what was fetched needs no network.
    found = world.run("find", "calm piano", "--json")
    assert found.returncode == 0, found.stderr
    assert {m["path"] for m in json.loads(found.stdout)} == {f"Album/0{i}.ogg" for i in (1, 2, 3)}
    assert all("deviations" in m for m in json.loads(found.stdout))
