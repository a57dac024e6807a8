"""The units: read by systemd's own tools, and run by a real systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy, delay
from tests.promises.host import eventually
from tests.servers import SeaweedServer
from tests.systemd.machine import PROGRAM, REPOSITORY, SYSTEMD, UNITS, Machine, booted

pytestmark = [
    pytest.mark.s3,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here"),
]
NAMES = {
    "cachesync.service": "cachesync.service",
    "cachesync@.service": "cachesync@agent1.service",
    "cachesync-mount@.service": "cachesync-mount@srv-sessions.service",
}
REQUIRED = os.environ.get("MOUNT_TESTS") == "required"
LEAST = 2.0
"""What `systemd-analyze security` calls the exposure, from 0 to 10."""


def test_every_unit_is_known_here() -> None:
    assert {unit.name for unit in UNITS.glob("*.service")} == NAMES.keys()


@pytest.mark.parametrize("unit", NAMES)
def test_a_unit_is_verified_without_a_word(unit: str, tmp_path: Path) -> None:
    here = f"{sys.executable} -m cachesync"
    (tmp_path / NAMES[unit]).write_text((UNITS / unit).read_text().replace(PROGRAM, here))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / NAMES[unit])],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "cachesync" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.parametrize("unit", ["cachesync.service", "cachesync@.service"])
def test_a_unit_is_little_exposed(unit: str, tmp_path: Path) -> None:
    shutil.copy(UNITS / unit, tmp_path / NAMES[unit])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={LEAST * 10:.0f}", str(tmp_path / NAMES[unit])],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("unit", NAMES)
def test_only_wrong_settings_keep_a_unit_down(unit: str) -> None:
    """systemd gives up after five starts in ten seconds, unless it is told not to."""
    lines = (UNITS / unit).read_text().splitlines()
    assert lines.index("[Unit]") < lines.index("StartLimitIntervalSec=0") < lines.index("[Service]")
    told = [line for line in lines if line.startswith("Restart")]
    assert told == ["Restart=on-failure", "RestartSec=1", "RestartPreventExitStatus=2"]


@pytest.mark.parametrize("unit", NAMES)
def test_no_settings_come_from_where_a_unit_stands(unit: str) -> None:
    assert "WorkingDirectory=/" in (UNITS / unit).read_text().splitlines()


# -- a real systemd ----------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(seaweed: SeaweedServer, tmp_path: Path) -> Iterator[tuple[Machine, Proxy, set[str]]]:
    """A machine whose daemon stores through a proxy, and the keys that the bucket has now."""
    if os.geteuid() != 0 or not SYSTEMD.exists():
        if REQUIRED:
            pytest.fail("this has to be run as root, with systemd installed")
        pytest.skip("needs root and systemd")
    bucket = f"t-{uuid.uuid4().hex[:20]}"
    seaweed.make_bucket(bucket)
    python = Path(sys.base_prefix)
    visible = f"BindReadOnlyPaths={REPOSITORY} {sys.prefix} {python}\n"
    if python.is_relative_to("/root"):  # what ProtectHome hides, this machine's Python lies in
        visible = f"ProtectHome=no\nTemporaryFileSystem=/root:ro,mode=0755\n{visible}"
    if REPOSITORY.is_relative_to("/tmp"):
        visible += "PrivateTmp=no\n"
    told = {
        "cachesync.service": f"{visible}WatchdogSec=3\nTimeoutStopSec=1\n",
        "cachesync-mount@.service": "TimeoutStopSec=1\n",
    }
    with Proxy(seaweed.endpoint) as proxy:
        settings = {
            "CACHESYNC_STORE": f"s3://{bucket}", "S3_ENDPOINT": proxy.endpoint, "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "CACHESYNC_TRANSFERS": "1", "S3_FORCE_PATH_STYLE": "true",
        }  # fmt: skip
        keys = f"[default]\naws_access_key_id = {seaweed.key}\naws_secret_access_key = {seaweed.secret}\n"
        with booted(Machine(tmp_path / "machine", settings, keys, told)) as machine:
            yield machine, proxy, _Keys(seaweed, bucket)


class _Keys(set[str]):
    """Looks each time that it is asked."""

    def __init__(self, server: SeaweedServer, bucket: str) -> None:
        super().__init__()
        self._server, self._bucket = server, bucket

    def now(self) -> set[str]:
        s3 = self._server.client()
        try:
            found = s3.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        finally:
            s3.close()
        return {entry["Key"] for entry in found}


WRITE = """
cd /var/lib/cachesync/sessions
install -d -o cachesync -g cachesync demo
for number in $(seq {count}); do echo $number > demo/{name}$number; done
chown -R cachesync:cachesync demo
"""
FLUSH = (
    "CACHESYNC_SOCKET=/run/cachesync/control.sock cachesync flush demo --root /var/lib/cachesync/sessions --timeout 20"
)


def test_the_daemon_under_its_sandbox_its_watchdog_and_a_stop(machine: tuple[Machine, Proxy, _Keys]) -> None:
    system, proxy, keys = machine
    system.run("systemctl", "start", "cachesync.service")  # returns when it has said READY
    assert "watching" in system.show("cachesync", "StatusText")
    system.sh(WRITE.format(count=3, name="f"))
    assert "stored, 3 files" in system.sh(FLUSH)
    assert {f"sessions/demo/f{number}" for number in (1, 2, 3)} <= keys.now(), "with the keys of the credential"
    first = system.show("cachesync", "MainPID")
    secret = system.sh(f"tr '\\0' '\\n' < /proc/{first}/environ")
    assert "AWS_SHARED_CREDENTIALS_FILE=/run/credentials/cachesync.service/aws" in secret
    assert "SECRET" not in secret

    system.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "cachesync.service")
    eventually(lambda: system.show("cachesync", "NRestarts") == "1", 40, "the watchdog bites")
    eventually(lambda: system.show("cachesync", "ActiveState") == "active", 20, "it is started again")
    assert system.show("cachesync", "MainPID") != first

    proxy.add(delay(0.2), "PutObject")
    system.sh(WRITE.format(count=20, name="late"))
    system.run("systemctl", "stop", "cachesync.service")  # 4 s of uploads, where a stop may take 1 s
    assert system.show("cachesync", "Result") == "success", system.said()
    assert {f"sessions/demo/late{number}" for number in range(1, 21)} <= keys.now()
    assert system.show("cachesync", "ExecMainStatus") == "0"


AGENT = "setpriv --reuid {0} --regid {0} --groups 988 "
ASK = "curl -s -w '%{{stderr}}%{{http_code}} ' --unix-socket /run/cachesync/{0}.sock -X {1} http://x{2} 2>&1"


def test_agents_of_other_users_have_a_socket_of_their_own(machine: tuple[Machine, Proxy, _Keys]) -> None:
    """As docs/systemd.md says."""
    system, _, keys = machine
    text = (REPOSITORY / "docs/systemd.md").read_text()
    (install,) = [line for line in text.splitlines() if line.startswith("install") and "/srv/agents" in line]
    (drop_in,) = [block for block in text.split("```ini\n")[1:] if "AmbientCapabilities" in block]
    system.sh(install)
    system.sh(f"cat > /run/systemd/system/cachesync.service.d/agents.conf <<'END'\n{drop_in.partition('```')[0]}END\n")
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "start", "cachesync.service")
    own, other = AGENT.format(1234), AGENT.format(1235)
    system.sh(f"{own} sh -c 'umask 077; mkdir /srv/agents/demo; echo mine > /srv/agents/demo/a'")

    def ask(who: str, socket: str, method: str, path: str) -> str:
        return system.sh(f'{who} sh -c "{ASK.format(socket, method, path)}"')

    assert '"stored":true' in ask(own, "agents", "POST", "/v1/sessions/demo/flush")
    assert "sessions/demo/a" in keys.now()
    assert ask(other, "agents", "POST", "/v1/sessions/demo/flush").strip().endswith("404")
    assert ask(own, "agents", "DELETE", "/v1/artifacts/demo/a").strip().endswith("403")
    stranger = "setpriv --reuid 1236 --regid 1236 --clear-groups "
    for who, socket in ((own, "control"), (stranger, "agents")):
        reached = system.run(
            "bash", "-c", f"{who} curl -s --unix-socket /run/cachesync/{socket}.sock http://x/", check=False
        )
        assert reached.returncode == 7, "it cannot connect"
    for who in (own, "setpriv --reuid 989 --regid 989 --clear-groups "):
        pid = system.show("cachesync", "MainPID")
        assert system.run("bash", "-c", f"{who} cat /proc/{pid}/environ", check=False).returncode == 1
    assert "1 file evicted" in system.sh(
        "CACHESYNC_SOCKET=/run/cachesync/control.sock cachesync evict demo --root /srv/agents"
    )


def test_a_mount_is_seen_by_everybody_and_gone_after_a_stop(machine: tuple[Machine, Proxy, _Keys]) -> None:
    system, _, keys = machine
    unit = NAMES["cachesync-mount@.service"]
    system.run("systemctl", "start", unit)
    assert "fuse.cachesync" in system.sh("findmnt -no FSTYPE /srv/sessions")
    system.sh("mkdir /srv/sessions/demo; echo hello > /srv/sessions/demo/f; cat /srv/sessions/demo/f")
    system.run("systemctl", "stop", unit)
    assert system.show(unit, "Result") == "success", system.said()
    assert "sessions/demo/f" in keys.now()
    assert system.run("findmnt", "/srv/sessions", check=False).returncode == 1
