"""SIGKILL to the server, to the daemon, and to both, at any moment while programs work: an error then, and everything
that a program was told is there after; and the store gets what the root has.

All programs at once, one kill; ``CACHESYNC_TEST_KILLS=20`` also has each of them killed alone, 20 times each way.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.killed import PROGRAMS, Place, Program
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

TIMES = int(os.environ.get("CACHESYNC_TEST_KILLS", "0"))
WORKING = 1.0
"""Seconds of the programs' work, once all have begun, within which they are hit."""

TOGETHER = [pytest.param(PROGRAMS, id="together")]
ALONE = [pytest.param([program], id=f"{program.name}-{nth}") for nth in range(TIMES) for program in PROGRAMS]


@pytest.mark.parametrize("whom", [("server",), ("daemon",), ("server", "daemon")], ids="+".join)
@pytest.mark.parametrize("programs", TOGETHER + ALONE)
def test_what_programs_were_told_is_there_after_a_kill(
    mounted: MountedHost, tmp_path: Path, programs: Sequence[Program], whom: tuple[str, ...]
) -> None:
    places = [Place(mounted.mnt / program.name, tmp_path / "beside" / program.name) for program in programs]
    for program, place in zip(programs, places, strict=True):
        place.folder.mkdir()
        place.beside.mkdir(parents=True)
        program.prepare(place)
    with ExitStack() as running:
        works = [running.enter_context(p.running(place)) for p, place in zip(programs, places, strict=True)]
        for work, place in zip(works, places, strict=True):
            eventually(lambda: place.told() or work.poll() is not None, 60, "the first step is done")  # noqa: B023
            assert work.poll() is None, place.said()
        hit_within(WORKING, mounted, whom)
        mounted.again()
        if "server" not in whom:
            for place in places:
                before = len(place.told())
                eventually(lambda: len(place.told()) > before, 60, "it goes on, and has noticed nothing")  # noqa: B023
        for work, place in zip(works, places, strict=True):
            (place.beside / "stop").touch()
            # Those that had a file open were told ENOTCONN; who only names them may have come through.
            assert work.wait(60) == 0 or "server" in whom, place.said()
    for program, place in zip(programs, places, strict=True):
        program.proof(place)
        mounted.stored(program.name)
        assert mounted.objects(program.name) == mounted.local(program.name)


def hit_within(seconds: float, mounted: MountedHost, whom: tuple[str, ...]) -> None:
    """The kill comes at any moment: that is what is tried here, and nothing is waited for."""
    time.sleep(random.uniform(0, seconds))
    mounted.kill_child(*whom)
