"""The documentation does not lie: what is generated is current, what is named exists."""

import re
import runpy
from pathlib import Path

import typer.main

from embed_assets.cli import app
from embed_assets.settings import Settings

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs/generate.py"))


def test_the_generated_pages_are_current():
    for name in ("commands", "settings", "encoders", "files", "tags"):
        written = (ROOT / f"docs/{name}.md").read_text()
        assert written == GENERATE[name](), f"run: python docs/generate.py ({name}.md is stale)"


def test_the_readme_names_every_setting_with_its_default_and_every_command():
    readme = (ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        (row,) = re.findall(rf"^\| `EMBED_{name.upper()}`.*$", readme, re.M)
        if field.default not in (None, "") and name != "home":
            default = str(field.default).removesuffix(".0")
            assert f"`{default}`" in row, row
    for command in typer.main.get_command(app).commands:
        assert f"`embed-assets {command}" in readme, command


def test_the_readme_has_the_exit_codes_of_the_code():
    assert GENERATE["exit_codes"]() in (ROOT / "README.md").read_text()


def test_no_setting_is_documented_that_does_not_exist():
    names = {f"EMBED_{n.upper()}" for n in Settings.model_fields}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"EMBED_[A-Z_]+[A-Z]", page.read_text()):
            assert name in names or name.startswith("EMBED_TEST_"), f"{name} in {page.name}"


def test_links_between_the_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{target} in {page.name}"
