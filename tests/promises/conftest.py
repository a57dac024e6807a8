"""Hosts for the promises. One SeaweedFS a worker, a bucket a test, and no daemon outlives its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.promises.host import Host
from tests.promises.line import Line
from tests.servers import SeaweedServer

MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(seaweed: SeaweedServer, bucket: str, tmp_path: Path) -> Iterator[MakeHost]:
    """Hosts that share the test's bucket."""
    seaweed.make_bucket(bucket)
    hosts: list[Host] = []

    def make(name: str = "host", **given: object) -> Host:
        host = Host(**({"folder": tmp_path / name, "server": seaweed, "bucket": bucket} | given))  # type: ignore[arg-type]
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """One host; its daemon is not started yet."""
    return make_host()


@pytest.fixture
def line(seaweed: SeaweedServer) -> Iterator[Line]:
    """A line to the S3 server that can fail in many ways."""
    line = Line(seaweed.endpoint)
    yield line
    line.close()


@pytest.fixture
def wired(make_host: MakeHost, line: Line) -> Host:
    """A host whose daemon and commands reach the S3 server through ``line``."""
    return make_host(env={"S3_ENDPOINT": line.endpoint})


@pytest.fixture
def humble(make_host: MakeHost) -> Host:
    """A host whose commands run without root's right to read everything, so that a mode of 000 means something."""
    if os.geteuid():
        return make_host()
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and there is no setpriv to take that away")
    return make_host(wrap=["setpriv", "--bounding-set", "-dac_override,-dac_read_search"])
