"""The documentation does not lie: what is generated is current, what is named exists."""

import re
import runpy
from pathlib import Path

import dagster_webserver
import typer.main

from embed_assets.cli.command_line import app
from embed_assets.errors import EXIT_CODES
from embed_assets.operations.up import LINEAGE
from embed_assets.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
GENERATE = runpy.run_path(str(ROOT / "docs/generate.py"))


def test_the_generated_pages_are_current():
    for name in ("commands", "json", "settings", "encoders", "files", "tags"):
        written = (ROOT / f"docs/{name}.md").read_text()
        assert written == GENERATE[name](), f"run: python docs/generate.py ({name}.md is stale)"


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text()
    for command in typer.main.get_command(app).commands:
        assert f"`embed-assets {command}" in readme, command


def test_the_readme_is_short_and_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 120
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    for page in [*pages, ROOT / "benchmarks/README.md"]:
        assert f"]({page.relative_to(ROOT).as_posix()})" in readme, page


def test_the_address_of_the_assets_leads_to_the_lineage_of_dagsters_ui():
    """Every path gives the same page; only its script knows which ones there are."""
    script = Path(dagster_webserver.__file__).parent / "webapp/build/_next/static/chunks"
    link = f'label:"Lineage",href:"{LINEAGE}"'
    assert any(link in chunk.read_text() for chunk in script.glob("*.js"))
    for page in (ROOT / "README.md", ROOT / "docs/dagster-ui.md"):
        assert f"<http://127.0.0.1:3000{LINEAGE}>" in page.read_text()


def test_the_page_of_commands_has_the_exit_codes_of_the_code():
    page = (ROOT / "docs/commands.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {int(code)} | {meaning} |" in page


def test_the_page_on_asking_names_every_filter_and_every_question():
    page = (ROOT / "docs/asking.md").read_text()
    commands = typer.main.get_command(app).commands
    for name in ("similar", "parts", "path", "radio", "duplicates", "map"):
        assert f"| `{name}` |" in page
    shared = {option for p in commands["similar"].params for option in p.opts}
    for option in shared - {"-n", "--json", "query"}:
        assert option in page, option


def test_no_setting_is_documented_that_does_not_exist():
    names = {f"EMBED_{n.upper()}" for n in Settings.model_fields}
    for page in PAGES:
        for name in re.findall(r"EMBED_[A-Z_]+[A-Z]", page.read_text()):
            # The names of logins hold those of the music servers.
            known = name in names or name.startswith(("EMBED_TEST_", "EMBED_SERVER"))
            assert known, f"{name} in {page.name}"


TYPED = re.compile(r"embed-assets ([a-z][a-z0-9-]*)((?:(?!embed-assets)[^`\n|;&])*)")
"""A command, and what follows it on its line."""


def test_no_command_or_option_is_typed_that_does_not_exist():
    commands = typer.main.get_command(app).commands
    for page in PAGES:
        for name, rest in TYPED.findall(page.read_text()):
            assert name in commands, f"embed-assets {name} in {page.name}"
            has = {o for p in commands[name].params for o in (*p.opts, *p.secondary_opts)}
            typed = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", rest))
            assert typed <= has | {"--help"}, f"embed-assets {name}{rest} in {page.name}"


def test_no_test_is_named_that_does_not_exist():
    for name in re.findall(r"`(test_\w+)`", (ROOT / "docs/how-it-was-tested.md").read_text()):
        assert (ROOT / f"embed_assets_tests/{name}.py").exists(), name


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        for target, _, heading in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", page.read_text()):
            if "://" in target:
                continue
            other = page.parent / target if target else page
            assert other.exists(), f"{target} in {page.name}"
            assert not heading or heading in anchors(other), f"{target}#{heading} in {page.name}"


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page are called, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


NAMED = re.compile(r"((?:`\w+`(?:, | and )?)+)[^`(]*\(`([\w/]+\.py)`\)")
"""Functions, and the module that they are in."""


def walks() -> list[str]:
    text = (ROOT / "docs/architecture.md").read_text()
    return text[text.index("## Three walks") : text.index("## Adding an encoder")].split("\n\n**")


def test_the_architecture_has_a_row_for_each_package_and_module():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
    for path in (ROOT / "embed_assets").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in rows, path.name
        elif path.suffix == ".py":
            assert f"`{path.name}`" in rows, path.name
    for path in (ROOT / "embed_assets/http").glob("[a-z]*.py"):
        assert f"`http/{path.name}`" in text, path.name
    for path in re.findall(r"`(\w+/[\w/]+(?:\.\w+|/))`", text):
        assert "/NAME/" in path or (ROOT / "embed_assets" / path).exists(), path


def test_the_walks_name_what_is_there():
    named = [found for walk in walks() for found in NAMED.findall(walk)]
    assert len(named) > 15
    for names, path in named:
        source = (ROOT / "embed_assets" / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(def|class) {name}\b|^{name} =", source, re.M), (name, path)


def test_a_walk_comes_back_to_no_module():
    for walk in walks()[1:]:
        modules = [path for _, path in NAMED.findall(walk)]
        assert len(modules) == len(set(modules)) > 2, walk[:60]
