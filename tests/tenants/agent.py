"""An agent's place in the campaign: its sessions, the agents' socket, and the count of what it tries."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

TEAM = 12100
"""The group of all agents, which may use the agents' socket."""

_FILES = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What an agent's process gets on stdin. ``marks`` are words that only other sessions contain: an agent that
    receives one has read what it must not."""

    user: int
    seed: str
    limit: float
    root: str
    mount: str
    socket: str
    attacks: list[str]
    sessions: list[str]
    victims: list[str]
    known: list[str]
    marks: list[str]
    outside: str
    pids: list[int]

    @staticmethod
    def told() -> Plan:
        """The plan on stdin; from here on the process runs as its user."""
        plan = Plan(**json.loads(sys.stdin.readline()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
        os.setgroups([TEAM])
        os.setgid(plan.user)
        os.setuid(plan.user)
        return plan


@dataclass(slots=True)
class Agent:
    """One attack: its choices, where it works (``top``), and its counts."""

    plan: Plan
    chance: random.Random
    top: Path
    session: str
    end: float
    tries: int = 0
    refused: int = 0
    breaches: list[str] = field(default_factory=list)

    def going(self) -> bool:
        """Whether the attack has time left."""
        return time.monotonic() < self.end

    def rest(self, seconds: float) -> None:
        """Sleep, but not beyond the attack's end."""
        time.sleep(max(0.0, min(seconds, self.end - time.monotonic())))

    def forbidden(self, what: str, call: Callable[P, object], *args: P.args, **options: P.kwargs) -> None:
        """Try what must fail. Success is a breach."""
        self.tries += 1
        try:
            got = call(*args, **options)
        except OSError:
            self.refused += 1
        else:
            self.breaches.append(f"{what} succeeded: {got!r}"[:300])

    def attempt(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T | None:
        """Try what may fail, and return its result."""
        self.tries += 1
        try:
            return call(*args, **options)
        except (OSError, ValueError):
            self.refused += 1
            return None

    def clear(self) -> None:
        """Remove everything in the session."""
        with contextlib.suppress(OSError):
            self.top.chmod(0o700)
        for name in self.attempt(os.listdir, self.top) or ():
            place = self.top / name
            with contextlib.suppress(OSError):
                if place.is_dir() and not place.is_symlink():
                    place.chmod(0o700)
                    shutil.rmtree(place)
                else:
                    place.unlink()

    # -- the socket ----------------------------------------------------------------------------------------------------

    def connect(self) -> socket.socket:
        """A connection to the agents' socket. Raises OSError."""
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(5.0)
        try:
            made.connect(self.plan.socket)
        except OSError:
            made.close()
            raise
        return made

    def send(self, request: bytes, wait: float = 5.0) -> bytes:
        """Send bytes, and return the answer as far as it comes within ``wait`` seconds and the attack's time."""
        self.tries += 1
        told = b""
        with contextlib.suppress(OSError), self.connect() as connection:
            connection.settimeout(max(0.05, min(wait, self.end - time.monotonic())))
            connection.sendall(request)
            while len(told) < 1 << 20 and (piece := connection.recv(65536)):
                told += piece
        self.look_at("an answer", told)
        if not told.startswith(b"HTTP/1.1 2"):
            self.refused += 1
        return told

    def ask(self, method: str, target: str, wait: float = 5.0) -> bytes:
        """One well-formed request, and its answer."""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        return self.send(head.encode(), wait)

    def flush(self, seconds: float = 1.0) -> None:
        """Ask for a flush of the agent's own session."""
        self.ask("POST", f"/v1/sessions/{self.session}/flush?timeout={seconds}&confirm_deletes=1")

    def look_at(self, where: str, told: bytes) -> None:
        """Search what the agent received for what only others have."""
        for mark in self.plan.marks:
            if mark.encode() in told:
                self.breaches.append(f"{where} contains {mark}: {told[:200]!r}")
