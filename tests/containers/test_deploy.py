"""``deploy/``: the files are what Compose and Kubernetes take, and what they say fits the image and the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cachesync.api.routes import Routes
from cachesync.cli.arguments import build_parser
from cachesync.config import SETTINGS, load

TOP = Path(__file__).resolve().parents[2]
COMPOSE = TOP / "deploy/docker-compose.yml"
KUBERNETES = TOP / "deploy/kubernetes.yaml"
DOCKERFILE = (TOP / "Dockerfile").read_text("utf-8")
KNOWN = {name for setting in SETTINGS.values() for name in setting.environment}
OF_AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def environment_of_the_image() -> dict[str, str]:
    (block,) = re.findall(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    return dict(word.split("=", 1) for word in shlex.split(block.replace("\\\n", " ")))


def seconds(text: str) -> float:
    amount, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()  # type: ignore[union-attr]
    return int(amount) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def config_of(environment: dict[str, str]) -> Any:
    """What the daemon makes of it; it refuses what it does not take."""
    for name in environment:
        assert name in KNOWN | OF_AWS, name
    return load({}, environment_of_the_image() | environment, Path("/"), system_file=Path("/none"))


# -- Compose -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return loaded


def test_compose_keeps_to_its_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_gives_the_sidecar_what_it_needs(compose: dict[str, Any]):
    services = compose["services"]
    sidecar, s3, agent = services["cachesync"], services["s3"], services["agent"]
    config = config_of(sidecar["environment"])
    assert config.store.bucket == s3["environment"]["S3_BUCKET"]
    assert config.endpoint == "http://s3:8333"
    assert "http://127.0.0.1:8333/" in s3["healthcheck"]["test"][-1]
    assert seconds(sidecar["stop_grace_period"]) >= config.drain_timeout + 10
    assert (TOP / "deploy" / sidecar["build"]["context"] / "Dockerfile").samefile(TOP / "Dockerfile")
    shared = f"sessions:{config.root}"
    assert shared in sidecar["volumes"]
    assert shared in agent["volumes"]
    assert agent["depends_on"]["cachesync"]["condition"] == "service_healthy", "the image's HEALTHCHECK"
    assert sidecar["read_only"] is True
    assert sidecar["cap_drop"] == ["ALL"]
    user, group = re.findall(r"^ARG [UG]ID=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert agent["user"] == f"1000:{group}"
    assert user != "1000", "a user of its own"
    assert (str(config.agent_socket), config.agent_group) == (agent["environment"]["CACHESYNC_SOCKET"], group)
    assert "run:/run/cachesync" in sidecar["volumes"]
    assert "run:/run/cachesync:ro" in agent["volumes"]
    assert config.socket.is_relative_to(config.root / ".cachesync"), "where no agent gets"
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert named == compose["volumes"].keys()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert s3["environment"][name] == sidecar["environment"][name]
        assert name not in agent.get("environment", {})


def test_compose_stand_in_for_the_agent_says_what_the_command_line_takes(compose: dict[str, Any]):
    (script,) = compose["services"]["agent"]["command"]
    last = script.strip().rpartition("exec cachesync ")[2]
    assert build_parser().parse_args(last.split()).command == "flush"


# -- Kubernetes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all(KUBERNETES.read_text("utf-8"))}


@pytest.fixture(scope="module")
def pod(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = resources["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_kubernetes_keeps_to_its_schemas(resources: dict[str, dict[str, Any]], version: str):
    for resource in resources.values():
        kubernetes_validate.validate(resource, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resources["Deployment"] | {"spec": {"replica": 1}}, version, strict=True)


def test_kubernetes_gives_the_sidecar_what_it_needs(pod: dict[str, Any]):
    (sidecar,) = pod["initContainers"]
    (agent,) = pod["containers"]
    assert sidecar["restartPolicy"] == "Always", "a native sidecar"
    config = config_of({row["name"]: row["value"] for row in sidecar["env"]})
    mounts = {row["name"]: row["mountPath"] for row in sidecar["volumeMounts"]}
    assert mounts["sessions"] == str(config.root)
    assert mounts["state"] == str(config.state)
    assert mounts["socket"] == str(config.agent_socket.parent.parent), "a volume's own folder is everybody's"
    assert config.socket.is_relative_to(config.state), "the operator's, which the agent does not have"
    assert mounts.keys() == {row["name"] for row in pod["volumes"]}
    theirs = {row["name"]: row["mountPath"] for row in agent["volumeMounts"]}
    assert theirs == {name: mounts[name] for name in ("sessions", "socket")}, "and not the state"
    told = config_of({row["name"]: row["value"] for row in agent["env"]})
    assert (told.root, told.socket) == (config.root, config.agent_socket)
    assert next(row["readOnly"] for row in agent["volumeMounts"] if row["name"] == "socket") is True
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    user, group = re.findall(r"^ARG [UG]ID=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert [str(pod["securityContext"][name]) for name in ("runAsUser", "runAsGroup")] == ["1000", group]
    assert str(sidecar["securityContext"]["runAsUser"]) == user == told.daemon_user != "1000", "a user of its own"
    assert config.agent_group == group == str(pod["securityContext"]["fsGroup"])


def test_kubernetes_leaves_time_for_the_flush_and_the_drain(pod: dict[str, Any]):
    (sidecar,) = pod["initContainers"]
    program, *words = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "cachesync"
    flush = build_parser().parse_args(words)
    assert flush.command == "flush"
    assert flush.all
    config = config_of({row["name"]: row["value"] for row in sidecar["env"]})
    assert pod["terminationGracePeriodSeconds"] >= flush.timeout + config.drain_timeout + 10


def test_kubernetes_probes_ask_routes_that_are_there(pod: dict[str, Any]):
    (sidecar,) = pod["initContainers"]
    routes = {route.path for route in Routes(None, bool, bool).table()}  # type: ignore[arg-type]
    asked = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, route = sidecar[name]["exec"]["command"]
        assert program == "cachesync-probe"
        assert f"/bin/{program}" in DOCKERFILE
        assert route in routes
        assert sidecar[name]["timeoutSeconds"] > probe_patience()
        asked[name] = route
    assert asked["livenessProbe"] == "/healthz", "readiness is no reason to restart"


def test_the_health_check_outlasts_the_probe():
    (timeout,) = re.findall(r"^HEALTHCHECK .*--timeout=(\w+) ", DOCKERFILE, re.MULTILINE)
    assert seconds(timeout) > probe_patience()


def probe_patience() -> float:
    (found,) = re.findall(r"^_PATIENCE = ([\d.]+)$", (TOP / "deploy/probe.py").read_text("utf-8"), re.MULTILINE)
    return float(found)


def test_irsa_reaches_the_sidecar_alone(resources: dict[str, dict[str, Any]], pod: dict[str, Any]):
    account = resources["ServiceAccount"]["metadata"]
    assert account["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    assert pod["serviceAccountName"] == account["name"]
    annotations = resources["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["eks.amazonaws.com/skip-containers"] == pod["containers"][0]["name"]


@pytest.mark.parametrize(("name", "extras"), [("", []), ("-mcp", ["mcp"]), ("-build", None)])
def test_what_the_image_installs_is_known_by_its_hash(name: str, extras: list[str] | None):
    """``make requirements`` writes the files."""
    text = (TOP / f"deploy/requirements{name}.txt").read_text("utf-8")
    assert "://" not in text, "no registry"
    pinned = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        if block.startswith("#"):
            continue
        requirement, *hashes = block.replace("\\\n", "").split(" --hash=sha256:")
        found = Requirement(requirement.strip())
        (exact,) = found.specifier
        assert exact.operator == "==", block
        assert hashes, block
        assert all(re.fullmatch(r"[0-9a-f]{64}", one.strip()) for one in hashes), block
        pinned[canonicalize_name(found.name)] = exact.version
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
    wanted = project["build-system"]["requires"] if extras is None else [*project["project"]["dependencies"]]
    for extra in extras or []:
        wanted += project["project"]["optional-dependencies"][extra]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text
    assert "--require-hashes" in DOCKERFILE
    assert not re.findall(r"pip .*install (?!.*(?:--require-hashes|--no-deps))", DOCKERFILE.replace("\\\n", ""))


def test_the_build_is_given_what_it_copies_and_no_more():
    rules = (TOP / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert "*" in rules
    assert copied == let_in
    assert all((TOP / name).exists() for name in copied)
    assert json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[0]) == ["run"]
