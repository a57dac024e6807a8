"""S3 servers for tests: a real one (SeaweedFS) and moto."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import botocore.config
import botocore.session
import pytest
from moto.server import ThreadedMotoServer

from cachesync.store.devserver import DevServer
from cachesync.store.s3 import calls
from cachesync.store.s3.client import S3Settings

REGION = "us-east-1"


class SeaweedServer(DevServer):
    """The product's own launcher, with what tests ask of a server."""

    def settings(self, bucket: str, **changes: Any) -> S3Settings:
        """How a store reaches ``bucket``."""
        return _settings(self, bucket, changes)

    def client(self) -> Any:
        """A plain synchronous client, to look at a bucket past our own code."""
        return client(self)

    _client = client


class MotoServer:
    """moto in a thread of this process. It checks neither signatures nor checksums."""

    key = "moto"
    secret = "moto"

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"

    def stop(self) -> None:
        self._server.stop()

    def reset(self) -> None:
        """Forget everything."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")).close()

    def make_bucket(self, name: str) -> None:
        with contextlib.closing(self.client()) as s3:
            s3.create_bucket(Bucket=name)

    def settings(self, bucket: str, **changes: Any) -> S3Settings:
        return _settings(self, bucket, changes)

    def client(self) -> Any:
        return client(self)


Server = SeaweedServer | MotoServer

_session = botocore.session.Session()
"""One for all clients of the process: each session parses the descriptions of S3, 20 times the rest of the work."""


def client(server: Server) -> Any:
    config = botocore.config.Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"})
    return _session.create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        config=config,
    )


def _settings(server: Server, bucket: str, changes: dict[str, Any]) -> S3Settings:
    given: dict[str, Any] = {
        "bucket": bucket, "endpoint": server.endpoint, "region": REGION, "path_style": True,
        "key": server.key, "secret": server.secret,
    }  # fmt: skip
    return S3Settings(**(given | changes))


def by_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no request of ours goes past botocore."""
    monkeypatch.setattr(calls, "is_known", lambda _method, _args: False)


def kind_of(*kinds: str) -> Any:
    """A fixture ``kind``: which store a test has. "X by botocore" is X, with nothing past botocore."""

    @pytest.fixture(params=kinds)
    def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        kind, _, way = request.param.partition(" by ")
        if way:
            by_botocore(monkeypatch)
        return str(kind)

    return kind


@contextlib.contextmanager
def deaf_server() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in taken:
                connection.close()


def closed_port() -> str:
    """A URL where nobody listens: no server that another test starts on any free port gets this one."""
    return "http://127.0.0.1:1"


def free_address() -> str:
    """``HOST:PORT`` that a server can be told to take, now and again after a restart: below the ports that Linux gives
    to whoever asks for any, so that none of them gets it in between."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return f"127.0.0.1:{probe.getsockname()[1]}"
