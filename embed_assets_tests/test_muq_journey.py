"""MuQ from first use to search, on a small checkpoint of the real architecture."""

import json

from embed_assets.storage.queries import tracks_frame
from embed_assets_tests import small_muq


def test_weights_are_fetched_once_and_tracks_are_embedded_with_them(world):
    world.album("Album", 1, 2)
    folder = small_muq.save(world.root / "checkpoint")
    world.settings |= {"EMBED_ENCODER": "muq", "EMBED_MODEL": "OpenMuQ/small"}
    with small_muq.hub(folder, "OpenMuQ/small") as address:
        world.settings["HF_ENDPOINT"] = address
        first = world.sync()
    assert first["embedded"] == 2
    assert {len(vector) for _, vector in world.rows().values()} == {small_muq.DIM}
    # The hub is gone now: what was fetched needs no network.
    world.album("Later", 3)
    assert world.sync()["embedded"] == 1
    found = json.loads(world.run("similar", "Later/01.ogg", "--json").stdout)
    assert {m["path"] for m in found} == {"Album/01.ogg", "Album/02.ogg"}
    project = world.project()
    frame = tracks_frame(project.tables, project.spec().recipe.digest)
    assert set(frame["engine"]) == {"openvino"}
    assert set(frame["device"]) == {"cpu"}

    # The same weights from a local folder are the same recipe: nothing is embedded again.
    world.settings |= {"EMBED_MODEL": str(folder)}
    assert world.sync()["embedded"] == 0
