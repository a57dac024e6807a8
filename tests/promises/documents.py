"""The documents as something to run: their blocks of commands, and a terminal in which they are typed.

A block of ``console`` or ``sh`` is typed, from the top of its page to the end, in one shell; one of ``python`` is run
as a program. What cannot be run so says, in a comment before it, which test does what it says::

    <!-- tried by tests/systemd/test_units.py::test_a_unit_is_verified_without_a_word -->

or, where nobody has the other program, which test looks at its part of ours (``not run, but checked by``). A comment of
a page may also be of all its blocks (``all tried by``, ``all not run, but checked by``), name the daemon that is to run
(``begins with make run``), or what is typed unseen before (``after mkdir -p sessions/demo``).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cachesync.api.client import ControlClient

TOP = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKED = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_PAGE = re.compile(
    r"^<!-- (?P<word>all(?= tried by| not run, but checked by)|begins with|after) (?P<text>.*?) -->$", re.MULTILINE
)
_NAMED = re.compile(r"(?:tried|not run, but checked) by ")
END = "\0"

ELSEWHERE = {"make test": "-m pytest", "make docs": "mkdocs build --strict", "make build": "-m build"}
"""What is not typed, and what it has to run: the first runs these tests, tests/e2e/test_site.py and
tests/integration/test_release.py run the others."""

_OUTSIDE = re.compile(
    r"(?<![\w.$-])/(?:etc|opt|usr|var|srv|root|home|boot|lib|bin)/|\b(?:systemctl|docker|podman|kubectl|apt-get)\b"
)
"""What a page must not do on the machine of whoever runs the tests, who may be root."""


@dataclass
class Step:
    """A command of a page and the lines that it shows below."""

    command: str
    shown: list[str] = field(default_factory=list)
    silent: bool = True
    """Whether a command that shows nothing below has to say nothing."""

    def fits(self, said: str) -> bool:
        """Whether the output is what is shown: ``...`` stands for anything, alone on a line for any lines."""
        if not self.shown and not self.silent:
            return True
        return re.fullmatch("".join(map(_pattern, self.shown)), _spaced(said)) is not None


def _spaced(text: str) -> str:
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines())


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    return re.escape(" ".join(line.split())).replace(re.escape("..."), ".*") + r"\n"


@dataclass
class Page:
    """A document: what is typed on it, and what others try."""

    name: str
    steps: list[Step] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    begins: str | None = None

    @classmethod
    def read(cls, name: str) -> Page:
        """Take it apart. Raises AssertionError for output without a command, for a block that is indented, and for a
        command that reaches out of the folder in which it is typed and names no test.
        """
        text = (TOP / name).read_text("utf-8")
        assert not re.search(r"^ +```", text, re.MULTILINE), "a block that is indented is not found"
        page = cls(name)
        told = {found["word"]: found["text"] for found in _PAGE.finditer(text)}
        page.begins = told.get("begins with")
        if "after" in told:
            page.steps.append(Step(told["after"]))
        for found in _MARKED.finditer(text):
            mark = (
                _NAMED.sub("", found["mark"])
                if _NAMED.match(found["mark"] or "")
                else _NAMED.sub("", told.get("all", ""))
            )
            if found["kind"] not in ("console", "sh", "python"):
                continue
            if mark:
                page.tried += mark.split(", ")
            elif found["kind"] == "console":
                page.steps += _typed(found["text"])
            elif found["kind"] == "sh":
                page.steps += map(Step, found["text"].splitlines())
            else:
                page.steps.append(Step(f"python3 - <<'END'\n{found['text']}END", silent=False))
        for step in [*page.steps, Step(page.begins or "")]:
            assert not _OUTSIDE.search(step.command), (
                f"{name}: who tries this, outside a temporary folder? {step.command}"
            )
        return page


def _typed(text: str) -> list[Step]:
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif line.startswith("> "):
            steps[-1].command += "\n" + line[2:]
        else:
            assert steps, f"output without a command: {line}"
            steps[-1].shown.append(line)
    return steps


def makes(target: str) -> list[str]:
    """What make would run for a target."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", target]
    done = subprocess.run(command, cwd=TOP, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


class Terminal:
    """A folder as a fresh clone is after its set-up, and a daemon in it. ``active``: the environment is activated."""

    def __init__(self, folder: Path, *, active: bool = False) -> None:
        self.folder = folder
        self.log = folder / "daemon.log"
        (folder / ".venv").symlink_to(sys.prefix)
        # A fresh terminal: cachesync is not on the path before somebody activates the environment.
        places = os.environ["PATH"].split(":")
        path = ":".join(place for place in places if not Path(place, "cachesync").exists())
        path = f"{folder}/.venv/bin:{path}" if active else path
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
        return None if shown.fits(said) else said

    def type(self, steps: list[Step]) -> list[str]:
        """One shell for all of them; returns what was wrong with each that is not as shown."""
        lines = [f"{step.command}\n__code=$?; printf '\\0%d\\0' $__code; (exit $__code)" for step in steps]
        script = "exec 2>&1\n" + "\n".join(lines)
        # In a group of its own: what a page leaves behind ends with it.
        with subprocess.Popen(
            ["bash", "-c", script], cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, start_new_session=True,
        ) as shell:  # fmt: skip
            try:
                out = shell.communicate(timeout=100)[0].decode()
            finally:
                if shell.returncode is None:
                    os.killpg(shell.pid, signal.SIGKILL)
        parts = out.split(END)[:-1]
        said, codes = parts[::2], [int(code) for code in parts[1::2]]
        assert len(codes) == len(steps), f"the shell ended after {steps[len(codes) - 1].command!r}: {out[-2000:]}"
        wrong = []
        for step, words, code, after in zip(steps, said, codes, [*steps[1:], Step("")], strict=True):
            if not step.fits(words):
                wrong.append(f"$ {step.command}\nshown {step.shown}\nsaid  {words!r}")
            if code and not step.command.endswith("echo $?") and not after.command.startswith("echo $?"):
                wrong.append(f"$ {step.command}\nends with {code}, and the page says nothing of it: {words!r}")
        return wrong

    def interrupt(self) -> int:
        """Ctrl-C."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGINT)
        return self.daemon.wait(30)

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


def check_install(command: str) -> None:
    """Not run, since it asks the network: but what it asks for is there."""
    target = re.fullmatch(r"pip install '?\.(?:\[([a-z,-]+)\])?'?", command)
    assert target, command
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(filter(None, (target[1] or "").split(","))) <= project["optional-dependencies"].keys()


def play(page: Page, terminal: Terminal) -> Iterator[str]:
    """Type the page; yields what is not as it shows."""
    typed: list[Step] = []
    for step in page.steps if page.begins is None else [Step(page.begins, silent=False), *page.steps]:
        if step.command == "make run":
            command = makes("run")[-1]
            assert command == ".venv/bin/cachesync run --dev-server .dev-s3"
            if (said := terminal.serve(command, step)) is not None:
                yield f"$ make run\nshown {step.shown}\nsaid  {said!r}"
        elif step.command in ELSEWHERE:
            assert any(ELSEWHERE[step.command] in line for line in makes(step.command.removeprefix("make ")))
        elif step.command.startswith("pip install "):
            check_install(step.command)
        else:
            typed.append(step)
    yield from terminal.type(typed)
