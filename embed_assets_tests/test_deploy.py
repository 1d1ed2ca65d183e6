"""The files in deploy/: what they name exists, and what can be checked here is right."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from embed_assets.access import Tokens
from embed_assets.cli.command_line import app
from embed_assets.http.doors import FREE
from embed_assets.settings import Settings
from embed_assets_tests.test_http import filled, running  # noqa: F401  # a fixture

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs/deploy.md").read_text()
SETTINGS = {f"EMBED_{name.upper()}" for name in Settings.model_fields}
COMMANDS = typer.main.get_command(app).commands


def read(name):
    return (DEPLOY / name).read_text()


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(read("compose.yaml"))


@pytest.fixture(scope="module")
def unit():
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string(read("embed-assets.service"))
    return parser


def environment(text):
    """The settings that a file sets, with their values."""
    return dict(re.findall(r"\b(EMBED_\w+)(?:=|: )(\S+)", text))


def test_the_page_describes_every_file_and_every_file_is_there():
    files = {file.name for file in DEPLOY.iterdir() if file.is_file() and file.name[0] != "."}
    assert {Path(path).name for path in re.findall(r"\]\(\.\./deploy/(\S+)\)", PAGE)} == files
    rows = set(re.findall(r"`([\w.-]+)`", PAGE[PAGE.index("## What was run") :])) & files
    assert rows == files, "the page says how each was checked"


@pytest.mark.parametrize("name", ["embed-assets.service", "Containerfile", "compose.yaml"])
def test_every_setting_that_is_named_exists(name):
    named = set(re.findall(r"\bEMBED_[A-Z_]*[A-Z]\b", read(name)))
    assert named
    assert named <= SETTINGS


@pytest.mark.parametrize("name", ["embed-assets.service", "compose.yaml"])
def test_its_settings_are_accepted_and_other_machines_need_a_token(name, monkeypatch, tmp_path):
    for setting, value in environment(read(name)).items():
        if setting.endswith("_FILE"):
            token = tmp_path / setting
            token.write_text(f"token of {setting}\n")
            value = str(token)
        elif "$" in value:
            value = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        monkeypatch.setenv(setting, value.replace("%S", "/var/lib"))
    settings = Settings.load()
    settings.require_http()
    assert settings.http_address.port == 8000
    tokens = settings.http_tokens()
    assert tokens.full
    assert tokens.read


def test_every_command_that_is_named_exists(unit):
    texts = [PAGE, *(read(file.name) for file in DEPLOY.iterdir() if file.is_file())]
    typed = r"(?:`|bin/|exec cpu )embed-assets ([a-z-]+)"
    named = {command for text in texts for command in re.findall(typed, text)}
    image = read("Containerfile")
    named.update(json.loads(re.search(r"^CMD (.*)$", image, re.M)[1]))
    named.add(unit["Service"]["ExecStart"].split()[1])
    assert {"up", "status"} <= named <= set(COMMANDS)


def test_the_image_is_built_of_what_there_is(compose):
    image = read("Containerfile")
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", image, re.M):
        for source in line.split():
            assert (ROOT / source).exists(), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = re.search(r'python -c "(.*)" >', image)[1]
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [d for d in project["dependencies"] if d.startswith("torch")]
    assert len(printed) == 3
    version = tuple(map(int, re.search(r"ARG PYTHON=([\d.]+)", image)[1].split(".")))
    least, most = re.findall(r"(\d+)\.(\d+)", project["requires-python"])
    assert tuple(map(int, least)) <= version < tuple(map(int, most))
    for service in ("cpu", "nvidia"):
        build = compose["services"][service]["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Containerfile")
        assert set(build.get("args", ())) <= set(re.findall(r"ARG (\w+)", image))


def test_containers_run_without_rights_and_cannot_write_to_the_music(compose):
    assert re.search(r"^USER 1000:1000$", read("Containerfile"), re.M)
    library, home = (environment(read("Containerfile"))[f"EMBED_{s}"] for s in ("LIBRARY", "HOME"))
    for name in ("cpu", "nvidia"):
        service = compose["services"][name]
        assert service["profiles"] == [name]
        assert service["user"] == "1000:1000"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        music, state = service["volumes"]
        assert (music["target"], music["read_only"]) == (library, True)
        assert (state["target"], state["source"]) == (home, "home")
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        asked = re.search(r"http://127.0.0.1:8000(/\w+)", " ".join(service["healthcheck"]["test"]))
        assert asked[1] in FREE
        secrets = {v for k, v in service["environment"].items() if k.endswith("_FILE")}
        assert secrets == {f"/run/secrets/{name}" for name in service["secrets"]}
    assert compose["services"]["milvus"]["profiles"] == ["milvus"]


def test_systemd_takes_the_unit(unit, tmp_path):
    settings = environment(read("embed-assets.service"))
    credentials = re.findall(r"LoadCredential=([\w-]+):", read("embed-assets.service"))
    files = [value for name, value in settings.items() if name.endswith("_FILE")]
    assert files == [f"%d/{name}" for name in credentials]
    assert unit["Service"]["User"] != "root"
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze")
    # It wants the program to be there.
    program = unit["Service"]["ExecStart"].split()[0]
    copy = tmp_path / "embed-assets.service"
    copy.write_text(read("embed-assets.service").replace(program, sys.executable))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_commands_by_hand_have_the_user_the_home_and_the_settings_of_the_service(unit):
    typed = PAGE[PAGE.index("systemd-run") :]
    service, home = unit["Service"], "/var/lib/embed-assets"
    assert f"--uid={service['User']} " in typed
    assert f"EnvironmentFile={service['EnvironmentFile'].removeprefix('-')} " in typed
    assert environment(read("embed-assets.service"))["EMBED_HOME"].replace("%S", "/var/lib") == home
    assert f"-E EMBED_HOME={home} " in typed
    assert f"WorkingDirectory={service['WorkingDirectory'].replace('%S', '/var/lib')} " in typed


def expressions():
    """The queries of the dashboard and of the alerts."""
    panels = json.loads(read("grafana.json"))["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    (group,) = yaml.safe_load(read("alerts.yml"))["groups"]
    return shown, [rule["expr"] for rule in group["rules"]]


def test_the_dashboard_and_the_alerts_use_the_metrics_that_there_are(filled, monkeypatch):  # noqa: F811
    monkeypatch.setitem(filled.settings, "EMBED_SERVERS", "nd=subsonic+http://127.0.0.1:1")
    with running(filled) as client:
        client.post("/v1/similar", json={"seeds": ["red"]})
        text = client.get("/metrics").text
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
    samples = set(re.findall(r"^(embed_assets_\w+)", text, re.M))
    families = {f for f in families if not f.endswith("_created")}
    shown, alerts = (set(re.findall(r"embed_assets_\w+", " ".join(e))) for e in expressions())
    samples.add("embed_assets_runs")  # Only beside `up`, see test_http_up.
    assert shown | alerts <= samples
    assert {f for f in families if any(s.startswith(f) for s in shown)} == families
    variables = re.findall(r"label_values\((\w+)", read("grafana.json"))
    assert set(variables) <= samples


def test_prometheus_asks_with_the_read_token(filled):  # noqa: F811
    (job,) = yaml.safe_load(read("prometheus.yml"))["scrape_configs"]
    assert job["job_name"] in read("alerts.yml")
    header = {"Authorization": f"{job['authorization']['type']} read"}
    with running(filled, Tokens("full", "read")) as client:
        assert client.get(job.get("metrics_path", "/metrics"), headers=header).status_code == 200
        assert client.get("/metrics").status_code == 401
    assert "read-token" in job["authorization"]["credentials_file"]
    rules = yaml.safe_load(read("prometheus.yml"))["rule_files"]
    assert all((DEPLOY / rule).exists() for rule in rules)


def test_prometheus_takes_its_files(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: `apt install prometheus` has it")
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    (tmp_path / "deploy/secrets").mkdir()
    (tmp_path / "deploy/secrets/http-read-token").write_text("read")
    check = [promtool, "check", "config", str(tmp_path / "deploy/prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_do_not_cover_each_other():
    panels = json.loads(read("grafana.json"))["panels"]
    cells = [
        (x, y)
        for p in (panel["gridPos"] for panel in panels)
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
