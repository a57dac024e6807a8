"""The tutorial and the how-tos do what they show; what cannot be tried here names the test that does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachesync.cli.arguments import build_parser
from tests.promises.documents import FENCE, TOP, Page, Step, Terminal, play

DOCS = sorted(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md"))
BLOCKS = {name: FENCE.findall((TOP / name).read_text("utf-8")) for name in ("README.md", *DOCS)}
SYNOPSIS = re.compile(r"cachesync [\[\]A-Z|a-z/. -]*\n")
PAGES = [name for name in DOCS if any(kind in ("console", "sh", "python") for kind, _ in BLOCKS[name])]


@pytest.mark.s3
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", PAGES)
def test_every_command_does_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = Page.read(name)
    monkeypatch.chdir(tmp_path)
    # A page that begins in a clone activates the environment itself.
    with closing(Terminal(tmp_path, active=all(step.command != "make run" for step in page.steps))) as terminal:
        wrong = list(play(page, terminal)) if page.steps else []
        if terminal.daemon is not None:
            assert terminal.interrupt() == 0
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", PAGES)
def test_what_others_try_is_tried(name: str):
    for mark in Page.read(name).tried:
        path, _, test = mark.partition("::")
        assert (TOP / path).exists(), mark
        assert re.search(rf"^def {re.escape(test)}\(", (TOP / path).read_text("utf-8"), re.MULTILINE), mark


def test_every_how_to_has_commands():
    assert {name for name in DOCS if "howto" in name} <= set(PAGES)


@pytest.mark.parametrize("name", BLOCKS)
def test_no_command_hides_where_nobody_types_it(name: str):
    for kind, text in BLOCKS[name]:
        if kind not in ("console", "sh") and not SYNOPSIS.fullmatch(text):
            assert not re.search(r"^(?:\$ |cachesync |pip |make |curl )", text, re.MULTILINE), text


def blocks_of(*kinds: str) -> list[tuple[str, str]]:
    return [(name, text) for name, blocks in BLOCKS.items() for kind, text in blocks if kind in kinds]


@pytest.mark.parametrize(("name", "text"), blocks_of("json", "toml", "yaml"))
def test_what_others_read_can_be_read(name: str, text: str, tmp_path: Path):
    """A workflow of GitHub, a configuration of Prometheus and an MCP client's command are given to what knows them."""
    told: Any = yaml.safe_load(text)  # JSON too
    assert told, name
    place = tmp_path / "told.yaml"
    if isinstance(told, list) and "run" in told[0]:
        job = {"runs-on": "ubuntu-latest", "steps": told}
        place.write_text(yaml.safe_dump({"on": "push", "jobs": {"job": job}}))
        _ran(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", place)
    elif "scrape_configs" in told:
        place.write_text(yaml.safe_dump({key: told[key] for key in told if key != "rule_files"}))
        if shutil.which("promtool") or os.environ.get("PROMETHEUS_TESTS") == "required":
            _ran("promtool", "check", "config", "--syntax-only", place)
    elif "mcpServers" in told:
        options = build_parser().parse_args(told["mcpServers"]["cachesync"]["args"])
        assert (options.command, options.session) == ("mcp", "demo")


def _ran(*words: str | Path) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_would_reach_out_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tests.promises.documents.TOP", tmp_path)
    for command in ("rm -r /etc/cachesync", "systemctl stop x", "docker run x", "echo x > /opt/x/y"):
        (tmp_path / "page.md").write_text(f"```sh\n{command}\n```\n")
        with pytest.raises(AssertionError, match="outside a temporary folder"):
            Page.read("page.md")
        (tmp_path / "page.md").write_text(f"<!-- tried by tests/x.py::test_x -->\n```sh\n{command}\n```\n")
        assert Page.read("page.md").tried == ["tests/x.py::test_x"]


def test_what_is_not_as_shown_is_told(tmp_path: Path):
    steps = [Step("echo a", ["a"]), Step("echo b", ["c"]), Step("false"), Step("false"), Step("echo $?", ["1"])]
    wrong = Terminal(tmp_path).type([*steps, Step("echo one; echo two", ["one", "..."])])
    assert [told.splitlines()[0] for told in wrong] == ["$ echo b", "$ false"]
