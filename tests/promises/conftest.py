"""Hosts for the promises. One SeaweedFS a worker, a bucket a test, and no daemon outlives its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.promises.host import Host, hosts_of
from tests.promises.line import Line
from tests.servers import SeaweedServer

MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(seaweed: SeaweedServer, bucket: str, tmp_path: Path) -> Iterator[MakeHost]:
    """Hosts that share the test's bucket."""
    with hosts_of(Host, seaweed, bucket, tmp_path) as make:
        yield make


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """One host; its daemon is not started yet."""
    return make_host()


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
