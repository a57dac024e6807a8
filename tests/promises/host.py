"""A machine that cachesync runs on, as the promises see it: a root, a daemon, the commands, and the bucket's truth."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

from tests.servers import SeaweedServer, Server
from tests.warm import Process, launch

T = TypeVar("T")

MANIFEST = ".cachesync/manifest.json"


def eventually(check: Callable[[], T], timeout: float = 15.0, what: str = "") -> T:
    """What ``check`` returns once it is true; its own AssertionError, or one that says ``what``, after ``timeout``."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        try:
            found = check()
        except AssertionError:
            if late:
                raise
        else:
            if found:
                return found
            assert not late, f"not within {timeout:g} s: {what or 'the condition'}; last: {found!r}"
        time.sleep(0.02)


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __iter__(self):
        """``code, told = host.flush(...)``."""
        yield self.code
        yield self.json if self.out.startswith(("{", "[")) else None


@dataclass
class Host:
    """One host: ``root``, and what the environment gives to every command. ``wrap`` is put before each command.

    ``cold`` commands are executed, the others forked from a process that is warm (tests.warm).
    """

    folder: Path
    server: Server
    bucket: str
    env: dict[str, str] = field(default_factory=dict)
    wrap: Sequence[str] = ()
    prefix: str = ""
    cold: bool = False

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        self.state = self.root / ".cachesync"
        self.log = self.folder / "daemon.log"
        self.root.mkdir(parents=True, exist_ok=True)
        self.daemon: Process | None = None
        self.serving: Sequence[str] = ("run",)
        self._notices: socket.socket | None = None
        self.notices: list[str] = []
        self.s3 = self.server.client()
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        self.env = kept | {
            "HOME": str(self.folder),
            "CACHESYNC_ROOT": str(self.root),
            "CACHESYNC_STORE": f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else ""),
            "S3_ENDPOINT": self.server.endpoint,
            "AWS_ACCESS_KEY_ID": self.server.key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CACHESYNC_DELETE_SETTLE": "0.3s",
            "CACHESYNC_SCAN_INTERVAL": "1h",
            "CACHESYNC_DRAIN_TIMEOUT": "20s",
        } | self.env  # fmt: skip

    # -- the daemon ----------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, **settings: str) -> Host:
        """Start the daemon and wait until it says that it is ready. ``settings`` are CACHESYNC_X by their names."""
        assert self.daemon is None, "it runs"
        if self._notices is not None:
            self._notices.close()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        name = f"cachesync-test-{os.getpid()}-{id(self)}-{time.monotonic_ns()}"
        self._notices.bind("\0" + name)
        self.notices = []
        given = {f"CACHESYNC_{name.upper()}": value for name, value in settings.items()}
        with open(self.log, "ab") as log:
            self.daemon = self.launch(self.serving, given | {"NOTIFY_SOCKET": "@" + name}, log, log)
        if wait:
            eventually(self._ready, 30, "the daemon is ready")
        return self

    def _ready(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended with {self.daemon.returncode}:\n{self.complaints()}"
        return "READY=1" in self.heard()

    def heard(self) -> list[str]:
        """Everything that the daemon told systemd."""
        with contextlib.suppress(BlockingIOError):
            while self._notices is not None:
                self.notices += self._notices.recv(4096).decode().splitlines()
        return self.notices

    def stop(self, timeout: float = 30.0, number: int = signal.SIGTERM) -> int:
        """SIGTERM; returns the exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.ended(timeout)

    def ended(self, timeout: float = 30.0) -> int:
        """Wait for the daemon's end; returns the exit code."""
        assert self.daemon is not None
        code = self.daemon.wait(timeout)
        self.daemon = None
        return code

    def kill(self) -> None:
        """As power loss would, for all that a process can tell."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def freeze(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGSTOP)
        pid = self.daemon.pid
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")

    def thaw(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGCONT)

    def said(self) -> str:
        """The daemon's log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def complaints(self) -> str:
        """The last lines of the log that are not of daily work."""
        lines = [line for line in self.said().splitlines() if '"message": "stored"' not in line]
        return "\n".join(line for line in lines if '"message": "deleted"' not in line)[-3000:]

    def close(self) -> None:
        self.kill()
        if self._notices is not None:
            self._notices.close()
        self.s3.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(self, *words: str | bytes, timeout: float = 45.0, env: Mapping[str, str] | None = None) -> Outcome:
        """A command to its end. No command may ever show a traceback, whatever is wrong."""
        begun = time.monotonic()
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            command = self.launch(words, env or {}, said, complained)
            try:
                code = command.wait(timeout)
            finally:
                command.kill()
                command.wait()
            out, err = (_text(file) for file in (said, complained))
        assert "Traceback" not in err + out, err + out
        return Outcome(code, out, err, time.monotonic() - begun)

    def launch(
        self, words: Sequence[str | bytes], env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> Process:
        """Start a command."""
        return launch(
            words, env=self.env | dict(env), cwd=self.folder, stdout=stdout, stderr=stderr,
            wrap=self.wrap, cold=self.cold,
        )  # fmt: skip

    def flush(self, session: str = "s1", *words: str, timeout: float = 30.0) -> Outcome:
        """``flush --json``: ``code, told = host.flush()``."""
        return self.run("flush", session, "--json", "--timeout", f"{timeout:g}", *words, timeout=timeout + 40)

    def stored(self, session: str = "s1", *words: str, timeout: float = 30.0) -> Any:
        """Flush, insist on success, and return the report."""
        done = self.flush(session, *words, timeout=timeout)
        assert done.code == 0, f"exit {done.code}: {done.out[:2000]} {done.err}\n{self.complaints()}"
        assert done.json["stored"] is True
        return done.json

    def status(self, session: str = "s1") -> Any:
        """The session's row of ``status --json``."""
        (row,) = self.run("status", session, "--json").json["sessions"]
        return row

    # -- files ---------------------------------------------------------------------------------------------------------

    def path(self, name: str, session: str = "s1") -> Path:
        return self.root / session / name

    def write(self, name: str, content: str | bytes = "x", session: str = "s1") -> Path:
        """Write a file and its parents, closed when this returns."""
        path = self.path(name, session)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def local(self, session: str = "s1") -> dict[str, bytes]:
        """Every regular file of a session, by path."""
        top = self.root / session
        found = {}
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    found[os.path.relpath(path, top)] = Path(path).read_bytes()
        return found

    # -- the truth -----------------------------------------------------------------------------------------------------

    def key(self, path: str, session: str = "s1") -> str:
        return (f"{self.prefix}/" if self.prefix else "") + f"sessions/{session}/{path}"

    def keys(self, session: str = "s1") -> set[str]:
        """The session's objects, by path, but for the manifest."""
        prefix, found = self.key("", session), set()
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            found |= {entry["Key"].removeprefix(prefix) for entry in page.get("Contents", ())}
        return found - {MANIFEST}

    def object(self, path: str, session: str = "s1") -> bytes | None:
        """One object's bytes, or None."""
        try:
            return bytes(self.s3.get_object(Bucket=self.bucket, Key=self.key(path, session))["Body"].read())
        except self.s3.exceptions.NoSuchKey:
            return None

    def objects(self, session: str = "s1") -> dict[str, bytes]:
        """Every object of a session, but for the manifest, read back."""
        keys = sorted(self.keys(session))
        with ThreadPoolExecutor(4) as pool:
            bodies = list(pool.map(lambda key: self.object(key, session), keys))
        return {key: body for key, body in zip(keys, bodies, strict=True) if body is not None}

    def head(self, path: str, session: str = "s1") -> Any:
        return self.s3.head_object(Bucket=self.bucket, Key=self.key(path, session), ChecksumMode="ENABLED")

    def manifest(self, session: str = "s1") -> Any:
        data = self.object(MANIFEST, session)
        return None if data is None else json.loads(data)

    def listed(self, session: str = "s1") -> dict[str, Any]:
        """The manifest's rows by path."""
        return {row["path"]: row for row in self.manifest(session)["entries"]}

    def keep_versions(self) -> None:
        """Switch the bucket's versioning on, so that nothing that was ever stored is lost to the test."""
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def versions(self, path: str, session: str = "s1") -> list[bytes]:
        """The bytes of every version that ever was, oldest first."""
        key, found = self.key(path, session), []
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=key):
            found += [entry for entry in page.get("Versions", ()) if entry["Key"] == key]
        found = found[::-1]  # newest first is how S3 lists them; its times are seconds
        return [
            self.s3.get_object(Bucket=self.bucket, Key=key, VersionId=entry["VersionId"])["Body"].read()
            for entry in found
        ]

    def foreign_put(self, path: str, content: bytes, session: str = "s1") -> str:
        """Another writer's PUT. Returns the ETag."""
        answer = self.s3.put_object(Bucket=self.bucket, Key=self.key(path, session), Body=content)
        return str(answer["ETag"]).strip('"')

    def foreign_delete(self, path: str, session: str = "s1") -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=self.key(path, session))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def wire(name: str) -> bytes:
    """A path as it stands in a request line."""
    return quote(name).encode()


H = TypeVar("H", bound=Host)


@contextlib.contextmanager
def hosts_of(kind: type[H], server: SeaweedServer, bucket: str, folder: Path) -> Iterator[Callable[..., H]]:
    """What makes hosts that share a bucket, each in a folder of its own; they are closed at the end."""
    server.make_bucket(bucket)
    hosts: list[H] = []

    def make(name: str = "host", **given: Any) -> H:
        first: dict[str, Any] = {"folder": folder / name, "server": server, "bucket": bucket}
        host = kind(**(first | given))
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()
