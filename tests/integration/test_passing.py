"""What may be over at the next start is no wrong setting: a service manager has to start the daemon again."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cachesync.api.server import ControlServer
from cachesync.api.tcp import listen
from cachesync.api.token import kept_token
from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.model.errors import (
    CacheSyncError,
    ConfigError,
    DaemonUnavailable,
    JournalUnavailable,
    RootHalted,
    UsageError,
)
from tests.flat_store import FlatStore


@pytest.fixture
def config(tmp_path):
    (tmp_path / "root").mkdir()
    flags = {"root": str(tmp_path / "root"), "state": str(tmp_path / "state"), "store": "memory://passing"}
    return load(flags, {}, Path("/"), system_file=Path("/none"))


def address(text: str, **flags: str) -> Any:
    return load({"http": text, **flags}, {}, Path("/"), system_file=Path("/none")).http


def failing(monkeypatch, name, where, code):
    """A call of the operating system fails for one path."""
    real = getattr(os, name)

    def fail(path, *more, **named):
        if str(path).endswith(where):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, name, fail)


CASES = [("open", "/root", RootHalted), ("mkdir", "/state", JournalUnavailable), ("open", "lock", JournalUnavailable)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ENOTCONN, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize(("call", "where", "kind"), CASES)
def test_a_disk_that_fails_for_now(config, monkeypatch, call, where, kind, code):
    failing(monkeypatch, call, where, code)
    with pytest.raises(CacheSyncError) as failed:
        Engine(config, FlatStore())
    assert (type(failed.value), failed.value.exit_code) == (kind, 4)
    monkeypatch.undo()
    Engine(config, FlatStore()).close()


@pytest.mark.parametrize(("call", "where", "kind"), CASES)
def test_what_no_retry_mends(config, monkeypatch, call, where, kind):
    failing(monkeypatch, call, where, errno.EACCES)
    with pytest.raises(UsageError) as failed:
        Engine(config, FlatStore())
    assert failed.value.exit_code == 2


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, DaemonUnavailable), (errno.EACCES, ConfigError)])
def test_a_control_socket_that_cannot_be_made(tmp_path, monkeypatch, code, kind):
    nobody: Any = None
    server = ControlServer(nobody, tmp_path / "run/control.sock", None, ready=bool, live=bool)
    failing(monkeypatch, "mkdir", "/run", code)
    with pytest.raises(kind):
        server.start()


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, JournalUnavailable), (errno.EACCES, ConfigError)])
def test_a_token_that_cannot_be_kept(tmp_path, monkeypatch, code, kind):
    (tmp_path / "tmp").mkdir()
    failing(monkeypatch, "replace", "", code)
    with pytest.raises(kind):
        kept_token(tmp_path)


def test_an_address_that_no_interface_has_yet():
    taken = listen(address("127.0.0.1:0"))
    with contextlib.closing(taken), pytest.raises(ConfigError):
        listen(address(f"127.0.0.1:{taken.getsockname()[1]}"))
    with pytest.raises(DaemonUnavailable):
        listen(address("192.0.2.1:8484", http_token="x" * 43))
