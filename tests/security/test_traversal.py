"""P16: no name leads out of its session, by whatever door it comes in, and each refusal says what to do instead."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from anyio.from_thread import start_blocking_portal
from mcp import Client as McpClient

from cachesync import ArtifactStore, Client
from cachesync.cli.connect import connect
from cachesync.model.address import Address, Space
from cachesync.model.errors import CacheSyncError, NoSuchSession, ObjectNotFound, UsageError
from cachesync.programs.fsspec_fs import CacheSyncFileSystem
from cachesync.programs.mcp_server.build import build_server
from cachesync.programs.mcp_server.scope import Scope
from tests.promises.host import Host
from tests.security.hostile import LEADING_OUT, RESERVED, STAYING, around

EVERY = [*LEADING_OUT, *RESERVED, *STAYING]
INSIDE = ("root/.cachesync", "root/s1", "store/.cachesync-meta", "store/sessions/s1")
"""Where an attack from session s1 may leave traces."""


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Path]:
    """A folder with a root, a store and things that nobody may reach; they are compared at the end."""
    for name in ("root", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "secret").write_text("SECRET outside")
    with ArtifactStore(f"file://{tmp_path}/store") as store:
        store.upload("s1", "a", "mine")
        store.upload("s2", "a", "SECRET of s2")
        store.upload("projects/p", "a", "SECRET of p")
        store.upload("templates", "a", "SECRET template")
    before = around(tmp_path, *INSIDE)
    yield tmp_path
    assert around(tmp_path, *INSIDE) == before


def refused(call: Callable[[], object], *, must: bool) -> None:
    """The call fails with an error of ours that says what to do, or, unless it ``must`` fail, gives nothing secret."""
    try:
        got = call()
        told = repr(list(got) if isinstance(got, Iterator) else got)
    except CacheSyncError as raised:
        error = raised
    else:
        assert not must, told
        assert "SECRET" not in told
        return
    assert error.cause or error.hint
    assert "SECRET" not in str(error)
    if must:
        assert isinstance(error, UsageError), error
        assert error.hint


@pytest.mark.parametrize("path", EVERY, ids=lambda path: repr(path[:40]))
def test_p16_the_artifact_store(yard: Path, path: str):
    with ArtifactStore(f"file://{yard}/store") as store:
        must = path in LEADING_OUT
        # A session's own files are the first word's: what is meant by the others has to lie inside as well.
        for call in (
            lambda: store.download("s1", path),
            lambda: store.upload("s1", path, "x"),
            lambda: store.signed_url("s1", path),
            lambda: store.describe("s1", path),
            lambda: store.metadata("s1", path),
            lambda: store.history("s1", path),
            lambda: store.restore("s1", path, "1"),
            lambda: store.delete("s1", path),
        ):
            refused(call, must=must)
        refused(lambda: store.list("s1", path), must=False)
        for call in (
            lambda: store.download(path, "a"),
            lambda: store.upload(path, "a", "x"),
            lambda: store.delete(path, "a"),
        ):
            refused(call, must=True)
        refused(lambda: store.list(path), must=True)


@pytest.mark.parametrize("version_id", ["../../outside/secret", "/etc/passwd", "..", "\0", "x" * 5000, "%2e%2e"])
def test_p16_a_version_id_is_no_path(yard: Path, version_id: str):
    with ArtifactStore(f"file://{yard}/store") as store:
        for call in (
            lambda: store.download("s1", "a", version_id=version_id),
            lambda: store.signed_url("s1", "a", version_id=version_id),
            lambda: store.restore("s1", "a", version_id),
        ):
            with pytest.raises(CacheSyncError):
                call()


@pytest.mark.parametrize("path", EVERY, ids=lambda path: repr(path[:40]))
def test_p16_fsspec(yard: Path, path: str, tmp_path: Path):
    fs = CacheSyncFileSystem(root=f"{yard}/root", store=f"file://{yard}/store")
    local = yard / "root" / "s1" / "local"
    local.parent.mkdir(exist_ok=True)
    local.write_bytes(b"local")
    for name in (f"s1/{path}", f"cachesync://s1/{path}", f"{path}/a"):
        for call in (
            lambda name=name: fs.cat_file(name),
            lambda name=name: fs.info(name),
            lambda name=name: fs.ls(name),
            lambda name=name: fs.exists(name),
            lambda name=name: fs.open(name).read(),
            lambda name=name: fs.pipe_file(name, b"x"),
            lambda name=name: fs.put_file(str(local), name),
            lambda name=name: fs.get_file(name, str(local)),
            lambda name=name: fs.cp_file("s1/a", name),
            lambda name=name: fs.rm_file(name),
        ):
            with contextlib.suppress(OSError):
                assert "SECRET" not in repr(call())
    if path in LEADING_OUT:
        with pytest.raises(OSError, match=r"\S"):  # "s1//" names no file, and is no error of ours
            fs.pipe_file(f"s1/{path}", b"x")


class Agent:
    """Calls the tools of a server that is bound to s1."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def told(self, tool: str, **arguments: Any) -> tuple[bool, str]:
        result = self._call(tool, arguments)
        return result.is_error, " ".join(part.text for part in result.content)


@pytest.fixture
def agent(yard: Path) -> Iterator[Agent]:
    options = argparse.Namespace(command="mcp", setting_root=f"{yard}/root", setting_store=f"file://{yard}/store")
    server = build_server(functools.partial(connect, options), Scope("s1"))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(McpClient(server)) as client,
    ):
        yield Agent(lambda tool, arguments: portal.call(client.call_tool, tool, arguments))


def test_p16_the_agents_tools(agent: Agent):
    """Eight tools, every hostile name, as a path and as a session: 800 calls."""
    given = [name for name in EVERY if name.encode("utf-8", "replace").decode() == name]
    for name in [*given, *(f"cachesync://{one}" for one in given), "cachesync://s2/a", "cachesync://projects/p/a"]:
        must = name in LEADING_OUT or name.startswith("cachesync://")
        for tool, more in (
            ("read_artifact", {}), ("write_artifact", {"content": "x"}), ("artifact_url", {}),
            ("artifact_history", {}), ("restore_artifact", {"versionId": name}),
        ):  # fmt: skip
            wrong, said = agent.told(tool, path=name, **more)
            assert "SECRET" not in said
            assert "Traceback" not in said
            assert wrong or not must, (tool, name, said)
            assert not wrong or len(said) > 20
        for tool, arguments in (
            ("list_artifacts", {"prefix": name}), ("flush_session", {"session": name}),
            ("session_status", {"session": name}),
        ):  # fmt: skip
            _, said = agent.told(tool, **arguments)
            assert "SECRET" not in said
            assert "Traceback" not in said


def asked(host: Host, request: bytes) -> bytes:
    """The whole answer of the control socket to raw bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(host.state / "control.sock"))
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


ROUTES = [
    "GET /v1/artifacts/{}", "PUT /v1/artifacts/{}", "DELETE /v1/artifacts/{}", "GET /v1/list/{}", "POST /v1/url/{}",
    "GET /v1/history/{}", "POST /v1/restore/{}", "GET /v1/explain/{}",
]  # fmt: skip
SESSION_ROUTES = [
    "POST /v1/sessions/{}/flush", "GET /v1/sessions/{}", "POST /v1/sessions/{}/open", "POST /v1/sessions/{}/evict",
    "POST /v1/sessions/{}/close", "POST /v1/sessions/{}/verify", "GET /v1/status?session={}",
]  # fmt: skip


def spelled(name: str) -> set[str]:
    """A name in a request line: as it is, percent-encoded, and after an overlong "../"."""
    raw = name.encode("utf-8", "surrogatepass")
    once = quote(raw)
    whole = "".join(f"%{byte:02x}" for byte in raw)
    plain = {name} if name.isascii() and name.isprintable() and " " not in name and "#" not in name else set()
    return {whole, "%c0%ae%c0%ae%c0%af" + once, *plain}


def test_p16_the_http_api(served: Host):
    """Every route, every hostile name, in two or three spellings; then the daemon answers and nothing is changed."""
    inside = ("root/.cachesync", "root/s1", "daemon.log")
    before, objects = around(served.folder, *inside), served.objects("s2")
    count = 0
    for name in [*LEADING_OUT, *RESERVED, *STAYING]:
        for text in spelled(name):
            targets = [route.format(f"s1/{text}") for route in ROUTES] if len(text) < 10_000 else []
            targets += [route.format(text) for route in SESSION_ROUTES] if name in LEADING_OUT else []
            targets += [route.format(f"{text}/a") for route in ROUTES[:3]] if name in LEADING_OUT else []
            requests = [
                f"{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n".encode("utf-8", "surrogatepass")
                for target in targets
            ]
            if not requests:
                continue
            *most, last = requests
            # One connection for all of a name's requests, so that the next one shows that the last did no harm.
            answer = asked(served, b"".join(one + b"\r\n" for one in most) + last + b"Connection: close\r\n\r\n")
            assert b"SECRET" not in answer, (name, text)
            assert b"Traceback" not in answer
            assert b"internal error" not in answer, (name, text, answer)
            count += answer.count(b"HTTP/1.1 ")
    assert count > 600
    assert around(served.folder, *inside) == before
    assert served.objects("s2") == objects
    assert sorted(path.name for path in served.root.iterdir()) == [".cachesync", "s1", "s2"]
    assert served.status()["session"] == "s1"


def test_p16_the_python_client(served: Host):
    client = Client(socket=served.state / "control.sock")
    inside = ("root/.cachesync", "root/s1", "daemon.log")
    before = around(served.folder, *inside)
    for name in EVERY:
        must = name in LEADING_OUT
        of, place = client.artifacts, f"s1/{name}"
        calls: list[Callable[[], object]] = [
            lambda of=of, place=place: b"".join(of.read(place).chunks()),  # type: ignore[misc]
            *(functools.partial(verb, place) for verb in (of.remove, of.url, of.history)),
            functools.partial(of.restore, place, version_id="../x"),
            functools.partial(client.explain, "s1", name),
        ]
        if must:
            calls.append(functools.partial(of.put, place, b""))
        for call in calls:
            refused(call, must=must)
        for verb in (client.flush, client.open, client.close, client.evict, client.verify, client.status, client.new):
            if name in LEADING_OUT:
                refused(functools.partial(verb, name), must=True)
    # Past the client's own checks: what it would send if somebody built the address by hand.
    for name in LEADING_OUT:
        address = Address(Space.SESSIONS, "s1", name)
        with pytest.raises((UsageError, ObjectNotFound, NoSuchSession)):
            client._verbs.artifacts.read(address)
    assert around(served.folder, *inside) == before


def test_p16_the_command_line(served: Host):
    inside = ("root/.cachesync", "root/s1", "daemon.log")
    before, objects = around(served.folder, *inside), served.objects("s2")
    names = [name for name in EVERY if "\0" not in name and name.encode("utf-8", "replace").decode() == name]
    for number, name in enumerate(names):
        words = [
            ["cat", "--", f"s1/{name}"], ["rm", "--", f"s1/{name}"], ["get", "--", f"s1/{name}", "got"],
            ["put", "--", "outside/secret", f"s1/{name}"], ["url", "--", f"s1/{name}"], ["ls", "--", f"s1/{name}"],
            ["history", "--", f"s1/{name}"], ["restore", "--", f"s1/{name}"], ["explain", "--", f"s1/{name}"],
        ]  # fmt: skip
        if name in LEADING_OUT:
            words += [[verb, "--", name] for verb in ("open", "close", "evict", "verify", "new", "flush", "status")]
        # Some of the verbs for each name, so that each verb meets each kind of name.
        for one in words[number % 12 :: 12]:
            done = served.run(*one)
            assert "SECRET" not in done.out + done.err, one
            assert done.code in ((2, 3) if name in LEADING_OUT else (0, 1, 2, 3)), (one, done)
            if done.code:
                assert 1 <= len(done.err.strip().splitlines()) <= 3, (one, done)
    assert around(served.folder, *inside, "got") == before
    assert served.objects("s2") == objects
    assert json.loads(served.run("status", "s1", "--json").out)["sessions"][0]["session"] == "s1"
