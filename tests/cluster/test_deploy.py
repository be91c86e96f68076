"""What is ready-made for platforms that are not here: schemas, syntax, names and ports."""

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import VERBS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
RAY_PORT, DASHBOARD_PORT, MLFLOW_PORT = 6379, 8265, 5000  # Ray's and MLflow's own


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def clusters():
    """The Ray cluster in each file of Kubernetes."""
    (_, cluster), (job,) = (
        documents("kubernetes/raycluster.yaml"),
        documents("kubernetes/rayjob.yaml"),
    )
    return [cluster["spec"], job["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_rays_launcher_takes_the_file_of_a_cloud(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(f"ray-{cloud}.yaml")
    validate_config(prepare_config(config))
    starts = (*config["head_start_ray_commands"], *config["worker_start_ray_commands"])
    for command in (own for own in starts if "ray start" in own):
        assert command.startswith("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/home/ray/token ")
        assert re.search(rf"--port={RAY_PORT} |RAY_HEAD_IP:{RAY_PORT} ", command)
    assert "/home/ray/token" in config["file_mounts"]


def test_the_clusters_of_kubernetes_are_those_of_this_ray_with_a_token_and_a_shared_disk():
    for spec in clusters():
        assert spec["rayVersion"] == metadata.version("ray")
        assert spec["authOptions"] == {"mode": "token"}
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        for group in groups:
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            own = {variable["name"]: variable["value"] for variable in container["env"]}
            assert own["MLFLOW_TRACKING_URI"].endswith(f":{MLFLOW_PORT}")
        ports = groups[0]["template"]["spec"]["containers"][0]["ports"]
        named = {port["name"]: port["containerPort"] for port in ports}
        assert named == {"gcs-server": RAY_PORT, "dashboard": DASHBOARD_PORT}
    (job,) = documents("kubernetes/rayjob.yaml")
    assert "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
    assert job["spec"]["suspend"]
    assert job["spec"]["shutdownAfterJobFinishes"]


def test_scripts_are_valid_and_commands_are_ours():
    script = DEPLOY / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    text = "\n".join(path.read_text() for path in FILES)
    typed = set(re.findall(r"\borchestrate ([a-z]+)\b(?!:)", text)) - {"image"}
    assert {"run", "up", "down"} <= typed
    assert typed <= set(VERBS), typed - set(VERBS)
    experiments = set(re.findall(r"experiment=(\w+)", text))
    assert all((ROOT / "conf" / "experiment" / f"{name}.yaml").exists() for name in experiments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (asked,) = re.findall(r'-e "\.\[(.*)\]"', (DEPLOY / "Dockerfile").read_text())
    assert set(asked.split(",")) <= set(project["optional-dependencies"])


def test_no_file_holds_a_secret_or_lets_one_stand_on_a_command_line():
    (compose,) = documents("mlflow/compose.yaml")
    wanted = set(re.findall(r"\$\{(\w+):\?\}", (DEPLOY / "mlflow/compose.yaml").read_text()))
    example = dict(
        line.split("=", 1) for line in (DEPLOY / "mlflow/settings.example").read_text().splitlines()
    )
    assert wanted <= set(example)
    assert not any(example[name] for name in wanted), "an example with words in it would be kept"
    server = compose["services"]["mlflow"]
    assert "PASSWORD" not in server["command"]
    assert "--app-name basic-auth" in server["command"]
    assert server["ports"] == [f"{MLFLOW_PORT}:{MLFLOW_PORT}"]
    unit = (DEPLOY / "orchestrate.service").read_text()
    assert "ExecStart=/usr/bin/env orchestrate up" in unit
    assert "ExecStop=/usr/bin/env orchestrate down" in unit


def test_the_readme_names_every_file():
    told = (DEPLOY / "README.md").read_text()
    for path in FILES:
        if path.name not in ("README.md", "settings.example"):
            assert path.name in told
