"""Containers for tests: a base image made here, the image of the Dockerfile, and Podman and Buildah to run them.

No registry of images is asked. Skipped only where the tools are not there, unless CONTAINER_TESTS=required, as CI sets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import BASE, TOOLS, Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine with images, containers and volumes of its own; ``my-agent`` is one of them."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.environ.get("CONTAINER_TESTS") != "required" and (missing or os.geteuid() != 0):
        pytest.skip(f"not root, or not installed: {', '.join(missing) or 'all is there'}")
    # Not pytest's folder: it is kept for a while, and this is half a gigabyte of overlays.
    folder = Path(tempfile.mkdtemp(prefix="cachesync-containers-"))
    try:
        engine = Engine(folder)
        engine.make_base()
        engine("tag", BASE, "localhost/my-agent")
        yield engine
        engine.remove_all()
    finally:
        subprocess.run(["umount", "-q", folder / "storage/overlay"], check=False)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the image that the Dockerfile makes."""
    if not engine("images", "-q", "localhost/cachesync"):  # the test of the page may have built it
        engine.build("cachesync")
    return "cachesync"
