"""The image, built and run: what docs/containers.md shows, stops in the middle of uploads, what process 1 does."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.containers.engine import CONTEXT, TOP, Engine
from tests.promises.documents import FENCE, Step
from tests.promises.host import eventually
from tests.promises.line import Line
from tests.servers import SeaweedServer

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(420)]

HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
LARGE = 48 << 20
"""Bytes: goes in three parts."""

SMALL = 30
ZOMBIES = """\
import pathlib
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    print(*(line.split()[1] for line in status.read_text().splitlines() if line.startswith(("Name", "State"))))
"""


class Sidecar:
    """A container of the image, its volume, and the bucket that it stores in."""

    def __init__(self, engine: Engine, image: str, server: SeaweedServer, bucket: str) -> None:
        self.engine, self.image, self.server, self.bucket = engine, image, server, bucket
        self.name = f"sidecar-{uuid4().hex[:8]}"
        self.endpoint = server.endpoint
        self.s3 = server.client()
        server.make_bucket(bucket)

    def settings(self, **settings: str) -> Iterator[str]:
        """``-e`` for each."""
        for name, value in (environment(self.server, self.bucket) | {"S3_ENDPOINT": self.endpoint}).items():
            yield from ("-e", f"{name}={value}")
        for name, value in settings.items():
            yield from ("-e", f"CACHESYNC_{name.upper()}={value}")

    def start(self, *flags: str, command: tuple[str, ...] = (), **settings: str) -> Sidecar:
        volume = f"{self.name}:/sessions"
        options = [*flags, *self.settings(**settings)]
        self.engine("run", "-d", "--name", self.name, "-v", volume, *options, self.image, *command)
        self.await_ready()
        return self

    def await_ready(self) -> None:
        eventually(lambda: "true" in self.exec("cachesync-probe", "/readyz", code=None), 30, self.logs())

    def exec(self, *words: str, code: int | None = 0) -> str:
        return self.engine("exec", self.name, *words, code=code)

    def logs(self) -> str:
        return self.engine("logs", self.name, code=None)

    def write(self, script: str) -> None:
        """By an agent: another image, the same user and volume."""
        self.engine(
            "run", "--rm", "--user", "1000:1000", "-v", f"{self.name}:/sessions", "my-agent", "sh", "-ec", script
        )

    def write_many(self, session: str) -> None:
        """A large file, and SMALL small ones."""
        small = f"for i in $(seq {SMALL}); do echo $i > $i; done"
        self.write(f"mkdir /sessions/{session}; cd /sessions/{session}; head -c {LARGE} /dev/urandom > large; {small}")

    def is_amid_upload(self, session: str) -> bool:
        """Whether the store has a part of the session's large file, and not all of it."""
        key = f"sessions/{session}/large"
        begun = self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        (upload,) = [row["UploadId"] for row in begun if row["Key"] == key] or [None]
        there = upload and self.s3.list_parts(Bucket=self.bucket, Key=key, UploadId=upload).get("Parts", [])
        return bool(there) and key not in self.objects()

    def files(self) -> dict[str, str]:
        """The SHA-256 of each file of the sessions in the volume, by its key."""
        place = Path(self.engine("volume", "inspect", "-f", "{{.Mountpoint}}", self.name))
        return {
            f"sessions/{path.relative_to(place)}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in place.rglob("*")
            if path.is_file() and ".cachesync" not in path.parts
        }

    def objects(self) -> dict[str, str]:
        """The SHA-256 of each object, by its key, but the manifests."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {
            key: hashlib.sha256(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()).hexdigest()
            for key in (row["Key"] for row in listed)
            if "/.cachesync/" not in key
        }


def environment(server: SeaweedServer, bucket: str) -> dict[str, str]:
    return {
        "CACHESYNC_STORE": f"s3://{bucket}", "S3_ENDPOINT": server.endpoint, "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.secret, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


@pytest.fixture
def sidecar(engine: Engine, image: str, seaweed: SeaweedServer, bucket: str) -> Iterator[Sidecar]:
    sidecar = Sidecar(engine, image, seaweed, bucket)
    yield sidecar
    engine("rm", "-f", "-t", "0", sidecar.name)
    engine("volume", "rm", "-f", sidecar.name)


# -- what the page shows -----------------------------------------------------------------------------------------------


def shown_steps() -> list[Step]:
    found: list[Step] = []
    for kind, text in FENCE.findall((TOP / "docs/containers.md").read_text("utf-8")):
        for line in text.splitlines() if kind == "console" else ():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            else:
                found[-1].shown.append(line)
    return found


@pytest.fixture
def shared_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose mounts reach containers, as every folder does on a machine that systemd has booted."""
    folder = tmp_path / "clone"
    folder.mkdir()
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)
    yield folder
    subprocess.run(["umount", "-R", folder], check=True)


def test_every_command_does_what_the_page_shows(
    engine: Engine, seaweed: SeaweedServer, bucket: str, shared_folder: Path
):
    seaweed.make_bucket(bucket)
    for name in CONTEXT:
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, shared_folder / name)
    lines = [f"{name}={value}\n" for name, value in environment(seaweed, bucket).items()]
    (shared_folder / "cachesync.env").write_text("".join(lines))
    steps = shown_steps()
    assert len(steps) > 15
    try:
        for step in steps:
            done = subprocess.run(
                ["bash", "-c", step.command], cwd=shared_folder, env=engine.environ, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"$ {step.command}\n{done.stdout}{done.stderr}"
            assert step.fits(done.stdout), f"$ {step.command}\nshown {step.shown}\nsaid  {done.stdout!r}"
    finally:
        engine.remove_all()


# -- beside an agent ---------------------------------------------------------------------------------------------------


def test_it_is_healthy_and_hardened_and_tells_when_its_daemon_hangs(sidecar: Sidecar):
    sidecar.start(*HARDENED)
    assert sidecar.exec("sh", "-c", "id -u; id -g").split() == ["1001", "1000"]
    assert sidecar.exec("sh", "-c", "touch /tmp/x", code=1) == ""
    assert sidecar.exec("sh", "-c", "touch /opt/cachesync/x", code=1) == ""
    engine = sidecar.engine
    engine("healthcheck", "run", sidecar.name)
    assert engine("inspect", "-f", "{{.State.Health.Status}}", sidecar.name) == "healthy"
    assert engine("inspect", "-f", "{{.Config.StopSignal}}", sidecar.name) in ("SIGTERM", "15")
    sidecar.exec("sh", "-c", "kill -STOP $(cat /proc/1/task/1/children)")
    engine("healthcheck", "run", sidecar.name, code=1)
    sidecar.exec("sh", "-c", "kill -CONT $(cat /proc/1/task/1/children)")
    engine("healthcheck", "run", sidecar.name)


def test_orphans_of_executed_commands_are_buried(sidecar: Sidecar):
    sidecar.start(*HARDENED)
    sidecar.exec("sh", "-c", "for i in 1 2 3; do (exec sleep 0.1 &) ; done")
    eventually(lambda: "sleep" not in sidecar.exec("python3", "-c", ZOMBIES))
    assert "Z" not in [line.split()[1] for line in sidecar.exec("python3", "-c", ZOMBIES).splitlines()]


def test_what_was_stopped_or_killed_amid_uploads_is_stored_after_the_next_start(sidecar: Sidecar, line: Line):
    engine, sidecar.endpoint = sidecar.engine, line.endpoint
    sidecar.start(*HARDENED, drain_timeout="1s", scan_interval="1h")

    line.stall = b"partNumber=2"
    sidecar.write_many("a")
    eventually(lambda: sidecar.is_amid_upload("a") and len(sidecar.objects()) == SMALL)
    engine("stop", "-t", "20", sidecar.name)
    assert engine.code_of(sidecar.name) == 4, "the large file is left"
    assert sidecar.is_amid_upload("a")
    sidecar.write("echo 'while it was away' > /sessions/a/away")

    engine("start", sidecar.name)
    sidecar.await_ready()
    sidecar.write_many("b")
    eventually(lambda: sidecar.is_amid_upload("b"))
    engine("kill", sidecar.name)
    eventually(lambda: engine("inspect", "-f", "{{.State.Running}}", sidecar.name) == "false")
    assert engine.code_of(sidecar.name) == 128 + signal.SIGKILL

    line.stall = None
    engine("start", sidecar.name)
    sidecar.await_ready()
    told = sidecar.exec("cachesync", "flush", "--all", "--timeout", "60")
    assert [words.split(",")[0] for words in told.splitlines()] == ["a: stored", "b: stored"]
    files = sidecar.files()
    assert len(files) == 2 * (SMALL + 1) + 1
    assert sidecar.objects() == files
    engine("stop", "-t", "20", sidecar.name)
    assert engine.code_of(sidecar.name) == 0


# -- with a mount ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/sessions", "/on-the-overlay"])
def test_a_mount_in_a_container_reads_writes_and_ends_in_order(sidecar: Sidecar, root: str):
    if os.environ.get("MOUNT_TESTS") != "required" and not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    sidecar.start(
        "--user", "0:0", "--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", command=("mount", "/files"), root=root
    )  # fmt: skip
    eventually(lambda: "fuse.cachesync" in sidecar.exec("cat", "/proc/mounts"))
    sidecar.exec("sh", "-ec", "mkdir /files/s; head -c 3000000 /dev/urandom > /files/s/a; cp /files/s/a /files/s/b")
    sidecar.exec("cachesync", "flush", "s")
    force = []
    if root == "/on-the-overlay":  # there the kernel does not tell whether a program has a file open
        assert "2 kept" in sidecar.exec("cachesync", "evict", "s", code=4)
        force = ["--force"]
    assert sidecar.exec("cachesync", "evict", *force, "s").startswith("s: 2 files evicted")
    assert sidecar.exec("sh", "-c", f"ls {root}/s/a", code=2) == ""
    sidecar.exec("cmp", "/files/s/a", "/files/s/b")
    sidecar.exec("sh", "-ec", "echo last > /files/s/c; (exec sleep 0.1 &)")
    eventually(lambda: "sleep" not in sidecar.exec("python3", "-c", ZOMBIES))
    sidecar.engine("stop", "-t", "40", sidecar.name)
    assert sidecar.engine.code_of(sidecar.name) == 0, sidecar.logs()
    assert sidecar.objects()["sessions/s/c"] == hashlib.sha256(b"last\n").hexdigest()
