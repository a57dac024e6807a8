"""The README and the reference, held against the code: commands are run, tables, JSON and names compared."""

from __future__ import annotations

import io
import json
import pkgutil
import re
import socket
import subprocess
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cachesync.cli import entry as command_line
from cachesync.cli import flush as flush_command
from cachesync.cli.arguments import COMMANDS, build_parser
from cachesync.model import attributes, ignore
from cachesync.model.errors import ExitCode
from cachesync.model.values import Entry, FileStat, Kind, Stored, Version
from cachesync.sync import manifest
from docs import generate
from docs.samples import ANSWERS, ERROR
from tests.promises.documents import FENCE, TOP, Page, Terminal, play
from tests.promises.host import Host

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *sorted(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md")),
)
README = (TOP / "README.md").read_text("utf-8")
PROMISES = (TOP / "docs/promises.md").read_text("utf-8")
STORE = (TOP / "docs/reference/store.md").read_text("utf-8")
CLI = (TOP / "docs/reference/cli.md").read_text("utf-8")
IGNORE = (TOP / "docs/howto/ignore.md").read_text("utf-8")
ARCHITECTURE = (TOP / "docs/architecture.md").read_text("utf-8")
MOST_LINES = 250

T = TypeVar("T")


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_every_command_does_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    page = Page.read("README.md")
    with closing(Terminal(tmp_path)) as terminal:
        wrong = list(play(page, terminal))
        assert terminal.daemon is not None, "the README starts with make run"
        assert terminal.interrupt() == 0
    port = json.loads((tmp_path / ".dev-s3/ports.json").read_bytes())["s3.port"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert not wrong, "\n".join(wrong)


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= MOST_LINES
    assert "write-back" in "".join(README.splitlines()[:15])


# -- the tables --------------------------------------------------------------------------------------------------------


def table(heading: str, text: str = README) -> list[list[str]]:
    """The rows of the table whose head begins with ``heading``."""
    start = text.index(f"| {heading} |")
    lines = text[start:].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", generate.pages())
def test_the_reference_is_what_the_code_makes(name: str):
    made = generate.pages()[name]
    assert (TOP / "docs" / name).read_text("utf-8") == made, "run: python -m docs.generate"


def test_what_is_told_of_is_there():
    with pytest.raises(ValueError, match="gone"):
        generate.same({"gone": ""}, {"here": ""}, some=True)
    with pytest.raises(ValueError, match="here"):
        generate.same({}, {"here": ""})


def test_every_command_is_named():
    named = [word for row in table("command | does") for span in spans(row[0]) for word in span.split()]
    assert set(COMMANDS) <= set(named)
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {span for row in table("extra | brings") for span in spans(row[0])} == extras.keys()


@pytest.mark.parametrize("document", ["README.md", *(name for name in DOCUMENTS if "howto" in name)])
def test_every_option_that_is_named_exists(document: str):
    parser = build_parser()
    (choices,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    known = {option for child in (parser, *choices.values()) for option in child._option_string_actions}
    text = (TOP / document).read_text("utf-8")
    lines = [line for line in FENCE.sub("", text).splitlines() if "cachesync" in line]
    lines += [line for _, block in FENCE.findall(text) for line in block.splitlines() if "cachesync " in line]
    named = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    assert named <= known | {"--unix-socket", "--flush", "--transport", "--header"}, named - known


def test_every_promise_is_in_the_readme_and_has_a_text():
    numbers = [f"P{number}" for number in (*range(1, 18), 24)]
    short = table("| promise | | promise")
    assert [row[column] for column in (0, 2) for row in short if column < len(row)] == numbers
    titles = dict(re.findall(r"^## (P\d+) (.*)$", PROMISES, re.MULTILINE))
    assert list(titles) == numbers
    for number in numbers:
        assert list((TOP / "tests/promises").glob(f"test_p{number[1:]:0>2}_*.py")), number


def test_the_exit_codes_are_those_of_the_code():
    codes = {int(row[0]) for row in table("exit code | means", CLI)}
    assert codes == {*map(int, ExitCode), command_line.INTERRUPTED, command_line.OUTPUT_CLOSED}
    assert {int(row[0]) for row in table("exit code | means")} == set(map(int, ExitCode))
    first, *rest = (str(int(code)) for code in flush_command.WORST)
    assert f"the worst: {first}, then {', '.join(rest)}." in CLI


def test_what_an_object_carries_is_told():
    entry = _entry("main.tf", Kind.FILE)
    assert entry.stat is not None
    carried = attributes.for_file(entry, entry.stat, "00", "w", "try").metadata
    assert [spans(row[0])[0] for row in table("metadata | holds", STORE)] == list(carried)
    assert all(f"`{rule}`" in IGNORE for rule in ignore.DEFAULTS)


# -- the JSON ----------------------------------------------------------------------------------------------------------


def keys_of(value: Any) -> Any:
    """The shape of JSON: keys and lists, without the values."""
    if isinstance(value, dict):
        return {name: keys_of(inner) for name, inner in value.items()}
    return [keys_of(inner) for inner in value[:1]] if isinstance(value, list) else None


def made(what: type[T], /, **given: Any) -> T:
    """A value of a dataclass; what is not given is 0."""
    return what(**dict.fromkeys(what.__slots__, 0) | given)  # type: ignore[attr-defined]


REAL = [
    ("new", "new", "s1"),
    ("put", "put", "a.txt", "s1/a.txt"),
    ("cat", "cat", "s1/a.txt"),
    ("ls", "ls", "s1/"),
    ("get", "get", "s1/a.txt", "b.txt"),
    ("url", "url", "s1/a.txt"),
    ("history", "history", "s1/a.txt"),
    ("explain", "explain", "s1/a.txt"),
    ("retry", "retry"),
    ("flush", "flush", "s1", "--receipt"),
    ("status", "status"),
    ("verify", "verify", "s1"),
    ("migrate", "migrate", "old"),
    ("close", "close", "s1"),
    ("open", "open", "s1"),
    ("evict", "evict", "s1"),
    ("rm", "rm", "s1/a.txt"),
    ("restore", "restore", "s1/a.txt"),
    ("doctor", "doctor"),
    ("config", "config"),
    ("version", "version"),
]


@pytest.mark.s3
def test_real_answers_have_the_keys_that_are_shown(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    host.keep_versions()
    host.start()
    (host.folder / "a.txt").write_text("12345")
    (host.folder / "old/s9").mkdir(parents=True)
    (host.folder / "old/s9/x").write_text("1")
    for name, *words in REAL:
        done = host.run(*words, "--json")
        assert done.code == 0, (words, done)
        shown, real = ANSWERS[name], json.loads(done.out)
        if isinstance(shown, list):
            shown, real = shown[0], real[0]
        assert list(shown) == list(real), words
        for key, value in real.items():
            inner, told = keys_of(value), keys_of(shown[key])
            if inner and isinstance(value, dict | list):  # an empty list has no shape
                assert _fits(inner, told), (words, key, inner, told)
    host.stop()  # rebind is for when no daemon runs
    done = host.run("rebind", "--json")
    assert (done.code, list(done.json)) == (0, list(ANSWERS["rebind"]))
    assert set(ANSWERS) - {name for name, *_ in REAL} == {"rebind", "umount"}  # tests/mount does the latter


def _fits(real: Any, shown: Any) -> bool:
    """Whether a shape is the one that is shown; lists may be empty, and what is null may be anything."""
    if isinstance(real, dict) and isinstance(shown, dict):
        return list(real) == list(shown) and all(_fits(real[key], shown[key]) for key in real)
    if isinstance(real, list) and isinstance(shown, list):
        return not real or (bool(shown) and _fits(real[0], shown[0]))
    return real is None or shown is None


def test_an_error_has_the_keys_that_are_shown(host: Host):
    assert keys_of(json.loads(host.run("flush", "nowhere", "--json").out)) == keys_of(ERROR)


def test_the_manifest_is_as_shown():
    (shown,) = (text for kind, text in FENCE.findall(STORE) if kind == "json" and '"format"' in text)
    out = io.BytesIO()
    entries = [_entry("d/", Kind.DIRECTORY), _entry("l", Kind.LINK), _entry("f", Kind.FILE)]
    manifest.write(out, entries, session="s", state="open", host="h", now=0.0, mode=0o700, owner=1000)
    example, real = json.loads(shown), json.loads(out.getvalue())
    assert list(example) == list(real)
    assert [list(row) for row in example["entries"]] == [list(row) for row in real["entries"]]
    assert example["format"] == manifest.FORMAT


def _entry(path: str, kind: Kind) -> Entry:
    stat = FileStat(kind, 1, 0, 0, 0, 0o644, "t" if kind is Kind.LINK else None)
    stored = Stored(Version("e"), 1, "00", 0, 0o644, 0.0) if kind is Kind.FILE else None
    return made(
        Entry, session="s", path=path, kind=kind, resident=True, stat=stat, stored=stored, gone_at=None, superseded=None
    )


# -- the names ---------------------------------------------------------------------------------------------------------

PATH = re.compile(
    r"(?:cachesync|tests|docs|bench|systemd|deploy|\.ci)/[\w./-]*|Makefile|pyproject\.toml|[A-Z]+(?:\.md)?"
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str):
    text = (TOP / document).read_text("utf-8")
    named = [span for span in spans(FENCE.sub("", text)) if PATH.fullmatch(span) and ("/" in span or "." in span)]
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]
    missing = [path for path in named if not (TOP / path).exists()]
    missing += [target for target in targets if not leads_somewhere(TOP / document, target)]
    assert not missing


def leads_somewhere(document: Path, target: str) -> bool:
    """Whether a link of a document has a file, and in it the heading that it names."""
    path, mark, heading = target.partition("#")
    other = document.parent / path if path else document
    if not other.exists() or not mark:
        return other.exists()
    lines = [line.lstrip("# ").lower() for line in other.read_text("utf-8").splitlines() if line.startswith("#")]
    return heading in {re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in lines}


def test_every_name_of_the_architecture_exists():
    texts = [ARCHITECTURE, *(page.read_text("utf-8") for page in (TOP / "docs/decisions").glob("*.md"))]
    named = {span for text in texts for span in spans(text) if re.fullmatch(r"[a-z_]+(\.\w+)+", span)}
    found = {span for span in named if not span.endswith((".py", ".toml", ".txt"))}
    assert found
    for span in found:
        pkgutil.resolve_name(f"cachesync.{span}")


def test_the_layers_are_those_of_the_contract():
    (contract,) = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rank = {
        name.strip("() "): number for number, layer in enumerate(contract["layers"]) for name in re.split("[|:]", layer)
    }
    section = ARCHITECTURE[ARCHITECTURE.index("## The layers") : ARCHITECTURE.index("## Invariants")]
    told = [name for line in section.splitlines() if line.startswith("| `") for name in spans(line.split(" | ")[0])]
    names = [Path(name).name for name in told]
    assert set(names) == {path.parent.name for path in (TOP / "cachesync").glob("*/__init__.py")}
    assert [rank[name] for name in names] == sorted(rank[name] for name in names)


def test_the_licence_is_the_one_that_is_named():
    text = (TOP / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.+)$", (TOP / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony
    done = subprocess.run(["make", "-s", "help"], cwd=TOP, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == phony[1].split()
    assert all(line.split(maxsplit=1)[1] for line in done.stdout.splitlines())
