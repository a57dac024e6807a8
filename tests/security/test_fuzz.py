"""Everything that reads what others wrote, fed with whatever: it understands, or it refuses in its own words."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cachesync.config import load
from cachesync.fuse import Device, Loop, Request, wire
from cachesync.fuse.wire import Op
from cachesync.model import address, keys
from cachesync.model.errors import CacheSyncError, ConfigError, Unstorable, UsageError
from cachesync.model.ignore import IgnoreRules
from cachesync.programs.mcp_server.scope import Scope
from cachesync.sync import manifest
from tests.flat_store import FlatStore
from tests.security.hostile import LEADING_OUT, RESERVED, STAYING

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXT = st.one_of(
    st.sampled_from([*LEADING_OUT, *RESERVED, *STAYING]),
    st.text(max_size=30),
    st.text(st.sampled_from("./\\%2eE\0\n:~a"), max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Zs", "Cf"]), max_size=6),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "s1", "projects", "templates", "sessions", ".cachesync"]), max_size=6
    ).map("/".join),
)


def in_our_words(error: CacheSyncError) -> None:
    """One line, and what to do instead."""
    assert error.hint
    assert "\n" not in str(error)


def is_inside(path: str) -> bool:
    """Whether it stays below where it begins, read as an operating system reads it."""
    return "\0" not in path and os.path.normpath(f"/top/{path}") == f"/top/{path}" and not path.startswith("/")


@few
@given(path=TEXT, prefix=st.sampled_from(["", "team", "a/b"]))
def test_p16_keys(path: str, prefix: str):
    try:
        assert is_inside(keys.check_path(path))
        key = keys.to_key(prefix, "s1", path)
    except UsageError as error:
        in_our_words(error)
    except Unstorable:
        pass
    else:
        assert key.startswith(keys.session_prefix(prefix, "s1"))
        assert keys.from_key(prefix, "s1", key) == path
    found = keys.from_key(prefix, "s1", keys.session_prefix(prefix, "s1") + path)
    assert found is None or (found == path and is_inside(found))
    assert keys.from_key(prefix, "s1", path) is None or path.startswith(keys.session_prefix(prefix, "s1"))
    keys.printable(path) if keys.is_path(path) else None


@few
@given(name=TEXT)
def test_p16_session_names(name: str):
    with contextlib.suppress(UsageError):
        assert keys.check_session(name).isascii()
        assert is_inside(name)
        assert "/" not in name
        assert not name.startswith(".")


@few
@given(text=TEXT, prefix=st.sampled_from(["", "team"]))
def test_p16_addresses(text: str, prefix: str):
    for read in (address.parse, address.parse_whole):
        try:
            found = read(text)
            key = found.key(prefix)
        except UsageError as error:
            in_our_words(error)
            continue
        except Unstorable:
            continue
        start = f"{prefix}/" if prefix else ""
        assert key.startswith(start + str(found.space))
        assert is_inside(key.rstrip("/"))
    address.from_key(prefix, text)


@few
@given(path=TEXT, session=st.none() | TEXT, projects=st.booleans())
def test_p16_what_an_agent_names(path: str, session: str | None, projects: bool):  # noqa: FBT001
    scope = Scope("s1", projects=projects)
    for name in (scope.address, scope.folder):
        try:
            found = name(path, session)
        except UsageError as error:
            in_our_words(error)
        else:
            assert found.session == "s1" or (projects and found.session is None)
            assert found.path == "" or is_inside(found.path.rstrip("/"))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([10**400, -(2**64), "9" * 400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
ROWS = st.dictionaries(
    st.sampled_from(["path", "type", "size", "mtime", "mode", "sha256", "version", "version_id", "target"]),
    JUNK | st.sampled_from(["file", "link", "dir", "0644", "1.5", "a" * 64, 5]),
)


@few
@given(
    rows=st.lists(ROWS | JUNK, max_size=4), lined=st.booleans(), cut=st.integers(0, 40), noise=st.binary(max_size=20)
)
@example(rows=[], lined=True, cut=0, noise=b"\xff")
def test_p16_manifests(rows: list[object], lined: bool, cut: int, noise: bytes):  # noqa: FBT001
    text = [json.dumps(row).encode() for row in rows]
    data = b'{"format": 1, "entries": [\n' + b",\n".join(text) + b"\n]}\n"
    data = data if lined else b'{"format": 1, "entries": [' + b",".join(text) + b"]}"
    data = data[: len(data) - cut] + (noise if cut else b"")
    store = FlatStore()
    store.foreign_put("k", data)
    found = manifest.read(store, "k")
    for path in (*found.files, *(name.rstrip("/") for name, _ in found.others)):
        assert is_inside(path)
        assert not keys.is_reserved(path)
    manifest.amend(iter([data]), io.BytesIO(), {"a": None})


SETTING = st.sampled_from([
    "root", "store", "endpoint", "state", "settle", "cache_size", "transfers", "bandwidth", "drain_timeout", "http",
    "http_token", "socket", "socket_group", "sse", "region", "allow_http", "scan_interval", "log_level", "nonsense",
])  # fmt: skip
ODD = [
    "1e999", "-1", "nan", "inf", "1" * 5000, "10 ZiB", "s3://", "s3://b/../x", "file://", "http://[", "\ud800",
    "127.0.0.1:99999", ":::", "s3://" + "a" * 5000, "file:///a\0b", "\u0663", "1_0", "0x10",
]  # fmt: skip
VALUES = TEXT | st.sampled_from(ODD)


@few
@given(values=st.dictionaries(SETTING, VALUES, max_size=4), by=st.sampled_from(["flags", "environment"]))
def test_p16_settings(values: dict[str, str], by: str, tmp_path: Path):
    flags = values if by == "flags" else {}
    environ = {f"CACHESYNC_{name.upper()}": value for name, value in values.items()} if by == "environment" else {}
    try:
        config = load(flags, {"HOME": str(tmp_path)} | environ, tmp_path, system_file=tmp_path / "none")
    except ConfigError as error:
        in_our_words(error)
    else:
        token = values.get("http_token", "")
        told_besides = any(token in value for name, value in values.items() if name != "http_token")
        shown = [row.value for row in config.sources() if row.name == "http_token" or not told_besides]
        assert len(token) < 4 or token not in repr(shown)


@few
@given(text=st.binary(max_size=80) | JUNK.map(lambda junk: f"root = {json.dumps(junk)}\n".encode()))
def test_p16_files_of_settings(text: bytes, tmp_path: Path):
    (tmp_path / "cachesync.toml").write_bytes(text)
    try:
        load({}, {"HOME": str(tmp_path)}, tmp_path, system_file=tmp_path / "none")
    except ConfigError as error:
        in_our_words(error)
    else:
        text.decode()


PATTERN = st.text(st.sampled_from("*?[]!\\/#a-z^$.+(){}|\n \t\0\u202e"), max_size=24)


@few
@given(text=PATTERN, path=st.text(st.sampled_from("a/*[]!\\\n.z"), min_size=1, max_size=40))
@example(text="[[]", path="[")
def test_p16_ignore_rules(text: str, path: str):
    rules = IgnoreRules("s1", text, text[::-1])
    if keys.is_path(path):
        reason = rules.reason(path, is_dir=False)
        assert reason is None or "ignored by" in reason
        rules.reason(path, is_dir=True)
    assert all("\n" not in line for line in rules.broken)


COSTLY = [
    "*a" * 40,
    "**/" * 60 + "x",
    "a*" * 30 + "b",
    "[" * 500,
    "(a+)+$",
    "*" * 5000,
    "**a**" * 20,
    "\\" * 999,
    "?*" * 50,
]


@pytest.mark.parametrize("line", COSTLY, ids=lambda line: line[:12])
def test_p16_no_rule_takes_for_ever(line: str):
    """Each against names on which an expression that tries every way would take longer than the test's time limit."""
    rules = IgnoreRules("s1", f"{line}\n{line}b/\n", "")
    for path in ("a" * 250, "a/" * 500 + "a", "ab" * 120, "a" * 250 + "/b", ("a" * 200 + "/") * 20 + "c"):
        rules.reason(path, is_dir=False)


# -- what comes from the kernel ----------------------------------------------------------------------------------------


@few
@given(body=st.binary(max_size=60))
def test_p16_an_init_of_noise(body: bytes):
    """Short is refused as struct.error; the rest is numbers."""
    if len(body) < wire.INIT_IN.size:
        with pytest.raises(struct.error):
            wire.offer(body)
    else:
        offered = wire.offer(body)
        assert len(wire.init_out(offered, 0, 1)) == wire.INIT_OUT.size


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, list[int]]]:
    """A loop over a socket, whose handlers unpack what they get; and the nodes that it was told to forget."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5)
    device = Device(theirs.detach())
    forgotten: list[int] = []
    loop = Loop(device, lambda node, _: forgotten.append(node))

    def unpack(request: Request) -> bytes:
        layout = {Op.READ: wire.READ_IN, Op.SETATTR: wire.SETATTR_IN, Op.RENAME2: wire.RENAME2_IN}[Op(request.op)]
        if request.end < wire.HEADER + layout.size:
            raise OSError(errno.EIO, "short")
        return repr(layout.unpack_from(request.buffer, wire.HEADER)).encode()

    loop.handle({Op.READ: unpack, Op.SETATTR: unpack, Op.RENAME2: unpack})

    def serve() -> None:
        with contextlib.suppress(OSError):
            loop.serve()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield ours, forgotten
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    device.close()


@few
@given(
    op=st.integers(0, 60) | st.integers(0, 2**32 - 1),
    body=st.binary(max_size=120),
    length=st.integers(0, 2**32 - 1),
)
@example(op=Op.BATCH_FORGET, body=b"\xff" * 8, length=48)
@example(op=Op.BATCH_FORGET, body=b"", length=40)
@example(op=Op.FORGET, body=b"", length=40)
@example(op=Op.INTERRUPT, body=b"", length=40)
@example(op=Op.READ, body=b"", length=0)
def test_p16_requests_of_noise(kernel: tuple[socket.socket, list[int]], op: int, body: bytes, length: int):
    """Any opcode, any body, any length: what wants an answer gets one, and the next good request is answered."""
    ours, _ = kernel
    ours.send(wire.IN.pack(length, op, 7, 1, 0, 0, 2**31 - 1, 0, 0) + body)
    good = wire.READ_IN.pack(*range(7))
    ours.send(wire.IN.pack(wire.HEADER + len(good), Op.READ, 8, 1, 0, 0, 2**31 - 1, 0, 0) + good)
    while True:
        answer = ours.recv(1 << 16)
        size, number, unique = wire.OUT.unpack_from(answer)
        assert size == len(answer)
        assert unique in (7, 8)
        if unique == 8:
            assert number == 0
            break
