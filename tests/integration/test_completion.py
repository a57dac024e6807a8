"""``cachesync completion`` in real shells: what TAB offers, with a daemon, without one, with names that would harm."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host

SHELLS = ("bash", "zsh", "fish")
BIN = str(Path(sys.executable).parent)

ASK = r"""
eval "$(cachesync completion bash)"
function=$(complete -p cachesync | sed 's/.*-F \([^ ]*\).*/\1/')
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
$function cachesync
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """A host without a daemon, with two sessions."""
    host = make_host()
    for path in ("demo/logs/agent.jsonl", "demo/a b.txt", "dart/x"):
        place = host.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
    return host


def environ(host: Host, **more: str) -> dict[str, str]:
    return host.env | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "xterm", "LANG": "C.UTF-8"} | more


def bash(host: Host, line: str, **more: str) -> list[str]:
    """What bash offers for a line that ends at the cursor. Nothing may be said beside it."""
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", line],
        env=environ(host, **more), cwd=host.folder, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert not done.stderr
    return [word for word in done.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cachesync fl", ["flush "]),
        ("cachesync un", []),
        ("cachesync mount --wri", ["--write-through "]),
        ("cachesync mount --write-through ", ["off", "fsync", "close"]),
        ("cachesync flush --re", ["--receipt "]),
        ("cachesync flush d", ["dart", "demo"]),
        ("cachesync flush demo da", ["dart "]),
        ("cachesync status de", ["demo "]),
        ("cachesync explain de", ["demo/"]),
        ("cachesync cat demo/", [r"demo/a\ b.txt", "demo/logs/"]),
        ("cachesync cat demo/logs/", ["demo/logs/agent.jsonl "]),
        ("cachesync cat demo/../", []),
        ("cachesync cat /", []),
        ("cachesync put ro", ["root/"]),
        ("cachesync --root ro", ["root/"]),
        ("cachesync --root elsewhere flush d", []),
        ("cachesync --root root flush d", ["dart", "demo"]),
        ("cachesync bucket ", ["init", "check", "policy"]),
        ("cachesync bucket policy ", ["daemon", "session", "cloudwatch"]),
        ("cachesync bucket policy session de", ["demo "]),
        ("cachesync completion ", ["bash", "zsh", "fish"]),
        ("cachesync flush nothing-like-it", []),
        ("cachesync --settle soon flush ", []),
        ("cachesync flush 'un", []),
    ],
)
def test_bash_offers_what_fits(host: Host, line: str, offered: list[str]):
    assert bash(host, line) == offered


@pytest.mark.s3
def test_it_offers_what_only_the_daemon_knows(host: Host):
    host.start()
    assert host.run("close", "demo").code == 0
    assert not (host.root / "demo").exists()
    assert bash(host, "cachesync open de") == ["demo "]
    assert bash(host, "cachesync cat demo/lo") == ["demo/logs/"]
    assert bash(host, "cachesync cat demo/logs/a") == ["demo/logs/agent.jsonl "]


def test_a_daemon_that_hangs_holds_up_nobody(host: Host):
    import socket

    host.state.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as deaf:
        os.chdir(host.state)
        deaf.bind("control.sock")
        os.chdir("/")
        deaf.listen(1)
        begun = time.monotonic()
        assert bash(host, "cachesync flush d") == ["dart", "demo"]
        assert time.monotonic() - begun < 8


def test_no_name_acts_at_the_prompt(host: Host):
    for name in ("$(touch PWNED)", "`touch PWNED`", "x;touch PWNED", "e\x1b[2Jvil", "n\nl", "'q'"):
        (host.root / "demo" / name).write_text("x")
    with open(os.fsencode(host.root / "demo") + b"/bad\xff", "wb"):
        pass
    offered = bash(host, "cachesync cat demo/")
    assert not any(re.search(r"(?<!\\)[$`;]", word) for word in offered), offered
    assert not any(ord(letter) < 32 for word in offered for letter in word)
    assert not any("evil" in word or "bad" in word for word in offered)
    assert len(offered) == 6
    assert not list(host.folder.rglob("PWNED"))


class Prompt:
    """A shell at a terminal, in which the completion is switched on as the documents say."""

    def __init__(self, host: Host, *command: str, **env: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(host.folder)
            os.execvpe(command[0], command, environ(host, HOME=str(host.folder), **env))
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str) -> None:
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.said):
            assert time.monotonic() < deadline, self.said
            if select.select([self.master], [], [], 0.1)[0]:
                data = os.read(self.master, 65536)
                if b"\x1b[c" in data:  # fish asks what kind of terminal it is
                    os.write(self.master, b"\x1b[?62;c")
                if b"\x1b[6n" in data:
                    os.write(self.master, b"\x1b[1;1R")
                self.said += re.sub(
                    r"\x1b(\[[?>=\d;]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][B0]?)",
                    "",
                    data.decode(errors="replace"),
                )

    def close(self) -> None:
        os.close(self.master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


@pytest.fixture
def prompt(host: Host, request: pytest.FixtureRequest) -> Iterator[Prompt]:
    shell = request.param
    if shutil.which(shell) is None:
        assert not os.environ.get("SHELL_TESTS"), f"{shell} is not installed"
        pytest.skip(f"{shell} is not installed")
    if shell == "bash":
        opened = Prompt(host, "bash", "--norc", "-i", PS1="ready> ")
        opened.type('eval "$(cachesync completion bash)"; echo on-"now"\n')
    elif shell == "zsh":
        opened = Prompt(host, "zsh", "-f", "-i", PS1="ready> ")
        opened.type('autoload -U compinit && compinit -u && eval "$(cachesync completion zsh)"; echo on-"now"\n')
    else:
        opened = Prompt(host, "fish", "--no-config", "-i")
        opened.type('cachesync completion fish | source; echo on-"now"\n')
    opened.until("on-now")
    opened.said = ""
    yield opened
    opened.close()


@pytest.mark.parametrize("prompt", SHELLS, indirect=True)
def test_a_real_shell_completes_at_its_prompt(prompt: Prompt):
    prompt.type("cachesync flu\t")
    prompt.until("cachesync flush")
    prompt.type("dem\t")
    prompt.until(r"flush\W+demo")
    prompt.said = ""
    prompt.type("\x01echo it says: \n")  # to the line's beginning: what stands there now is what it would run
    prompt.until(r"[\r\n]\W*it says: cachesync flush demo")
    assert "Traceback" not in prompt.said
    assert "usage:" not in prompt.said


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_and_sound(host: Host, shell: str):
    done = host.run("completion", shell)
    assert done.code == 0
    assert "cachesync" in done.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.out, text=True, check=True, timeout=30)


def test_an_unknown_shell_is_refused(host: Host):
    assert host.run("completion", "tcsh").code == 2
