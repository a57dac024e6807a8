"""What the fault tests share: a daemon that can be killed, a view of the bucket past our own code, and the two checks.

``Bench.falsely_clean`` looks at a dead daemon's journal, ``Bench.differences`` at the store alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from cachesync.api.client import ControlClient
from cachesync.model.errors import DaemonUnavailable
from cachesync.model.reports import FlushReport
from tests.servers import SeaweedServer

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 30.0


def until(condition: Callable[[], object], what: str = "", within: float = DEADLINE, pause: float = 0.005) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(pause)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Zygote:
    """tests.faults.crashing, kept warm: it forks one daemon at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
            bufsize=1,
        )
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="zygote", daemon=True)
        self._reader.start()
        assert self._answers.get(timeout=60) == {"ready": True}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))

    def fork(self, order: dict[str, Any]) -> int:
        """Start a daemon; its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        return int(self._answers.get(timeout=30)["pid"])

    def ended(self, timeout: float = DEADLINE) -> int:
        """Wait for the daemon's end; its exit code, or minus its signal."""
        return int(self._answers.get(timeout=timeout)["ended"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Bucket:
    """A bucket, from ``prefix`` on, as any other S3 tool sees it. Remembers digests by (key, ETag): looking again is
    cheap."""

    def __init__(self, server: SeaweedServer, name: str, prefix: str) -> None:
        self.name = name
        self.prefix = prefix
        self.server = server
        self.s3 = server.client()
        self._digests: dict[tuple[str, str], str] = {}

    def session(self, name: str) -> str:
        """The start of a session's keys."""
        return f"{self.prefix}/sessions/{name}/"

    def put(self, key: str, data: bytes) -> None:
        """Be another writer."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=data)

    def close(self) -> None:
        self.s3.close()

    def objects(self, prefix: str) -> dict[str, str]:
        """Key to ETag."""
        found: dict[str, str] = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            found.update({entry["Key"]: entry["ETag"] for entry in page.get("Contents", ())})
        return found

    def body(self, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def digests(self, prefix: str) -> dict[str, str]:
        """Path under ``prefix`` to SHA-256 of the bytes that a GET gives."""
        found = {}
        for key, etag in self.objects(prefix).items():
            if (key, etag) not in self._digests:
                try:
                    self._digests[key, etag] = digest(self.body(key))
                except self.s3.exceptions.NoSuchKey:
                    continue  # a server still does what somebody asked who was killed meanwhile
            found[key.removeprefix(prefix)] = self._digests[key, etag]
        return found

    def uploads(self) -> list[tuple[str, str]]:
        """Multipart uploads under way: key and id."""
        answer = self.s3.list_multipart_uploads(Bucket=self.name, Prefix=self.prefix)
        found = [(upload["Key"], upload["UploadId"]) for upload in answer.get("Uploads", ())]
        return [upload for upload in found if upload[0].startswith(self.prefix)]


class Bench:
    """A root, its daemon, and its bucket. ``endpoint`` is where the daemon finds the store (a proxy, say)."""

    def __init__(
        self,
        base: Path,
        zygote: Zygote,
        bucket: Bucket,
        *,
        endpoint: str | None = None,
        root: Path | None = None,
        state: Path | None = None,
        **settings: object,
    ) -> None:
        self.base = base
        self.root = root or base / "root"
        self.state = state or base / "state"
        self.log = base / "daemon.log"
        self.zygote = zygote
        self.bucket = bucket
        self.root.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.pid: int | None = None
        self.boot: str | None = None
        """The file that says which boot of the machine it is, if not the kernel's."""
        self.kills = 0
        server = bucket.server
        self.environ = {
            "CACHESYNC_ROOT": str(self.root),
            "CACHESYNC_STATE": str(self.state),
            "CACHESYNC_SOCKET": str(base / "s"),
            "CACHESYNC_STORE": f"s3://{bucket.name}/{bucket.prefix}",
            "S3_ENDPOINT": endpoint or server.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": server.key,
            "AWS_SECRET_ACCESS_KEY": server.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CACHESYNC_DELETE_SETTLE": "0.3s",
            "CACHESYNC_DRAIN_TIMEOUT": "2s",
        } | {f"CACHESYNC_{name.upper()}": str(value) for name, value in settings.items()}

    # -- the daemon ---------------------------------------------------------------------------------------------------

    def start(self, point: str | None = None, nth: int = 1, fail_every: int = 0, *, wait: bool = True) -> None:
        """Start a daemon; returns when it serves its socket, or has crashed as it was told to."""
        assert self.pid is None
        (self.base / "s").unlink(missing_ok=True)
        order = {"environ": self.environ, "log": str(self.log), "point": point, "nth": nth, "fail_every": fail_every}
        order["boot"] = self.boot
        self.pid = self.zygote.fork(order)
        if wait:
            until(lambda: not self.alive() or self.client.is_serving(), self.tail())
            assert point is not None or self.alive(), self.tail()

    def alive(self) -> bool:
        """Whether the daemon's process runs (a zombie does not)."""
        assert self.pid is not None
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"

    def kill(self) -> None:
        """SIGKILL, now."""
        assert self.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.ended()

    def ended(self, timeout: float = DEADLINE) -> int:
        """Wait for the daemon's end."""
        try:
            code = self.zygote.ended(timeout)
        except queue.Empty:
            raise AssertionError(f"the daemon did not end within {timeout} s: {self.tail()}") from None
        self.pid = None
        self.kills += code == -signal.SIGKILL
        return code

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def close(self) -> None:
        if self.pid is not None:
            self.kill()

    @property
    def client(self) -> ControlClient:
        return ControlClient(self.base / "s")

    def flush(self, session: str, timeout: float = 20.0, **options: Any) -> FlushReport:
        return self.client.flush(session, timeout=timeout, **options)

    def flush_until_dead(self, *sessions: str) -> None:
        """Flush in turn; a daemon that dies meanwhile is what the caller is after."""
        with contextlib.suppress(DaemonUnavailable):
            for session in sessions:
                self.flush(session, 10)

    def cli(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """The command, as a user runs it."""
        return subprocess.run(
            [sys.executable, "-m", "cachesync", *arguments],
            env=os.environ | self.environ, cwd=self.base, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, while it runs."""
        return subprocess.Popen(
            [sys.executable, "-m", "cachesync", *arguments],
            env=os.environ | self.environ, cwd=self.base, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def tail(self, lines: int = 15) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "no log"

    # -- the disk -----------------------------------------------------------------------------------------------------

    def write(self, session: str, path: str, data: bytes) -> None:
        target = self.root / session / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def local(self, session: str) -> dict[str, str]:
        """Regular files to SHA-256."""
        top = self.root / session
        return {
            str(path.relative_to(top)): digest(path.read_bytes())
            for path in top.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def links(self, session: str) -> dict[str, str]:
        top = self.root / session
        return {str(path.relative_to(top)): os.readlink(path) for path in top.rglob("*") if path.is_symlink()}

    # -- the checks ---------------------------------------------------------------------------------------------------

    def differences(self, session: str, *, manifest: bool = True, besides: Collection[str] = ()) -> list[str]:
        """What the store alone says against the disk: every file, nothing else, and a manifest that says the same.

        ``besides`` are paths that may be in the store only: another writer's.
        """
        prefix = self.bucket.session(session)
        stored, local = self.bucket.digests(prefix), self.local(session)
        listed = stored.pop(".cachesync/manifest.json", None)
        found = [f"{session}/{path}: not in the store" for path in sorted(local.keys() - stored.keys())]
        found += [
            f"{session}/{path}: in the store, not here" for path in sorted(stored.keys() - local.keys() - {*besides})
        ]
        found += [f"{session}/{p}: other bytes" for p in sorted(local.keys() & stored.keys()) if local[p] != stored[p]]
        if not manifest:
            return found
        if listed is None:
            return [*found, f"{session}: no manifest"]
        rows = json.loads(self.bucket.body(f"{prefix}.cachesync/manifest.json"))["entries"]
        files = {row["path"]: row["sha256"] for row in rows if row["type"] == "file"}
        links = {row["path"]: row["target"] for row in rows if row["type"] == "link"}
        etags = self.bucket.objects(prefix)
        for path in besides:  # of what a listing told of, no digest is known
            if path in files and files[path] is None:
                files[path] = stored.get(path)
        if files != stored:
            found.append(f"{session}: manifest and objects differ in {sorted(files.items() ^ stored.items(), key=str)}")
        if links != self.links(session):
            found.append(f"{session}: links in the manifest {links}, on disk {self.links(session)}")
        for row in rows:
            if row["type"] == "file" and etags.get(prefix + row["path"], "").strip('"') != row["version"]:
                found.append(f"{session}/{row['path']}: the manifest's version is not the object's")
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The journal's entries, read from a copy: the file itself is left as the crash left it."""
        if not (self.state / "journal.db").exists():
            return []
        with tempfile.TemporaryDirectory() as folder:
            for path in self.state.glob("journal.db*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(f"{folder}/journal.db")) as db:
                db.row_factory = sqlite3.Row
                assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entry'").fetchone():
                    return []
                rows = db.execute("SELECT s.name AS session_name, e.* FROM entry e JOIN session s ON s.id = e.session")
                return [dict(row) for row in rows]

    def falsely_clean(self, *sessions: str, still: bool = True) -> list[str]:
        """What the journal of a dead daemon calls clean and the store does not have (P6).

        ``still`` says that nobody writes: then a clean file whose stat is the journal's must hold the stored bytes.
        """
        found = []
        stored = {name: self.bucket.digests(self.bucket.session(name)) for name in sessions}
        for row in self.rows():
            name = row["session_name"]
            clean = row["synced"] >= row["generation"] and row["gone_at"] is None
            if name not in stored or row["kind"] != "file" or not clean:
                continue
            path = os.fsdecode(row["dir"] + b"/" + row["name"] if row["dir"] else row["name"])
            there = stored[name].get(path)
            if row["sha256"] is None:
                if there is None:
                    found.append(f"{name}/{path}: clean, with no object")
            elif there != row["sha256"]:
                found.append(f"{name}/{path}: clean with {row['sha256'][:8]}, the store has {(there or 'nothing')[:8]}")
            if still and row["resident"] and not row["unsettled"]:
                found += self._stale(name, path, row)
        return found

    def _stale(self, session: str, path: str, row: dict[str, Any]) -> Iterator[str]:
        target = self.root / session / path
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stat = target.lstat()
            seen = (row["size"], row["mtime_ns"], row["ctime_ns"], row["inode"])
            same = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) == seen
            if same and digest(target.read_bytes()) != row["sha256"]:
                yield f"{session}/{path}: clean, its stat is the journal's, and its bytes are others"
