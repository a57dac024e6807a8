"""Mounts for tests: real ones, on SeaweedFS. Skipped only where the machine does not let anybody mount."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mounted import MountedHost
from tests.promises.host import hosts_of
from tests.servers import SeaweedServer

MakeMounted = Callable[..., MountedHost]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where nobody can mount there is nothing to test, unless it is required, as CI does."""
    if os.environ.get("MOUNT_TESTS") == "required" or (os.path.exists("/dev/fuse") and os.geteuid() == 0):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no /dev/fuse, or not root"))


@pytest.fixture
def make_mounted(seaweed: SeaweedServer, bucket: str, tmp_path: Path) -> Iterator[MakeMounted]:
    """Hosts that share the test's bucket; none is mounted yet."""
    with hosts_of(MountedHost, seaweed, bucket, tmp_path) as make:
        yield make


@pytest.fixture
def mounted(make_mounted: MakeMounted) -> MountedHost:
    """One host, mounted."""
    return make_mounted().mount()
