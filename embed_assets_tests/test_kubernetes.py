"""The files in deploy/kubernetes/: what they name exists, and a run gets what they say.

No cluster is needed, and none was there: docs/kubernetes.md says what was checked.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from embed_assets.cli.command_line import app
from embed_assets.definitions import build_defs
from embed_assets.http.doors import FREE
from embed_assets.settings import Settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy/kubernetes"
PAGE = (ROOT / "docs/kubernetes.md").read_text()
COMMANDS = typer.main.get_command(app).commands
KNOWN = {f"EMBED_{name.upper()}" for name in Settings.model_fields}


def documents(name):
    return [d for d in yaml.safe_load_all((FOLDER / name).read_text()) if d]


@pytest.fixture(scope="module")
def values():
    (found,) = documents("values.yaml")
    return found


@pytest.fixture(scope="module")
def code(values):
    """The chart's deployment of our code."""
    (found,) = values["dagster-user-deployments"]["deployments"]
    return found


def pods():
    """The pods of our own files, by file."""
    found = {}
    for name in ("serve.yaml", "doctor-job.yaml"):
        for made in documents(name):
            if made["kind"] in ("Deployment", "Job"):
                found[name] = made["spec"]["template"]["spec"]
    return found


def test_the_page_names_every_file():
    for file in FOLDER.iterdir():
        assert f"](../deploy/kubernetes/{file.name})" in PAGE, file.name


def test_every_setting_that_is_named_exists_and_is_accepted(code, monkeypatch):
    for file in FOLDER.iterdir():
        assert set(re.findall(r"\bEMBED_[A-Z_]*[A-Z]\b", file.read_text())) <= KNOWN, file.name
    for each in code["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    settings = Settings.load()
    assert "dagster-k8s/config" in build_defs(settings).resolve_job_def("bring_in_step").tags


def test_every_process_has_the_same_settings_and_volumes(code):
    shared = {e["name"]: e["value"] for e in code["env"]}
    mounts = {m["name"]: m for m in code["volumeMounts"]}
    volumes = {v["name"]: v for v in code["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["music"]["readOnly"]
    for name, pod in pods().items():
        (container,) = pod["containers"]
        own = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        same = own.keys() & shared.keys()
        assert {"EMBED_LIBRARY", "EMBED_TABLES", "EMBED_MILVUS_URI"} <= same, name
        assert {n: own[n] for n in same} == {n: shared[n] for n in same}, name
        assert container["envFrom"] == [{"secretRef": s} for s in code["envSecrets"]], name
        assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
        for volume in volumes.values():
            assert volume in pod["volumes"], name
        for mount in mounts.values():
            assert mount in container["volumeMounts"], name


def test_every_claim_that_a_pod_names_is_made_and_the_music_is_read_only():
    made = documents("volumes.yaml")
    claims = {d["metadata"]["name"]: d["spec"] for d in made if d["kind"].endswith("Claim")}
    for name, pod in pods().items():
        named = [v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]]
        assert set(filter(None, named)) == claims.keys(), name
    (volume,) = (d for d in made if d["kind"] == "PersistentVolume")
    assert volume["metadata"]["name"] == claims["music"]["volumeName"]
    assert volume["spec"]["claimRef"] == {"namespace": "music", "name": "music"}
    assert volume["spec"]["accessModes"] == claims["music"]["accessModes"] == ["ReadOnlyMany"]
    assert claims["embed-assets-models"]["accessModes"] == ["ReadWriteMany"]


def test_the_secrets_databases_and_versions_of_the_page_are_those_of_the_files(values, code):
    made = set(re.findall(r"create secret generic ([a-z-]+)", PAGE))
    named = {values["global"]["postgresqlSecretName"], *(s["name"] for s in code["envSecrets"])}
    for pod in pods().values():
        named |= {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    assert made == named
    own = values["postgresql"]
    assert f"CREATE ROLE {own['postgresqlUsername']} LOGIN" in PAGE
    assert f"CREATE DATABASE {own['postgresqlDatabase']} OWNER {own['postgresqlUsername']}" in PAGE
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    chart = next(d for d in pinned if d.startswith("dagster==")).removeprefix("dagster==")
    assert set(re.findall(r"--version ([0-9.]+)", PAGE)) == {chart}
    release = values["global"]["dagsterInstanceConfigMap"].removesuffix("-dagster-instance")
    assert f"code=deployment/{release}-dagster-user-deployments-{code['name']}" in PAGE
    assert f"helm install {release} dagster/dagster" in PAGE


def test_every_command_that_is_named_exists():
    started = [pod["containers"][0]["command"] for pod in pods().values()]
    assert {program for program, _ in started} == {"embed-assets"}
    assert {command for _, command in started} == {"serve", "doctor"} <= set(COMMANDS)
    typed = re.findall(r"embed-assets ([a-z]+)\b", PAGE)
    assert {"serve", "status", "download", "doctor"} <= set(typed) <= set(COMMANDS)


def test_serve_answers_the_probes_to_whoever_asks():
    container = pods()["serve.yaml"]["containers"][0]
    assert {container[p]["httpGet"]["path"] for p in ("readinessProbe", "livenessProbe")} <= FREE
    tokens = {e["name"] for e in container["env"] if e["name"].endswith("_FILE")}
    assert tokens == {"EMBED_HTTP_TOKEN_FILE", "EMBED_HTTP_READ_TOKEN_FILE"}


def test_the_image_has_what_the_extras_add_and_leaves_the_command_to_the_chart():
    image = (FOLDER / "Containerfile").read_text()
    script = re.search(r'python -c "(.*)" >', image)[1]
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"dagster-postgres", "dagster-k8s"} <= {d.partition("==")[0] for d in printed}
    assert set(printed) <= {d for e in extras["optional-dependencies"].values() for d in e}
    assert "ENTRYPOINT []" in image
    assert "USER 1000:1000" in image


def test_the_instance_is_the_one_that_is_tested_with_ray(values):
    """What `cluster-config` prints, in the words of the chart."""
    from embed_assets.operations.cluster_config import cluster_config

    tested = yaml.safe_load(cluster_config("http://head:8265", runs=4, gpus=1, cpus=1))
    daemon = values["dagsterDaemon"]
    snake = {re.sub(r"([A-Z])", r"_\1", k).lower(): v for k, v in daemon["runMonitoring"].items()}
    longer = {"start_timeout_seconds": 1200}
    assert snake == tested["run_monitoring"] | longer
    snake = {re.sub(r"([A-Z])", r"_\1", k).lower(): v for k, v in daemon["runRetries"].items()}
    assert snake == tested["run_retries"]
    assert values["concurrency"]["pools"] == tested["concurrency"]["pools"]
    assert values["concurrency"]["runs"]["maxConcurrentRuns"] == 4
    assert values["additionalInstanceConfig"]["instance_class"] == tested["instance_class"]
    assert (
        values["retention"]["sensor"]["purgeAfterDays"]
        == (tested["retention"]["sensor"]["purge_after_days"])
    )


@pytest.mark.cluster
def test_a_run_gets_a_job_with_a_gpu_and_all_that_the_code_has(values, code, tmp_path):
    """Dagster's launcher makes it as it would in a cluster, which it is not asked to reach."""
    k8s = pytest.importorskip("dagster_k8s", reason="pip install -e '.[kubernetes]'")
    from dagster import DagsterRun
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster_k8s.job import construct_dagster_k8s_job
    from kubernetes.client import ApiClient

    nowhere = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "none", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(nowhere))
    given = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    launcher = k8s.K8sRunLauncher(
        load_incluster_config=False,
        kubeconfig_file=str(tmp_path / "kubeconfig"),
        service_account_name="music-dagster",
        instance_config_map=values["global"]["dagsterInstanceConfigMap"],
        postgres_password_secret=values["global"]["postgresqlSecretName"],
        dagster_home="/opt/dagster/dagster_home",
        run_k8s_config={
            "pod_spec_config": given["podSpecConfig"],
            "job_spec_config": given["jobSpecConfig"],
        },
    )
    image = "registry.example.org/embed-assets:0.1.0"
    of_the_code = {
        "k8s": {
            "env": code["env"],
            "env_secrets": [s["name"] for s in code["envSecrets"]],
            "volumes": code["volumes"],
            "volume_mounts": code["volumeMounts"],
            "resources": code["resources"],
            "run_k8s_config": {"pod_spec_config": {"security_context": code["podSecurityContext"]}},
        }
    }
    pointer = ModuleCodePointer("embed_assets.definitions", "defs")
    origin = RepositoryPythonOrigin("python", pointer, image, ["dagster"], of_the_code)
    tags = json.loads(next(e["value"] for e in code["env"] if e["name"] == "EMBED_RUN_TAGS"))
    run = DagsterRun(
        "bring_in_step",
        tags={name: json.dumps(value) for name, value in tags.items()},
        job_code_origin=JobPythonOrigin("bring_in_step", origin),
    )
    context = launcher.get_container_context_for_run(run)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(image, launcher),
        args=["dagster", "api", "execute_run", "{}"],
        job_name="dagster-run",
        user_defined_k8s_config=context.run_k8s_config,
    )
    made = ApiClient().sanitize_for_serialization(job)
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert made["spec"]["backoffLimit"] == 0
    assert "command" not in container
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["volumeMounts"] == code["volumeMounts"]
    assert pod["volumes"] == code["volumes"]
    assert pod["securityContext"]["runAsUser"] == 1000
    assert {"secretRef": {"name": "embed-assets"}} in container["envFrom"]
    assert all(each in container["env"] for each in code["env"])
    assert "DAGSTER_PG_PASSWORD" in {e["name"] for e in container["env"]}
    assert {t["tolerationSeconds"] for t in pod["tolerations"]} == {60}
