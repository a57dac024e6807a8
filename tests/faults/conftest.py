"""A warm daemon factory for each worker, a bucket and a bench for each test."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Bench, Bucket, Zygote
from tests.faults.proxy import Proxy
from tests.servers import SeaweedServer

Recorder = Callable[[str, object], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many daemons were killed, and what else was counted: those numbers are the point of these tests."""
    told: Counter[str] = Counter()
    counts: list[str] = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                told.update({name: value for name, value in report.user_properties if name in ("kills", "faults")})
                counts += [value for name, value in report.user_properties if name == "counts"]
    if told:
        terminalreporter.write_line(f"daemons killed: {told['kills']}, requests spoiled: {told['faults']}")
    for line in counts:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def warm_bucket(seaweed: SeaweedServer) -> str:
    """One bucket for all tests of a worker: the first write into a new one takes SeaweedFS a second."""
    name = f"t-{uuid.uuid4().hex[:20]}"
    seaweed.make_bucket(name)
    with contextlib.closing(seaweed.client()) as s3:
        for number in range(8):
            s3.put_object(Bucket=name, Key=f"warm/{number}", Body=b"x" * 100)
    return name


@pytest.fixture
def objects(seaweed: SeaweedServer, warm_bucket: str) -> Iterator[Bucket]:
    """An empty place in a bucket."""
    view = Bucket(seaweed, warm_bucket, uuid.uuid4().hex[:8])
    yield view
    view.close()


@pytest.fixture
def bench(tmp_path: Path, zygote: Zygote, objects: Bucket, record_property: Recorder) -> Iterator[Bench]:
    """A root whose daemon talks to the server directly."""
    bench = Bench(tmp_path, zygote, objects)
    yield bench
    record_property("kills", bench.kills)
    bench.close()


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    """A proxy before the server, without faults yet."""
    with Proxy(seaweed.endpoint) as proxy:
        yield proxy


@pytest.fixture
def remote(tmp_path: Path, zygote: Zygote, objects: Bucket, proxy: Proxy, record_property: Recorder) -> Iterator[Bench]:
    """A root whose daemon talks to the server through the proxy."""
    bench = Bench(tmp_path, zygote, objects, endpoint=proxy.endpoint, transfer_timeout="3s")
    yield bench
    record_property("kills", bench.kills)
    record_property("faults", sum(record.sent != record.upstream or record.sent is None for record in proxy.records))
    bench.close()
