"""A host whose engine is driven by the test, and whose store lies behind a proxy that notes each request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.store.s3.store import S3Store
from tests.budgets.counting import Done, counted
from tests.driving import Driven
from tests.faults.proxy import Proxy, proxied
from tests.promises.host import eventually
from tests.servers import SeaweedServer

S = "s"


class Counted:
    """One engine over one session ``s``; ``counted`` counts what it does."""

    def __init__(self, folder: Path, store: S3Store, proxy: Proxy) -> None:
        self.proxy = proxy
        self.session = folder / S
        self.session.mkdir(parents=True)
        self.driven = Driven(folder, store)
        self.engine = self.driven.engine

    def counted(self, **options: Any) -> contextlib.AbstractContextManager[Done]:
        return counted(self.engine, self.proxy, **options)

    def write(self, *names: str, text: str = "text") -> None:
        for name in names:
            place = self.session / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def flush(self) -> None:
        report = self.driven.flush(S)
        assert report.stored, report

    def notice(self) -> None:
        """The changes are seen, and due."""
        self.driven.scan(S)
        self.driven.clock.push(10)

    def settle(self) -> None:
        """Everything is stored, and old enough that nothing has to be looked at again."""
        self.flush()
        self.driven.clock.push(100)
        self.flush()
        eventually(lambda: (self.engine.tree.stamp(S, "") or 0) > 0, 10, "the directory is older than a tick")


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    with proxied(seaweed.endpoint) as proxy:
        yield proxy


MakeCounted = Callable[..., Counted]


@pytest.fixture
def make_counted(seaweed: SeaweedServer, proxy: Proxy, bucket: str, tmp_path: Path) -> Iterator[MakeCounted]:
    """Hosts that share the test's bucket, each with a client of its own."""
    seaweed.make_bucket(bucket)
    with contextlib.ExitStack() as stack:

        def make(name: str = "root") -> Counted:
            store = S3Store(seaweed.settings(bucket, endpoint=proxy.endpoint))
            stack.callback(store.close)
            made = Counted(tmp_path / name, store, proxy)
            stack.callback(made.driven.close)
            return made

        yield make


@pytest.fixture
def counting(make_counted: MakeCounted) -> Counted:
    """A host whose session ``s`` has one file ``first``, stored and settled: what comes once is over."""
    made = make_counted()
    made.write("first")
    made.settle()
    return made
