"""Hosts for the promises, in other circumstances."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host
from tests.promises.line import Line


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
