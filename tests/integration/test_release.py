"""What a release is: a wheel and a source archive, built, looked into, installed into a fresh environment and used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import cachesync
from cachesync.cli.arguments import COMMANDS

TOP = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]

pytestmark = pytest.mark.slow


def ran(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what ``make build`` makes. The wheel is built from the source archive, as pip does it elsewhere."""
    out = tmp_path_factory.mktemp("dist")
    # A clean environment, and no network: the backend is there.
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, TOP, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel; what it depends on is lent by the one that runs the tests."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    ran(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin/python"
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    purelib = ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A plain path: the .pth files in it, and so the editable install, are not looked at.
    Path(purelib, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert licence
    assert {name.partition("/")[0] for name in names} == {"cachesync"}
    assert not any("test" in Path(name).name or "__pycache__" in name for name in names)
    there = {
        str(path.relative_to(TOP))
        for path in (TOP / "cachesync").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there <= set(names), "every file of the package: py.typed, the prices, the page"
    assert {"cachesync/py.typed", "cachesync/ops/cost/prices.toml"} <= set(names)


def test_the_source_archive_has_what_a_clone_has(built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for path in (
        *("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "Makefile", "mkdocs.yml", ".ci/run"),
        *("pyproject.toml", "systemd/cachesync.service", "deploy/kubernetes.yaml", "deploy/docker-compose.yml"),
        *("deploy/probe.py", "docs/index.md", "tests/conftest.py", "bench/__main__.py"),
    ):
        assert path in names, path
    assert not any(part in name.split("/") for name in names for part in (".venv", "__pycache__", ".git", "site"))


def test_the_metadata_says_what_it_is(wheel: Path, built: Path):
    told = metadata(wheel)
    assert told["Name"] == "cachesync"
    assert told["Version"] == cachesync.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert told["Description-Content-Type"] == "text/markdown"
    assert set(told.get_all("Provides-Extra", [])) == PROJECT["optional-dependencies"].keys()
    assert {"dev-server", "mcp", "watch", "docs"} <= PROJECT["optional-dependencies"].keys()
    ran(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_the_command_works(installed: Path, tmp_path: Path):
    command = installed / "cachesync"
    assert ran(command, "--version", cwd=tmp_path, env=environ(tmp_path)) == f"cachesync {cachesync.__version__}\n"
    helped = ran(command, "--help", cwd=tmp_path, env=environ(tmp_path))
    assert all(name in helped for name in COMMANDS)
    (tmp_path / "sessions/demo").mkdir(parents=True)
    (tmp_path / "sessions/demo/a.txt").write_text("12345")
    told = json.loads(ran(command, "flush", "demo", "--json", cwd=tmp_path, env=environ(tmp_path)))
    assert told["stored"] is True
    assert told["bytes"] == 5
    assert "complete" in ran(command, "completion", "bash", cwd=tmp_path, env=environ(tmp_path))
    assert "month" in ran(command, "cost", "--sessions", "10", cwd=tmp_path, env=environ(tmp_path))


LOOK = """
import sys, fsspec, importlib.metadata as metadata
import cachesync, cachesync.ops.cost
from importlib.resources import files
assert cachesync.__file__.startswith(sys.prefix), cachesync.__file__
assert files("cachesync").joinpath("py.typed").is_file()
assert fsspec.get_filesystem_class("cachesync").__module__.startswith("cachesync.")
(script,) = {point.value for point in metadata.entry_points(group="console_scripts", name="cachesync")}
assert script == "cachesync.cli:main", script
from cachesync import ArtifactStore, Client
"""


def test_programs_find_it(installed: Path, tmp_path: Path):
    ran(installed / "python", "-c", LOOK, cwd=tmp_path, env=environ(tmp_path))
