"""The documents, held against the code: the README's commands are run, its tables, JSON and names compared."""

from __future__ import annotations

import io
import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cachesync import attributes, ignore, manifest
from cachesync.cli import entry as command_line
from cachesync.cli import flush as flush_command
from cachesync.cli.arguments import COMMANDS, build_parser
from cachesync.config import SETTINGS, load
from cachesync.control.client import ControlClient
from cachesync.control.routes import Routes
from cachesync.control.wire import error_json
from cachesync.doctor.finding import problem
from cachesync.errors import ExitCode, NoSuchSession
from cachesync.model import Conflict, Entry, FileStat, Kind, Skipped, Stored, Version
from cachesync.outcomes import Artifact, EvictReport, MigrateReport, OpenReport, PastVersion, VerifyReport
from cachesync.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(f"docs/{p.name}" for p in TOP.glob("docs/*.md")))
README = (TOP / "README.md").read_text("utf-8")
ARCHITECTURE = (TOP / "docs/architecture.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "\0"

T = TypeVar("T")


# -- the commands ------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A command of the README and the lines that it shows below."""

    command: str
    shown: list[str] = field(default_factory=list)

    def fits(self, said: str) -> bool:
        """Whether the output is what is shown: ``...`` stands for anything, alone on a line for any lines."""
        return re.fullmatch("".join(map(_pattern, self.shown)), _spaced(said)) is not None


def _spaced(text: str) -> str:
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines())


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    return re.escape(" ".join(line.split())).replace(re.escape("..."), ".*") + r"\n"


def steps() -> Iterator[Step]:
    for kind, text in FENCE.findall(README):
        if kind == "sh":
            yield from map(Step, text.splitlines())
        elif kind == "console":
            step = None
            for line in text.splitlines():
                if line.startswith("$ "):
                    if step is not None:
                        yield step
                    step = Step(line[2:])
                else:
                    assert step is not None, f"output without a command: {line}"
                    step.shown.append(line)
            if step is not None:
                yield step


def makes(target: str) -> list[str]:
    """What make would run for a target."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", target]
    done = subprocess.run(command, cwd=TOP, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


class Terminal:
    """A folder as a fresh clone is after its set-up, and a daemon in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "daemon.log"
        (folder / ".venv").symlink_to(sys.prefix)
        # A fresh terminal: cachesync is not on the path before somebody activates the environment.
        places = os.environ["PATH"].split(":")
        path = ":".join(place for place in places if not Path(place, "cachesync").exists())
        self.environ = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "AWS_EC2_METADATA_DISABLED": "true"}
        self.daemon: subprocess.Popen[bytes] | None = None

    def serve(self, command: str, shown: Step) -> str | None:
        """Start the daemon and wait until it serves; returns what it said, or None if that is what is shown."""
        with open(self.log, "wb") as log:
            self.daemon = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        control = ControlClient(self.folder / "sessions/.cachesync/control.sock")
        deadline = time.monotonic() + 25
        while not control.is_serving():
            assert self.daemon.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        said = ""
        while time.monotonic() < deadline and said.count("\n") < len(shown.shown):
            time.sleep(0.05)
            said = "".join(line for line in self.log.read_text().splitlines(True) if not line.startswith("{"))
            if not said and time.monotonic() > deadline - 20:
                break
        return None if shown.fits(said) else said

    def type(self, commands: list[str]) -> list[str]:
        """One shell for all of them; returns what each said."""
        lines = [f"{command}\n__code=$?; printf '\\0'; (exit $__code)" for command in commands]
        script = "exec 2>&1\n" + "\n".join(lines)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=45,
            check=False,
        )
        return done.stdout.decode().split(END)[:-1]

    def interrupt(self) -> int:
        """Ctrl-C."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGINT)
        return self.daemon.wait(30)

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.s3
def test_every_command_does_what_the_readme_shows(terminal: Terminal):
    typed: list[Step] = []
    wrong: list[tuple[str, list[str], str]] = []
    for step in steps():
        if step.command == "make run":
            command = makes("run")[-1]
            assert command == ".venv/bin/cachesync run --dev-server .dev-s3"
            if (said := terminal.serve(command, step)) is not None:
                wrong.append((step.command, step.shown, said))
        elif step.command == "make test":
            assert any("pytest" in line for line in makes("test"))  # it runs this test, so it is not run by it
        elif step.command.startswith("pip install "):
            _check_install(step.command)
        elif "curl " not in step.command or _has_curl():
            typed.append(step)
    assert terminal.daemon is not None, "the README starts with make run"
    told = terminal.type([step.command for step in typed])
    assert len(told) == len(typed), f"the shell ended after {typed[len(told) - 1].command!r}"
    wrong += [(step.command, step.shown, said) for step, said in zip(typed, told, strict=True) if not step.fits(said)]
    assert terminal.interrupt() == 0
    port = json.loads((terminal.folder / ".dev-s3/ports.json").read_bytes())["s3.port"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert not wrong, "\n".join(f"$ {command}\nshown {shown}\nsaid  {said!r}" for command, shown, said in wrong)


def _has_curl() -> bool:
    return subprocess.run(["bash", "-c", "command -v curl"], capture_output=True, check=False).returncode == 0


def _check_install(command: str) -> None:
    """Not run, since it asks the network: but what it asks for is there."""
    target = re.fullmatch(r"pip install '?\.(?:\[([a-z,-]+)\])?'?", command)
    assert target, command
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(filter(None, (target[1] or "").split(","))) <= project["optional-dependencies"].keys()


# -- the tables --------------------------------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``heading``."""
    start = README.index(f"| {heading} |")
    lines = README[start:].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def test_every_setting_is_in_the_table_as_it_is():
    rows = table("setting | environment | default")
    assert [spans(row[0]) for row in rows] == [[name] for name in SETTINGS]
    config = load({}, {"HOME": "/home/me"}, Path("/w"), system_file=Path("/none"))
    shown = {source.name: source.value for source in config.sources()}
    for setting, (_, environment, default, *_rest) in zip(SETTINGS.values(), rows, strict=True):
        assert tuple(spans(environment)) == setting.environment
        expected = setting.default or (
            shown[setting.name]
            .replace(shown["state"] + "/", "STATE/")
            .replace(shown["root"], "ROOT")
            .replace("/home/me", "~")
        )
        assert spans(default)[:1] == ([expected] if expected else []), setting.name


def test_every_command_and_option_is_told():
    rows = table("command | does")
    assert [spans(row[0])[0].split()[1] for row in rows] == list(COMMANDS)
    parser = build_parser()
    (choices,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    known = set(parser._option_string_actions)
    for row, (name, child) in zip(rows, choices.items(), strict=True):
        own = {option for option in child._option_string_actions if option.startswith("--")} - known
        known |= own
        missing = {option for option in own - {"--json"} if option not in " ".join(row)}
        assert not missing, f"{name}: {missing}"
    pictures = re.sub(r"^```\n.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", pictures))
    assert named <= known | {"--unix-socket"}, named - known


def test_the_exit_codes_are_those_of_the_code():
    codes = {int(row[0]) for row in table("exit code | means")}
    assert codes == {*map(int, ExitCode), command_line.INTERRUPTED, command_line.OUTPUT_CLOSED}
    first, *rest = (str(int(code)) for code in flush_command.WORST)
    assert f"the worst: {first}, then {', '.join(rest)}." in README


def test_the_routes_are_those_of_the_socket():
    routes = Routes(None, bool, bool).table()  # type: ignore[arg-type]
    real = [f"{route.method} " + re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path) for route in routes]
    assert [spans(row[0])[0] for row in table("route | query")] == real


def test_what_an_object_carries_is_told():
    entry = _entry("main.tf", Kind.FILE)
    assert entry.stat is not None
    carried = attributes.for_file(entry, entry.stat, "00", "w").metadata
    assert [spans(row[0])[0] for row in table("metadata | holds")] == list(carried)
    assert all(f"`{rule}`" in README for rule in ignore.DEFAULTS)


# -- the JSON ----------------------------------------------------------------------------------------------------------


def keys_of(value: Any) -> Any:
    """The shape of JSON: keys and lists, without the values."""
    if isinstance(value, dict):
        return {name: keys_of(inner) for name, inner in value.items()}
    return [keys_of(inner) for inner in value[:1]] if isinstance(value, list) else None


def made(what: type[T], /, **given: Any) -> T:
    """A value of a dataclass; what is not given is 0."""
    return what(**dict.fromkeys(what.__slots__, 0) | given)  # type: ignore[attr-defined]


_failures = [Failure("a", "e")]
_pending = [Pending("b", "r")]
_skipped = [Skipped("d", "r")]
REAL: dict[str, Any] = {
    "flush": FlushReport(
        "s",
        stored=True,
        failed=_failures,
        pending=[Pending("b", "r")],
        conflicts=[Conflict("c", "k")],
        skipped=[Skipped("d", "r")],
        entries=[ReceiptLine("p", "k", 1, "s", "v", None)],
    ).json(),
    "status": StatusReport(
        "r",
        "s",
        DaemonStatus(1, "v", 1.0),
        [made(SessionStatus, failures=_failures, oldest_dirty_age=None)],
        ["note"],
        0.0,
    ).json(),
    "explain": made(Story, path="p").json(),
    "ls": [made(Artifact, address="a").json()],
    "history": [made(PastVersion, address="a").json()],
    "open": made(
        OpenReport, directory="d", failed=_failures, pending=_pending, skipped=_skipped, flaws=["x"], seconds=0.0
    ).json(),
    "evict": made(EvictReport, kept=_pending).json(),
    "verify": made(VerifyReport, differences=_failures, pending=_pending, seconds=0.0).json(),
    "migrate": made(
        MigrateReport,
        source="s",
        conflicts=[Conflict("c", "k")],
        failed=_failures,
        pending=_pending,
        skipped=_skipped,
        seconds=0.0,
    ).json(),
    "doctor": [problem("c", "s", "m").json()],
    "retry": {"retried": 0},
    "version": {"version": "v"},
    "config": [{"name": "n", "value": "v", "source": "s"}],
    "error": error_json(NoSuchSession("flush", "s")),
}


@pytest.mark.parametrize("name", REAL)
def test_json_has_the_keys_that_are_shown(name: str):
    (shown,) = re.findall(rf"^`{name} --json`.*?^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    example, real = keys_of(json.loads(shown)), keys_of(REAL[name])
    assert example == real
    assert json.dumps(example) == json.dumps(real), "in another order"


@pytest.mark.parametrize("name", ["retry", "version", "config"])
def test_small_answers_have_the_keys_that_are_shown(name: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "cachesync", "--root", str(tmp_path), name, "--json"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert keys_of(json.loads(done.stdout)) == keys_of(REAL[name])


def test_the_manifest_is_as_shown():
    (shown,) = (text for kind, text in FENCE.findall(README) if kind == "json" and '"format"' in text)
    out = io.BytesIO()
    entries = [_entry("d/", Kind.DIRECTORY), _entry("l", Kind.LINK), _entry("f", Kind.FILE)]
    manifest.write(out, entries, session="s", state="open", host="h", now=0.0)
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
    modules = {path.stem for path in (TOP / "cachesync").iterdir()}
    named = [span for span in spans(ARCHITECTURE) if re.fullmatch(r"[a-z_]+(\.\w+)+", span)]
    found = [span for span in named if span.partition(".")[0] in modules]
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
    names = [Path(name).stem for name in told]
    real = {
        path.stem for path in (TOP / "cachesync").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(names) == real - {"__init__"}
    assert [rank[name] for name in names] == sorted(rank[name] for name in names)


def test_the_licence_is_the_one_that_is_named():
    text = (TOP / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
