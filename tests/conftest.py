"""Stores for tests: one S3 server of each kind for a session (and xdist worker), started when the first test asks."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync.store.base import ObjectStore
from cachesync.store.fsspec_store import FsspecStore
from cachesync.store.s3.store import S3Store
from tests.promises.host import Host, hosts_of
from tests.promises.line import Line
from tests.servers import MotoServer, SeaweedServer, Server

MakeHost = Callable[..., Host]
KINDS = ("seaweed", "moto", "file", "memory")

# A shell without job control starts `make test &` with these two ignored, and children inherit that: the daemons that
# the tests interrupt would not notice. A handler of Python's is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def line(seaweed: SeaweedServer) -> Iterator[Line]:
    """A line to the S3 server that can fail in many ways."""
    line = Line(seaweed.endpoint)
    yield line
    line.close()


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    server = MotoServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket() -> str:
    """A name that no other test uses. The bucket is not made yet."""
    return f"t-{uuid.uuid4().hex[:20]}"


@pytest.fixture
def make_host(seaweed: SeaweedServer, bucket: str, tmp_path: Path) -> Iterator[MakeHost]:
    """Hosts that share the test's bucket."""
    with hosts_of(Host, seaweed, bucket, tmp_path) as make:
        yield make


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """One host; its daemon is not started yet."""
    return make_host()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which store ``store`` is: for the few things in which they differ."""
    kind: str = request.param
    return kind


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server | None:
    """The S3 server behind ``store``, if there is one."""
    return request.getfixturevalue(kind) if kind in ("seaweed", "moto") else None


@pytest.fixture
def store(kind: str, server: Server | None, bucket: str, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store of each kind."""
    store: ObjectStore
    if server is not None:
        server.make_bucket(bucket)
        store = S3Store(server.settings(bucket))
    elif kind == "file":
        store = FsspecStore(f"file://{tmp_path}/store")
    else:
        store = FsspecStore(f"memory://{bucket}")
    yield store
    store.close()


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without AWS credentials, from whatever place. Returns the patch, to put some in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch
