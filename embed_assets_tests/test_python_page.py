"""docs/python.md and the README's snippet are run, in order, on a library of real audio."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from embed_assets_tests.synth import write_track

ROOT = Path(__file__).parent.parent
ALBUMS = {
    "Nina Simone/Pastel Blues": ("Jazz", 1965, ("Sinnerman", "Strange Fruit")),
    "Miles Davis/Kind of Blue": ("Jazz", 1959, ("So What", "Blue in Green", "All Blues")),
    "Kraftwerk/Autobahn": ("Electronic", 1974, ("Autobahn", "Mitternacht", "Morgenspaziergang")),
}


def test_the_page_and_the_readme_can_be_run_from_top_to_bottom(world):
    seed = 0
    for folder, (genre, year, titles) in ALBUMS.items():
        for title in titles:
            seed += 1
            tags = {"title": title, "artist": folder.split("/")[0], "genre": genre}
            world.put(f"{folder}/{title}.flac", seed, **tags, date=str(year))
    for i, name in enumerate(("one.flac", "two.flac")):
        write_track(world.root / name, seconds=3.0, seed=i)
    world.settings["EMBED_PARTS"] = "true"
    page = (ROOT / "docs/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) > 10
    readme = (ROOT / "README.md").read_text()
    (snippet,) = re.findall(r"^    import embed_assets as ea\n(?:    .*\n|\n)*", readme, re.M)
    code = "\n".join([*blocks, *(line[4:] for line in snippet.splitlines())])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=world.environment | {"PYTHONPATH": str(ROOT)},
        cwd=world.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 tracks, 8 embedded, 0 rejected" in done.stdout
    assert "Sinnerman - Nina Simone (Nina Simone/Pastel Blues/Sinnerman.flac)" in done.stdout
    assert "no track matches 'no such track'" in done.stdout
    assert (world.root / "evening.m3u").read_text().count("#EXTINF") == 5
