"""A mount that is well, and one whose server died, as doctor sees them."""

from __future__ import annotations

import signal
from typing import Any

from tests.mount.mounted import MountedHost
from tests.promises.host import eventually


def mount_of(host: MountedHost) -> Any:
    done = host.run("doctor", "--json")
    (row,) = (row for row in done.json if row["check"] == "mounts" and str(host.mnt) in row["seen"])
    return done.code, row


def test_a_mount_whose_server_died_is_a_problem_until_it_is_taken_away(mounted: MountedHost):
    code, row = mount_of(mounted)
    assert (code, row["verdict"]) == (0, "ok")
    assert mounted.daemon is not None
    mounted.daemon.send_signal(signal.SIGSTOP)  # so that nobody puts it up again
    mounted.kill_child("server")
    eventually(lambda: not mounted.alive())
    code, row = mount_of(mounted)
    assert (code, row["verdict"]) == (1, "problem")
    assert row["mend"].startswith(f"cachesync umount {mounted.mnt}")
    assert mounted.run("umount", str(mounted.mnt)).code == 0
    assert not any(str(mounted.mnt) in row["seen"] for row in mounted.run("doctor", "--json").json)
