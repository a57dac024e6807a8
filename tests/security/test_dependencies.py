"""P16: no file of ours can run code when it is read, and no dependency is older than what is known to be mended."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import diskcache
import pytest

from cachesync.read.cache.database import Database
from cachesync.read.cache.disk import BytesDisk

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = sorted((REPOSITORY / "cachesync").rglob("*.py"))

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "joblib", "yaml", "code"}
"""Modules whose reading of a file can run what is in it."""

MENDED = {"aiohttp": (3, 14, 1), "diskcache": (5, 6, 3)}
"""The versions from which on all that is publicly known to concern us is mended, or (diskcache's CVE-2025-69872: it
unpickles what is in its folder) cannot happen here, which this file and tests/integration/test_cache.py show."""


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_p16_nothing_of_ours_runs_what_it_reads(path: Path):
    tree = ast.parse(path.read_text("utf-8"))
    assert not imports(tree) & RUNS_CODE
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}
    text = path.read_text("utf-8")
    assert "shell=True" not in text
    assert "os.system" not in text
    assert "/cache/" in str(path) or "diskcache" not in imports(tree)


def test_p16_diskcache_is_used_through_our_strict_disk_only():
    """Every way by which its own Disk would unpickle is ours, and refuses."""
    inherited = {name for name in ("put", "get", "store", "fetch", "remove") if name not in vars(BytesDisk)}
    assert not inherited
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diskcache":
                assert node.attr in ("Cache", "Disk", "Timeout"), (path, node.attr)
    assert issubclass(Database, diskcache.Cache)


_READS = """
import pickle, sys
def never(*_, **__):
    raise SystemExit("something was unpickled")
pickle.loads = pickle.load = pickle.Unpickler = pickle._Unpickler = never
import diskcache.core
diskcache.core.pickle = pickle
from pathlib import Path
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BlockCache
from cachesync.model.values import Version
for _ in range(2):  # one that writes, one that reads what the last one wrote
    cache = BlockCache(Path(sys.argv[1]), 1 << 20)
    for size in (10, 100_000):
        cache.put(f"k{size}", Version("v"), 0, Block(b"x" * size))
    cache.close()
    cache = BlockCache(Path(sys.argv[1]), 1 << 20)
    for size in (10, 100_000):
        assert cache.get(f"k{size}", Version("v"), 0).data == b"x" * size
    cache.close()
print("done")
"""


def test_p16_nothing_is_ever_unpickled(tmp_path: Path):
    """With pickle's readers taken away, the cache writes and reads as ever."""
    done = subprocess.run(
        [sys.executable, "-c", _READS, str(tmp_path / "cache")],
        capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


def declared() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]


def test_p16_every_dependency_has_a_floor():
    """None may be of any age; the private parts that we build on are pinned."""
    for line in declared():
        assert re.search(r"(>=|==)\s*\d", line), line
    assert "diskcache==5.6.3" in declared()


@pytest.mark.parametrize("name", MENDED)
def test_p16_what_is_installed_is_mended(name: str):
    found = tuple(int(part) for part in version(name).split(".")[:3])
    assert found >= MENDED[name]
