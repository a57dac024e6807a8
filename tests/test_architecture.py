"""The shape of the code: who imports what, how long a module gets, what is written down and what is called what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
MODULES = sorted((TOP / "cachesync").rglob("*.py"))
MOST_LINES = 500

# Each outside thing has one owner; only there does its name appear.
OWNERS = {
    # diskcache is SQLite, and its errors and connection are.
    "sqlite3": ["journal", "read.cache"],
    "s3fs": ["store"],
    # The front is a file system of fsspec's.
    "fsspec": ["store", "programs.fsspec_fs"],
    "mcp": ["programs.mcp_server"],
    # What the SDK is made of, and takes its schemas from.
    "mcp_types": ["programs.mcp_server"],
    "pydantic": ["programs.mcp_server"],
    "typing_extensions": ["programs.mcp_server"],
    "uvicorn": ["programs.mcp_server"],
    "botocore": ["store"],
    # CloudWatch has a session and a loop of its own.
    "aiobotocore": ["store", "telemetry.cloudwatch"],
    "watchdog": ["watch"],
    "tenacity": ["model.policy"],
    "diskcache": ["read.cache"],
    "prometheus_client": ["telemetry.metrics"],
    "argcomplete": ["cli.completion"],
    "rich": ["cli.screen"],
    # The store only to name aiohttp's errors, which s3fs lets through.
    "aiohttp": [
        "api.agents",
        "api.artifact_routes",
        "api.guard",
        "api.http_io",
        "api.lifecycle_routes",
        "api.observe_routes",
        "api.ondemand_routes",
        "api.page_routes",
        "api.pending_routes",
        "api.routes",
        "api.server",
        "api.streams",
        "api.tcp",
        "store",
    ],
}
NO_NAME_FOR_A_MODULE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core", "base_utils"}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(module: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def every_module(test):
    return pytest.mark.parametrize("path", MODULES, ids=dotted)(test)


def test_a_module_imports_only_what_lies_below_it():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@every_module
def test_outside_things_have_one_owner(path):
    for name in imported(parse(path)) & OWNERS.keys():
        places = [f"cachesync.{owner}" for owner in OWNERS[name]]
        assert any(f"{dotted(path)}.".startswith(f"{place}.") for place in places), f"{name} belongs to {places}"


@every_module
def test_every_outside_thing_is_known(path):
    outside = imported(parse(path)) - sys.stdlib_module_names - {"cachesync"}
    assert outside <= OWNERS.keys(), f"give it an owner: {outside - OWNERS.keys()}"


@every_module
def test_modules_stay_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@every_module
def test_modules_are_called_what_they_are_for(path):
    assert not NO_NAME_FOR_A_MODULE & set(dotted(path).split("."))


@every_module
def test_everything_public_is_described(path):
    module = parse(path)
    missing = [] if ast.get_docstring(module) or not module.body else [dotted(path)]

    def look(body: list[ast.stmt], inside: str, *, excused: bool) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                overload = any("overload" in ast.unparse(mark) for mark in node.decorator_list)
                if not ast.get_docstring(node) and not excused and not overload:
                    missing.append(f"{inside}.{node.name}")
                if isinstance(node, ast.ClassDef):
                    # The small verbs of a protocol, and those who carry them out, are told in the protocol.
                    look(node.body, f"{inside}.{node.name}", excused=bool(node.bases))

    look(module.body, dotted(path), excused=False)
    assert not missing


@every_module
def test_only_the_command_line_prints(path):
    if "cli" in dotted(path).split("."):
        return
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not prints, f"line {prints}"
