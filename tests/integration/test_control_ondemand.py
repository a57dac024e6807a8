"""What a mount asks the daemon, over the real socket."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cachesync.api import http_client
from cachesync.api.client import ControlClient
from cachesync.api.ondemand_client import OnDemandClient
from cachesync.api.server import ControlServer
from cachesync.api.socket_address import connect_trusted
from cachesync.model.errors import DaemonUnavailable, ObjectNotFound, StoreTransient, UsageError
from tests.memory_artifacts import MemoryArtifacts, MemoryLifecycle, MemoryOnDemand

ODD = ["a", "d/", "", "a b/ü", "new\nline", "?versionId=1", "[*]", "%2F", os.fsdecode(b"latin-\xe4"), "x" * 255, "..."]


class FakeVerbs:
    """Only what these routes ask."""

    def __init__(self) -> None:
        self.artifacts = MemoryArtifacts()
        self.lifecycle = MemoryLifecycle()
        self.ondemand = MemoryOnDemand()


@pytest.fixture
def verbs() -> FakeVerbs:
    return FakeVerbs()


@pytest.fixture
def client(verbs: FakeVerbs, tmp_path: Path) -> Iterator[OnDemandClient]:
    server = ControlServer(verbs, tmp_path / "c.sock", None, ready=bool, live=bool)  # type: ignore[arg-type]
    server.start()
    yield ControlClient(tmp_path / "c.sock").ondemand
    server.stop(grace=0.1)


@pytest.mark.parametrize("path", ODD)
def test_every_name_arrives_as_it_is(client, verbs, path):
    for verb in ("bring", "make_empty", "foresee", "remove"):
        getattr(client, verb)("s1", path)
    client.move("s1", path, "s2", path)
    asked = [(verb, "s1", path) for verb in ("bring", "make_empty", "foresee", "remove")]
    assert verbs.ondemand.asked == [*asked, ("move", "s1", path, "s2", path)]


def test_store_brings_its_timeout(client, verbs):
    client.store("s1", "a/b", timeout=2.5)
    assert verbs.ondemand.asked == [("store", "s1", "a/b", 2.5)]


def test_notices_come_in_one_piece(client, verbs):
    hints = {"s1": dict.fromkeys(ODD, 3), "s2": {"a": 1}}
    client.notice(hints)
    assert verbs.ondemand.asked == [("notice", hints)]


def test_sessions_and_changes_are_told(client, verbs):
    assert client.sessions() == ["away", "here"]
    assert list(itertools.islice(client.changes(), 2)) == [{"demo": ["a", "d/b"]}, {}]


@pytest.mark.parametrize(
    "error",
    [
        ObjectNotFound("bring", "s1/a", "nothing of this name is in the store"),
        StoreTransient("bring", "s1/a", "the store has not answered"),
        UsageError("session", "..", "is not a session name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_daemon_raises_is_raised_here(client, verbs, error):
    verbs.ondemand.error = error
    with pytest.raises(type(error), match=error.reason):
        client.bring("s1", "a")


def test_odd_requests_are_refused(client):
    for call in (
        lambda: client._do("burn", "s1", "a"),
        lambda: client._do("bring", "s1"),
        lambda: client._do("move", "s1", "a", "s2"),
        lambda: client.store("..", "a", timeout=1),
        lambda: client.notice({"..": {"a": 1}}),
    ):
        with pytest.raises(UsageError):
            call()


def test_a_daemon_that_is_gone_is_said_to_be(tmp_path):
    with pytest.raises(DaemonUnavailable):
        ControlClient(tmp_path / "c.sock").ondemand.bring("s1", "a")


def test_connections_and_threads_are_used_again(client, verbs, tmp_path, monkeypatch):
    opened, threads = [], []

    def counted(path, timeout, owners):
        opened.append(path)
        return connect_trusted(path, timeout, owners)

    monkeypatch.setattr(http_client, "connect_trusted", counted)
    verbs.ondemand.foresee = lambda *_: threads.append(threading.get_ident())
    kept = ControlClient(tmp_path / "c.sock", kept=2).ondemand
    for _ in range(20):
        kept.foresee("s1", "a")
    assert len(opened) == 1
    assert len(set(threads)) < 10  # a thread that is not ready for the next one yet has another one started
    for _ in range(3):
        client.foresee("s1", "a")
    assert len(opened) == 4
    verbs.ondemand.error = ObjectNotFound("bring", "s1/a", "nothing of this name is in the store")
    for _ in range(2):
        with pytest.raises(ObjectNotFound):
            kept.bring("s1", "a")
    assert len(opened) == 4
    kept._asker.close()


def test_each_of_many_at_once_has_its_own(client, verbs, tmp_path):
    together = threading.Barrier(8, timeout=20)
    verbs.ondemand.bring = lambda *_: together.wait()
    kept = ControlClient(tmp_path / "c.sock", kept=2).ondemand
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(lambda number: kept.bring("s1", str(number)), range(8)))
    assert len(kept._asker._idle) == 2
    kept._asker.close()


def test_a_kept_connection_to_a_daemon_that_was_started_again_is_not_used(verbs, tmp_path):
    kept = ControlClient(tmp_path / "c.sock", kept=2).ondemand
    for _ in range(2):
        server = ControlServer(verbs, tmp_path / "c.sock", None, ready=bool, live=bool)
        server.start()
        kept.bring("s1", "a")
        server.stop(grace=0.1)
    with pytest.raises(DaemonUnavailable):
        kept.bring("s1", "a")
    assert len(verbs.ondemand.asked) == 2
