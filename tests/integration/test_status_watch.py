"""``cachesync status --watch`` on a real terminal: a pty, read by pyte as a person reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host, eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]


class Terminal:
    """A terminal with one program in it."""

    def __init__(self, host: Host, *words: str, columns: int = 100, lines: int = 30, env: dict[str, str] | None = None):
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self._resize(columns, lines)
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        self.program = subprocess.Popen(
            [sys.executable, "-m", "cachesync", *words],
            env=host.env | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | (env or {}),
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - to get its signals
        )  # fmt: skip

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read(self, seconds: float = 0.05) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                if data := os.read(self.master, 65536):
                    self.raw += data
                    self._stream.feed(data)
                    continue
            return

    @property
    def text(self) -> str:
        self.read()
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def until(self, check: Callable[[str], bool]) -> str:
        def fits() -> str:
            text = self.text
            assert check(text), text
            return text

        return eventually(fits, 45)

    def end(self) -> int:
        deadline = time.monotonic() + 30
        while self.program.poll() is None:
            self.read()
            assert time.monotonic() < deadline, self.text
        self.read()
        return self.program.returncode

    def close(self) -> None:
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        os.close(self.master)
        os.close(self.slave)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    opened: list[Terminal] = []

    def make(host: Host, *words: str, **given: object) -> Terminal:
        opened.append(Terminal(host, *words, **given))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def busy(make_host: MakeHost) -> Host:
    """A daemon whose session has one file stored, and one that cannot be."""
    host = make_host()
    host.start()
    session = host.root / "demo"
    session.mkdir()
    (session / "a.txt").write_text("12345")
    assert host.run("flush", "demo").code == 0
    return host


def test_it_shows_what_is_and_q_ends_it(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "--watch")
    shown = watching.until(lambda text: "everything is stored" in text)
    for fact in (busy.bucket, "daemon  pid", "demo", "SAFE", "q ends it"):
        assert fact in shown
    (busy.root / "demo/b\x1b[31m\n.txt").write_text("x" * 100)
    name = os.fsencode(busy.root / "demo") + b"/bad\xff"
    with open(name, "wb"):
        pass
    watching.until(lambda text: "failed" in text and "bad" in text and "not UTF-8" in text)
    os.unlink(name)
    watching.until(lambda text: "everything is stored" in text)
    watching.type("q")
    assert watching.end() == 0
    assert b"\x1b[?1049h" in watching.raw
    assert watching.raw.rindex(b"\x1b[?1049l") > watching.raw.rindex(b"\x1b[?1049h"), "the screen is as it was"
    assert b"\x1b[?25h" in watching.raw[watching.raw.rindex(b"\x1b[?1049l") - 50 :], "so is the cursor"
    assert termios.tcgetattr(watching.slave) == watching.modes, "and so is the keyboard"
    assert b"Traceback" not in watching.raw


def test_ctrl_c_ends_it_and_one_session_has_the_code_of_its_safety(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "demo", "--watch")
    watching.until(lambda text: "everything is stored" in text)
    watching.type("\x03")
    assert watching.end() == 0
    with open(os.fsencode(busy.root / "demo") + b"/bad\xff", "wb"):
        pass
    watching = terminal(busy, "status", "demo", "--watch")
    watching.until(lambda text: "failed" in text)
    watching.type("q")
    assert watching.end() == 4
    watching = terminal(busy, "status", "--watch")
    watching.until(lambda text: "failed" in text)
    watching.type("\x03")
    assert watching.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_the_terminal_back(busy: Host, terminal: Open, number: int):
    watching = terminal(busy, "status", "--watch")
    watching.until(lambda text: "everything is stored" in text)
    watching.program.send_signal(number)
    assert watching.end() == 128 + number
    assert termios.tcgetattr(watching.slave) == watching.modes
    assert b"\x1b[?1049l" in watching.raw


def test_it_follows_the_size_of_the_terminal(busy: Host, terminal: Open):
    for number in range(40):
        (busy.root / f"session-{number:02}").mkdir()
        (busy.root / f"session-{number:02}/x").write_text("x")
    eventually(lambda: busy.run("flush", "--all").code == 0)
    watching = terminal(busy, "status", "--watch", columns=120, lines=60)
    watching.until(lambda text: "session-39" in text)
    watching.resize(60, 16)
    shown = watching.until(lambda text: "more, 0 of them not safe" in text)
    assert "session-39" not in shown
    assert "q ends it" in shown
    watching.resize(120, 60)
    watching.until(lambda text: "session-39" in text)


def test_a_daemon_that_goes_and_comes_back_is_shown(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "--watch")
    watching.until(lambda text: "everything is stored" in text)
    assert busy.stop() == 0
    shown = watching.until(lambda text: "not known now" in text and "no answer for" in text)
    assert "demo" in shown, "what was known stays"
    busy.start()
    watching.until(lambda text: "everything is stored" in text)
    watching.type("q")
    assert watching.end() == 0
    assert b"Traceback" not in watching.raw


def test_a_daemon_that_hangs_holds_up_neither_the_screen_nor_the_end(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "--watch")
    watching.until(lambda text: "everything is stored" in text)
    assert busy.daemon is not None
    busy.daemon.send_signal(signal.SIGSTOP)
    try:
        watching.until(lambda text: "not known now" in text and "has not answered yet" in text)
        watching.type("q")
        begun = time.monotonic()
        assert watching.end() == 0
        assert time.monotonic() - begun < 20, "it does not wait for the answer"
    finally:
        busy.daemon.send_signal(signal.SIGCONT)


def test_what_is_wrong_from_the_beginning_is_said_without_a_screen(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "elsewhere", "--watch")
    assert watching.end() == 3
    assert "there is no such session" in watching.text
    assert b"\x1b[?1049h" not in watching.raw


def test_a_dumb_terminal_gets_plain_lines(busy: Host, terminal: Open):
    watching = terminal(busy, "status", "--watch", env={"TERM": "dumb"})
    watching.until(lambda text: "demo" in text and "SAFE" in text)
    watching.type("\x03")
    assert watching.end() == 0
    assert b"\x1b[?1049h" not in watching.raw


def test_without_rich_the_plain_status_comes_again(busy: Host, terminal: Open, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    watching = terminal(busy, "status", "--watch", env={"PYTHONPATH": str(tmp_path)})
    watching.until(lambda text: "SAFE" in text and "demo" in text)
    (busy.root / "demo/b.txt").write_text("123")
    watching.until(lambda text: "8B" in text)
    assert b"\x1b[?1049h" not in watching.raw
    watching.type("\x03")
    assert watching.end() == 0
    assert b"Traceback" not in watching.raw


def test_without_a_terminal_it_says_it_again_and_again(busy: Host):
    with subprocess.Popen(
        [sys.executable, "-m", "cachesync", "status", "--watch"], env=busy.env, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        heads = 0
        while heads < 2:
            line = watching.stdout.readline()
            assert "\x1b" not in line
            heads += line.startswith("root ")
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert watching.wait(10) == 0
