"""A small machine of a test's own: systemd as the first process of its own namespaces, on this file system, with what
it may write to replaced by memory. The network is this machine's."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.promises.host import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "systemd"
PROGRAM = "/usr/local/bin/cachesync"
SYSTEMD = Path("/lib/systemd/systemd")

FOREIGN = (
    "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-clean.timer", "systemd-sysctl.service", "systemd-binfmt.service", "systemd-random-seed.service",
    "proc-sys-fs-binfmt_misc.automount", "systemd-modules-load.service", "systemd-udevd.service",
    "systemd-udev-trigger.service", "systemd-hwdb-update.service", "systemd-pcrphase-sysinit.service", "swap.target",
    "local-fs.target", "ldconfig.service",
)  # fmt: skip
"""What would reach for the machine below: its kernel's settings, its devices, its /tmp."""

BOOT = """
mount --make-rprivate /
mount -t proc proc /proc
for place in /run /var/lib /var/cache /var/log /srv /usr/local/bin /etc/systemd/system; do
    mkdir -p $place && mount -t tmpfs tmpfs $place
done
mkdir -p /run/systemd/system /run/lock
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /mnt
cp -a "$1/passwd" "$1/group" /mnt
mount --bind /mnt/passwd /etc/passwd
mount --bind /mnt/group /etc/group
mkdir -p /mnt/etc /etc/cachesync 2>/dev/null || true
mount --bind "$1/etc" /etc/cachesync
cp -a "$1/units/." /run/systemd/system/
cp "$1/cachesync" /usr/local/bin/cachesync
mount --make-rshared /  # as a systemd that is no container's finds it: credentials reach a unit by propagation
exec env -i container=podman PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=small.target
"""


class Machine:
    """Boots once. ``folder`` holds its units and settings; ``settings`` are the daemon's environment."""

    def __init__(self, folder: Path, settings: dict[str, str], keys: str, changes: dict[str, str]) -> None:
        self.folder = folder
        (folder / "units").mkdir(parents=True)
        (folder / "etc").mkdir()
        (folder / "etc/aws-credentials").write_text(keys)
        (folder / "etc/aws-credentials").chmod(0o600)
        for name in ("cachesync", "mount-srv-sessions"):
            (folder / f"etc/{name}.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", folder / name)
        with open(folder / "passwd", "a", encoding="utf-8") as users:
            users.write("cachesync:x:989:989::/var/lib/cachesync:/usr/sbin/nologin\n")
        with open(folder / "group", "a", encoding="utf-8") as groups:
            groups.write("cachesync:x:989:\ncachesync-agents:x:988:\n")
        (folder / "cachesync").write_text(f'#!/bin/sh\nexec {sys.executable} -m cachesync "$@"\n')
        (folder / "cachesync").chmod(0o755)
        (folder / "units/small.target").write_text("[Unit]\nDescription=A machine for a test\nAllowIsolate=yes\n")
        for unit in UNITS.glob("*.service"):
            shutil.copy(unit, folder / "units")
            told = folder / f"units/{unit.name}.d"
            told.mkdir()
            (told / "test.conf").write_text(f"[Unit]\nWants=\nAfter=\n[Service]\n{changes.get(unit.name, '')}")
        for name in FOREIGN:
            (folder / "units" / name).symlink_to("/dev/null")
        self._boot: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        """Boot, and wait until it takes orders."""
        with open(self.folder / "log", "wb") as log:
            self._boot = subprocess.Popen(
                ["unshare", "-fpmCiu", "--kill-child", "bash", "-euc", BOOT, "boot", str(self.folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        eventually(self._booted, 30, "it boots")

    def _booted(self) -> bool:
        assert self._boot is not None
        assert self._boot.poll() is None, (self.folder / "log").read_text()
        children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
        if not children:
            return False
        self.pid = int(children[0])
        return self.run("systemctl", "is-active", "small.target", check=False).returncode == 0

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *command], capture_output=True, text=True, timeout=60, check=False
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.said()}"
        return done

    def sh(self, script: str) -> str:
        """What a shell script prints."""
        return self.run("bash", "-euc", script).stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def said(self) -> str:
        """The end of its journal."""
        command = ["nsenter", "-t", str(self.pid), "-a", "journalctl", "-n", "20", "--no-pager", "-o", "cat"]
        with contextlib.suppress(subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        return ""

    def stop(self) -> None:
        """Switch it off."""
        if self._boot is not None:
            self._boot.kill()
            self._boot.wait()
            self._boot = None


@contextlib.contextmanager
def booted(machine: Machine) -> Iterator[Machine]:
    """A machine for the time of the block."""
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()
