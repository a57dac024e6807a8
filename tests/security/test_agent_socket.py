"""H7: an agent's socket answers a few verbs, for the sessions that its user may read, and nothing else."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from anyio.from_thread import start_blocking_portal
from mcp import Client

from cachesync.api import agents
from cachesync.api.agents import ANSWERED, AgentDoor, AgentRoutes
from cachesync.api.client import ControlClient
from cachesync.api.http_client import _Connection
from cachesync.api.rights import Peer, SessionRights, allows
from cachesync.api.routes import Routes
from cachesync.api.unix_socket import UnixSocket
from cachesync.cli.connect import connect
from cachesync.config import load
from cachesync.model.errors import ConfigError, DaemonUnavailable, NoSuchSession, ObjectNotFound, UsageError
from cachesync.programs.mcp_server.build import build_server
from cachesync.programs.mcp_server.scope import Scope
from tests.promises.host import eventually

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of other users")
ANN, BOB, TEAM = 12001, 12002, 12100

# -- the routes --------------------------------------------------------------------------------------------------------


def test_every_route_that_is_not_listed_is_refused(tmp_path: Path):
    """A new route is closed to agents until it is put on the list."""
    everything = {(route.method, route.path) for route in _table(None)}
    assert everything >= ANSWERED.keys(), "what is listed is there"
    assert {path for _, path in ANSWERED} == {
        "/v1/sessions/{session}/flush", "/v1/sessions/{session}", "/v1/sessions", "/v1/status", "/v1/events",
        "/v1/explain/{session}/{path:(?s:.+)}", "/v1/artifacts/{address:(?s:.+)}", "/v1/list{address:(?s:/.*)?}",
        "/healthz", "/readyz",
    }  # fmt: skip
    assert {method for method, _ in ANSWERED} == {"GET", "POST"}
    answered = [(route.method, route.path) for route in _table(AgentDoor(tmp_path / "s", tmp_path))]
    assert set(answered[:-1]) == ANSWERED.keys()
    assert answered[-1] == ("*", "/{any:(?s:.*)}")


def _table(door: AgentDoor | None) -> list[web.RouteDef]:
    import asyncio

    async def made() -> list[web.RouteDef]:
        if door is None:
            return Routes(None, bool, bool).table()  # type: ignore[arg-type]  # nothing is asked
        return AgentRoutes(None, bool, bool, door).table()  # type: ignore[arg-type]

    return asyncio.run(made())


def test_a_user_who_asks_without_end_holds_up_no_other(monkeypatch: pytest.MonkeyPatch):
    import asyncio

    monkeypatch.setattr(agents, "_WAIT", 0.05)

    async def ask() -> None:
        places = agents._Places()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(places.take(ANN, "flushes", 3))
            with pytest.raises(DaemonUnavailable, match="3 requests of your user are under way"):
                await stack.enter_async_context(places.take(ANN, "flushes", 3))
            async with places.take(BOB, "flushes", 3), places.take(ANN, "questions", 3):
                pass
        async with places.take(ANN, "flushes", 3):
            pass
        assert places._taken == {}, "nothing is kept of those who are gone"

    asyncio.run(ask())


def test_a_right_that_was_lost_meanwhile_gets_no_answer(tmp_path: Path):
    """Neither a report nor an error of a session: both name its files."""
    import asyncio

    session = tmp_path / "s1"
    session.mkdir()

    async def ask(fails: bool) -> None:  # noqa: FBT001  # a parameter of this test
        routes = AgentRoutes(None, bool, bool, AgentDoor(tmp_path / "s", tmp_path))  # type: ignore[arg-type]
        here, there = socket.socketpair(socket.AF_UNIX)

        async def flush(_request: web.Request) -> web.Response:
            session.chmod(0o000)
            if fails:
                raise ObjectNotFound("explain", "s1/secret", "nothing is known of this path")
            return web.Response(text="secret")

        with here, there:
            transport = Mock()
            transport.get_extra_info = lambda *_: here
            request = make_mocked_request("POST", "/v1/sessions/s1/flush", transport=transport)
            with pytest.raises(NoSuchSession):
                await routes._of_own(flush)(request)

    for fails in (False, True):
        session.chmod(0o755)
        asyncio.run(ask(fails))


# -- the rights --------------------------------------------------------------------------------------------------------

_ACCESS = """
import os, sys
os.setgroups([int(g) for g in sys.argv[3].split(",")]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
for path in sys.stdin.read().split("\\n")[:-1]:
    print(int(os.access(path, os.R_OK | os.X_OK)))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="cachesync-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def acl(user: int, group: int, mask: int, other: int, *named: tuple[int, int, int]) -> bytes:
    rows = [
        (1, user, 0xFFFFFFFF),
        *sorted(named),
        (4, group, 0xFFFFFFFF),
        (16, mask, 0xFFFFFFFF),
        (32, other, 0xFFFFFFFF),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in sorted(rows))


@ROOT_ONLY
def test_rights_are_the_kernels(folder: Path):
    """Mode bits and ACLs, for an owner, for members of groups and for others."""
    folders = []
    owners = [(ANN, 1), (BOB, TEAM), (1, TEAM), (1, 1)]
    for number, ((user, group), mode) in enumerate(
        itertools.product(owners, (0o700, 0o750, 0o705, 0o070, 0o007, 0o755, 0o444))
    ):
        made = folder / f"s{number}"
        made.mkdir()
        os.chown(made, user, group)
        made.chmod(mode)
        folders.append(made)
    bits = (0, 5, 7)
    for number, (mine, group, mask, other) in enumerate(itertools.product(bits, bits, (4, 7), (0, 5))):
        for kind, rows in (
            ("u", [(2, mine, ANN)]),
            ("g", [(8, mine, TEAM)]),
            ("b", [(2, mine, BOB), (8, 7 - mine, TEAM)]),
        ):
            made = folder / f"acl{kind}{number}"
            made.mkdir()
            os.chown(made, 1, TEAM if kind == "b" else 1)
            try:
                os.setxattr(made, "system.posix_acl_access", acl(7, group, mask, other, *rows))
            except OSError:
                pytest.skip("this file system has no ACLs")
            folders.append(made)
    rights = SessionRights(folder)
    seen = set()
    for user, groups in itertools.product((ANN, BOB, 1), ([1], [TEAM], [7, TEAM])):
        done = subprocess.run(
            [sys.executable, "-c", _ACCESS, str(user), str(groups[0]), ",".join(map(str, groups))],
            input="".join(f"{one}\n" for one in folders), capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        for one, expected in zip(folders, done.stdout.split(), strict=True):
            peer = Peer(user, frozenset(groups))
            assert rights.may_read(peer, one.name) == (expected == "1"), (peer, one.name, oct(one.stat().st_mode))
            seen.add(expected)
    assert seen == {"0", "1"}


def test_root_gets_what_the_bits_give_and_the_unknown_user_nothing_of_its_own(tmp_path: Path):
    assert not allows([(1, 7, 0), (4, 0, 0), (32, 0, 0)], (ANN, TEAM), Peer(0, frozenset((0,))), 5)
    session = tmp_path / "s1"
    session.mkdir(mode=0o700)
    rights = SessionRights(tmp_path)
    rights._unknown = frozenset((os.getuid(), os.getgid()))  # as 65534 is in a user namespace
    assert not rights.may_read(Peer(os.getuid(), frozenset((os.getgid(),))), "s1")
    assert not rights.may_read(Peer(os.getuid(), frozenset()), "none")
    (tmp_path / "link").symlink_to(session)
    rights._unknown = frozenset()
    assert rights.may_read(Peer(os.getuid(), frozenset()), "s1")
    assert not rights.may_read(Peer(os.getuid(), frozenset()), "link")


def test_the_root_itself_has_to_let_the_user_pass(tmp_path: Path):
    root = tmp_path / "root"
    (root / "s1").mkdir(parents=True)
    (root / "s1").chmod(0o755)
    stranger = Peer(os.getuid() + 1, frozenset((os.getgid() + 1,)))
    root.chmod(0o711)
    assert SessionRights(root).may_read(stranger, "s1")
    root.chmod(0o700)
    assert not SessionRights(root).may_read(stranger, "s1")


# -- a daemon with two agents ------------------------------------------------------------------------------------------

_AS = """
import importlib, os, pkgutil, sys
import encodings.ascii, encodings.idna, encodings.latin_1, pickletools  # the user may not read this Python's files
for name in os.environ["PRELOAD"].split():
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ()), name + "."):
        importlib.import_module(module.name)
user = int(sys.argv[1])
os.setgroups([12100]); os.setgid(user); os.setuid(user)
sys.exit(importlib.import_module("cachesync.cli").main(sys.argv[2:]))
"""
CLIENT = "cachesync.cli cachesync.api.socket_address cachesync.api.client cachesync.api.artifact_client"
CLIENT += " cachesync.api.lifecycle_client cachesync.config"
WITH_STORE = f"{CLIENT} cachesync.daemon.engine cachesync.daemon.store_factory cachesync.store"


class Host:
    """A daemon of root, the operator's socket, and the agents'."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.pid = 0
        self.root = folder / "root"
        self.agents = folder / "run" / "agents.sock"
        self.settings = {"agent_socket": str(self.agents), "agent_group": str(TEAM)} | settings
        self.environ = {
            "HOME": str(folder / "home"), "CACHESYNC_ROOT": str(self.root), "CACHESYNC_STORE": f"file://{folder}/store",
        }  # fmt: skip
        self.root.mkdir(mode=0o755)
        for session, user in (("ann", ANN), ("bob", BOB)):
            (self.root / session).mkdir()
            (self.root / session / "notes.txt").write_text(f"{session}'s\n")
            for path in (self.root / session / "notes.txt", self.root / session):
                os.chown(path, user, user)
            (self.root / session).chmod(0o700)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Host]:
        settings = {f"CACHESYNC_{name.upper()}": value for name, value in self.settings.items()}
        log = (self.folder / "log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "cachesync", "run"],
            env=os.environ | self.environ | settings,
            cwd="/",
            stderr=log,
            stdout=log,
        )
        try:
            self.pid = process.pid
            eventually(lambda: self.ask(ANN, "GET", "/readyz")[0] == 200, 30)
            yield self
        finally:
            process.terminate()
            process.wait(30)
            log.close()

    def run(self, user: int, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command of an agent's, over its socket."""
        told = {"CACHESYNC_SOCKET": str(self.agents), "CACHESYNC_STORE": "", "PRELOAD": CLIENT}
        return subprocess.run(
            [sys.executable, "-c", _AS, str(user), *words], cwd="/", env=os.environ | self.environ | told | environ,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def ask(self, user: int, method: str, target: str, path: Path | None = None) -> tuple[int, Any]:
        """One request of a user's, and its answer."""
        here, there = socket.socketpair()
        child = os.fork()
        if child == 0:  # only system calls until its end: other threads do not live here
            with contextlib.suppress(BaseException):
                os.setgroups([TEAM])
                os.setgid(user)
                os.setuid(user)
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(os.fspath(path or self.agents))  # with a timeout it would not wait for a place
                    connection.settimeout(20)
                    connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                    while data := connection.recv(65536):
                        there.sendall(data)
            os._exit(0)
        there.close()
        with here:
            told = b"".join(iter(lambda: here.recv(65536), b""))
        os.waitpid(child, 0)
        if not told:
            return 0, None
        head, _, body = told.partition(b"\r\n\r\n")
        lines = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
        return int(head.split()[1]), lines[0] if lines else body


@pytest.fixture
def host(folder: Path) -> Iterator[Host]:
    with Host(folder).serving() as host:
        yield host


@ROOT_ONLY
def test_the_commands_of_an_agent_work_over_its_socket(host: Host):
    flushed = host.run(ANN, "flush", "ann", "--json")
    assert flushed.returncode == 0, flushed.stderr
    assert json.loads(flushed.stdout)["stored"] is True
    assert host.run(ANN, "flush", "--all").stdout.startswith("ann: stored, 1 file")
    status = json.loads(host.run(ANN, "status", "--json").stdout)
    assert [row["session"] for row in status["sessions"]] == ["ann"]
    assert host.run(ANN, "status", "ann").returncode == 0
    story = json.loads(host.run(ANN, "explain", "ann/notes.txt", "--json").stdout)
    assert story["state"] == "clean"


@ROOT_ONLY
def test_another_agents_session_is_as_if_it_were_not_there(host: Host):
    host.run(BOB, "flush", "bob")
    for words in (["flush", "bob"], ["status", "bob"], ["explain", "bob/notes.txt"]):
        done = host.run(ANN, *words)
        assert done.returncode == 3, (words, done.stdout, done.stderr)
        assert "bob's" not in done.stdout + done.stderr
        assert (
            done.stderr.replace("bob", "none") == host.run(ANN, *[word.replace("bob", "none") for word in words]).stderr
        )
    for target in ("/v1/sessions", "/v1/status"):
        code, told = host.ask(ANN, "GET", target)
        assert code == 200
        assert "bob" not in json.dumps(told)
    assert host.ask(ANN, "GET", "/v1/events?session=bob")[0] == 404
    assert host.ask(ANN, "GET", "/v1/events")[0] == 400
    assert host.ask(ANN, "GET", "/v1/sessions/%62ob")[0] == 404
    assert host.ask(ANN, "POST", "/v1/sessions/ann%2f..%2fbob/flush")[0] == 400


@ROOT_ONLY
def test_no_agent_switches_storage_off_for_the_others(host: Host):
    """By a ``.cachesyncignore`` in a root where agents may make sessions."""
    os.chown(host.root, -1, TEAM)
    host.root.chmod(0o3770)
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([TEAM])
            os.setgid(ANN)
            os.setuid(ANN)
            descriptor = os.open(host.root / ".cachesyncignore", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(descriptor, b"*\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert (host.root / ".cachesyncignore").stat().st_uid == ANN
    flushed = json.loads(host.run(BOB, "flush", "bob", "--json").stdout)
    assert (flushed["stored"], flushed["files"], flushed["skipped"]) == (True, 1, [])
    (note,) = [note for note in host.ask(BOB, "GET", "/v1/status")[1]["notes"] if "cachesyncignore" in note]
    assert f"belongs to user {ANN}" in note


@ROOT_ONLY
def test_a_user_who_holds_connections_shuts_nobody_else_out(host: Host):
    """More than there are places, made again as they are dropped."""
    ready, go = os.pipe()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([TEAM])
            os.setgid(ANN)
            os.setuid(ANN)
            held = []
            while True:
                connection = socket.socket(socket.AF_UNIX)
                with contextlib.suppress(OSError):
                    connection.connect(os.fspath(host.agents))
                held.append(connection)
                if len(held) == 280:
                    os.write(go, b"x")
                if len(held) > 280:
                    held.pop(0).close()
        os._exit(0)
    try:
        os.read(ready, 1)
        before = len(os.listdir(f"/proc/{host.pid}/fd"))
        for _ in range(10):
            assert host.ask(BOB, "GET", "/v1/sessions")[0] == 200
        assert before < 150, "the surplus is dropped"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    eventually(lambda: host.ask(ANN, "GET", "/v1/sessions")[0] == 200, 20)


@ROOT_ONLY
def test_what_a_user_does_not_read_is_bounded(host: Host):
    """The lists of a flush have a thousand lines at most, and of receipts a user has one at a time."""
    for number in range(1500):
        (host.root / "ann" / f"{number:0150}.swp").touch()
        (host.root / "ann" / f"{number:0200}").touch()
    flush = "/v1/sessions/ann/flush?timeout=100"
    code, told = host.ask(ANN, "POST", flush)
    assert (code, told["stored"]) == (200, True)
    assert 500 < len(told["skipped"]) <= 1000
    assert told["counts"] == {"failed": 0, "pending": 0, "conflicts": 0, "skipped": 1500}
    ready, there = socket.socketpair()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([TEAM])
            os.setgid(ANN)
            os.setuid(ANN)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(os.fspath(host.agents))
                connection.sendall(f"POST {flush}&receipt=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                there.sendall(connection.recv(1))
                there.recv(1)
        os._exit(0)
    assert ready.recv(1) == b"H"
    code, told = host.ask(ANN, "POST", flush.replace("100", "1") + "&receipt=1")
    assert (code, told["error"]["cause"]) == (503, "1 receipts of your user are under way already")
    assert host.ask(BOB, "POST", "/v1/sessions/bob/flush?receipt=1")[0] == 200
    ready.sendall(b"x")
    os.waitpid(child, 0)
    code, told = host.ask(ANN, "POST", flush + "&receipt=1")
    assert (code, len(told["entries"])) == (200, 1501)
    ready.close()
    there.close()


@ROOT_ONLY
def test_what_is_asked_does_not_fill_the_log(host: Host):
    assert host.ask(ANN, "POST", "/v1/sessions/ann/flush")[0] == 200
    before = (host.folder / "log").stat().st_size
    for path in ("a" * 5000, "a" * 256, "a/" * 2000 + "b", "notes.txt/" + "a" * 3000, "%ff" * 300):
        code, told = host.ask(ANN, "GET", f"/v1/explain/ann/{path}")
        assert (code, told["error"]["kind"]) == (404, "ObjectNotFound")
    assert (host.folder / "log").stat().st_size < before + 1000


@ROOT_ONLY
def test_whatever_else_is_asked_is_refused_with_a_sentence(host: Host):
    refused = 0
    for route in _table(None):
        if (route.method, route.path) in ANSWERED and "address" not in route.path:
            continue
        path = route.path
        for name, value in (
            ("{session}", "ann"), ("{verb}", "bring"), ("{names:(?s:.*)}", "ann/notes.txt"),
            ("/{address:(?s:.+)}", "/ann/notes.txt"), ("{address:(?s:/.*)?}", "/projects"), ("{path}", "notes.txt"),
        ):  # fmt: skip
            path = path.replace(name, value)
        assert "{" not in path, path
        code, told = host.ask(ANN, route.method, path)
        assert code == 403, path
        assert "ask the operator" in told["error"]["cause"]
        refused += 1
    assert refused > 15
    assert host.ask(ANN, "GET", "/")[0] == 403
    for words in (
        ["rm", "ann/notes.txt"],
        ["cat", "projects/p/a"],
        ["evict", "ann"],
        ["ls"],
        ["open", "ann"],
        ["retry"],
    ):
        done = host.run(ANN, *words)
        assert done.returncode == 2, words
        assert "ask the operator" in done.stderr


@ROOT_ONLY
def test_the_tools_of_an_agent_flush_and_tell_over_its_socket(host: Host):
    (host.root / "own").mkdir(mode=0o700)
    (host.root / "own/a").write_text("a")
    settings = {"root": host.root, "socket": host.agents, "store": f"file://{host.folder}/store"}
    options = argparse.Namespace(command="mcp", **{f"setting_{name}": str(value) for name, value in settings.items()})
    server = build_server(functools.partial(connect, options), Scope("own"))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Client(server)) as client:
        flushed = portal.call(client.call_tool, "flush_session", {"timeout": 20})
        assert flushed.structured_content is not None
        assert flushed.structured_content["stored"] is True
        refused = portal.call(client.call_tool, "write_artifact", {"path": "b", "content": "b"})
        assert refused.is_error
        assert "ask the operator" in str(refused.content)


@ROOT_ONLY
def test_the_operators_socket_is_not_the_agents(host: Host):
    assert host.ask(ANN, "GET", "/v1/status", host.root / ".cachesync/control.sock") == (0, None)
    status = ControlClient(host.root / ".cachesync/control.sock").status()
    assert [row.session for row in status.sessions] == ["ann", "bob"]


@ROOT_ONLY
def test_who_removes_the_agents_socket_ends_no_request_of_the_operators(host: Host):
    operator = _Connection(host.root / ".cachesync/control.sock", 30.0, ())
    with contextlib.closing(operator):
        operator.request("GET", "/v1/sessions")
        assert operator.getresponse().read()
        before = operator.sock
        host.agents.unlink()
        eventually(lambda: host.agents.exists() and host.ask(ANN, "GET", "/readyz")[0] == 200, 30)
        operator.request("GET", "/v1/sessions")
        assert operator.getresponse().read()
        assert operator.sock is before


@ROOT_ONLY
def test_what_the_operator_grants_may_be_read_and_no_more(folder: Path):
    with Host(folder, agent_read="projects/web, templates/day").serving() as host:
        operator = ControlClient(host.root / ".cachesync/control.sock").artifacts
        from cachesync.model.address import parse

        for address in ("projects/web/a.md", "projects/webmaster/a.md", "templates/day/x", "templates/daybreak"):
            with (host.folder / "body").open("w+b") as body:
                body.write(address.encode())
                body.seek(0)
                operator.put(parse(address), body)
        assert host.run(ANN, "cat", "projects/web/a.md").stdout == "projects/web/a.md"
        assert host.run(ANN, "ls", "projects/web").stdout.strip() == "a.md"
        assert host.run(ANN, "cat", "templates/day/x").returncode == 0
        for words in (
            ["cat", "projects/webmaster/a.md"], ["cat", "templates/daybreak"], ["ls", "projects"], ["ls", "templates"],
            ["rm", "projects/web/a.md"], ["url", "projects/web/a.md"], ["history", "projects/web/a.md"], ["ls"],
        ):  # fmt: skip
            assert host.run(ANN, *words).returncode == 2, words


@ROOT_ONLY
def test_a_stream_of_events_ends_with_the_right_to_read(host: Host):
    """A name may be another user's later."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([TEAM])
            os.setgid(ANN)
            os.setuid(ANN)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(os.fspath(host.agents))
                connection.sendall(b"GET /v1/events?session=ann HTTP/1.1\r\nHost: x\r\n\r\n")
                while data := connection.recv(65536):
                    os.write(write, data)
        os._exit(0)
    os.close(write)
    told = b""
    while b"listening" not in told:
        told += os.read(read, 65536)
    (host.root / "ann/first").write_text("a")
    while b"first" not in told:
        told += os.read(read, 65536)
    os.chown(host.root / "ann", BOB, BOB)
    (host.root / "ann/later").write_text("b")
    while data := os.read(read, 65536):
        told += data
    os.waitpid(child, 0)
    os.close(read)
    assert b"later" not in told


# -- the settings ------------------------------------------------------------------------------------------------------


def config(folder: Path, **flags: str) -> Any:
    return load(flags, {"HOME": "/nowhere"}, folder, system_file=folder / "none")


def test_the_agents_socket_is_off_and_never_in_the_state_folder(tmp_path: Path):
    assert config(tmp_path).agent_socket is None
    assert config(tmp_path, agent_socket="run/a.sock").agent_socket == tmp_path / "run/a.sock"
    for wrong in ("sessions/.cachesync/a.sock", "sessions/.cachesync/control.sock"):
        with pytest.raises(ConfigError, match="where agents must not get"):
            config(tmp_path, agent_socket=wrong)
    with pytest.raises(ConfigError, match="where agents must not get"):
        config(tmp_path, socket="a.sock", agent_socket="a.sock")


@ROOT_ONLY
def test_the_agents_socket_is_never_where_others_could_put_another_one(folder: Path):
    place = folder / "run"
    place.mkdir()
    for owner, mode, good in (
        (0, 0o755, True), (0, 0o750, True), (0, 0o1777, False), (0, 0o2770, False), (0, 0o757, False),
        (ANN, 0o755, False),
    ):  # fmt: skip
        os.chown(place, owner, 0)
        place.chmod(mode)
        made = UnixSocket(place / "a.sock", None, for_others=True)
        if good:
            made.listen().close()
            made.remove()
        else:
            with pytest.raises(ConfigError, match="could put another socket there"):
                made.listen()
    UnixSocket(place / "a.sock", None).listen().close()
    os.unlink(place / "a.sock")
    os.chown(place, 0, 0)
    place.chmod(0o1777)
    host = Host(folder)
    told = os.environ | host.environ | {"CACHESYNC_AGENT_SOCKET": str(host.agents)}
    done = subprocess.run(
        [sys.executable, "-m", "cachesync", "run"], env=told, cwd="/", capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "other users can write its directory" in done.stderr


@pytest.mark.parametrize("wrong", ["", ",", "..", "projects/../x", "/etc"])
def test_what_is_granted_has_to_be_an_address(tmp_path: Path, wrong: str):
    with pytest.raises((ConfigError, UsageError)):
        config(tmp_path, agent_read=wrong)
