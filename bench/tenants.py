"""What one session's flood costs another session: ``python -m bench.tenants [FLOOD...] [--code DIR] [--runs N]``.

A daemon works on two sessions, with a SeaweedFS on loopback. For each flood, session ``flood`` does its worst, and
session ``other`` writes a small file and one of 40 MiB. The table shows the seconds until their objects exist, beside
the seconds that they take with no flood; ``--code`` names a checkout whose daemon is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from bench.machine import MIB
from bench.target import REGION, Target
from cachesync.store.devserver import DevServer

FLOOD, OTHER = "flood", "other"
_LARGE = 40 * MIB
_PIECE = 64 * 1024
_HUNG = re.compile(rb"^PUT [^ ]*/sessions/flood/hung")
_LOOK = 0.02
_WARM = 2.0
_HEAD_START = 1.0


def files(session: Path) -> None:
    """20,000 files of a few bytes, in one directory."""
    for number in range(20_000):
        (session / f"{number}").write_bytes(b"tiny")


def moved(session: Path) -> None:
    """A directory of 40,000 files, moved into the session at once."""
    made = session.parent.parent / "made"
    made.mkdir()
    for number in range(40_000):
        (made / f"{number}").write_bytes(b"tiny")
    made.rename(session / "made")


def sparse(session: Path) -> None:
    """Eight sparse files of 1 TiB."""
    for number in range(8):
        with (session / f"sparse{number}").open("wb") as file:
            file.truncate(1024**4)


def parts(session: Path) -> None:
    """A file of 256 MiB whose parts the store never answers."""
    (session / "hung").write_bytes(os.urandom(256 * MIB))


def puts(session: Path) -> None:
    """40 files of 15 MiB that the store never answers."""
    for number in range(40):
        (session / f"hung{number}").write_bytes(os.urandom(15 * MIB))


def rule(session: Path) -> None:
    """An ignore rule that takes a regular expression for ever."""
    (session / ".cachesyncignore").write_text("*a*a*a/*a*a*a/*a*a*a/*a*a*b\n")
    deep = session / "/".join(["a" * 40] * 3)
    deep.mkdir(parents=True)
    (deep / ("a" * 40)).write_bytes(b"x")


FLOODS: dict[str, Callable[[Path], None]] = {each.__name__: each for each in (files, moved, sparse, parts, puts, rule)}


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tenants", description=__doc__)
    parser.add_argument("floods", nargs="*", metavar="FLOOD", help=f"of: {', '.join(FLOODS)} (all)")
    parser.add_argument("--code", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--longest", type=float, default=90.0, help="seconds that one file is waited for (90)")
    args = parser.parse_args()
    for name in args.floods or FLOODS:
        rows = [_measured(args.code, FLOODS[name], args.longest) for _ in range(args.runs)]
        alone_small, alone_large, small, large = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{name:8} alone: small {alone_small:6.2f} s, 40 MiB {alone_large:6.2f} s;"
            f" beside: small {_shown(small, args.longest)}, 40 MiB {_shown(large, args.longest)}",
            flush=True,
        )
    return 0


def _shown(seconds: float, longest: float) -> str:
    return f"not in {longest:.0f} s" if seconds >= longest else f"{seconds:6.2f} s"


def _measured(code: Path, flood: Callable[[Path], None], longest: float) -> tuple[float, float, float, float]:
    """Seconds of the small and the large file: alone, and beside the flood."""
    with tempfile.TemporaryDirectory(prefix="tenants") as folder, _stage(Path(folder), code) as (root, client, bucket):
        (root / FLOOD).mkdir()
        (root / OTHER).mkdir()

        def stored(name: str, size: int) -> float:
            (root / OTHER / name).write_bytes(os.urandom(size))
            return _wait(client, bucket, f"sessions/{OTHER}/{name}", longest)

        stored("warm", _LARGE)
        alone = stored("small alone", 9), stored("large alone", _LARGE)
        making = threading.Thread(target=flood, args=(root / FLOOD,), daemon=True)
        making.start()
        if flood in {parts, puts, moved}:
            making.join()
        time.sleep(_HEAD_START)
        beside = stored("small", 9), stored("large", _LARGE)
        making.join()
        return (*alone, *beside)


def _wait(client: Any, bucket: str, key: str, longest: float) -> float:
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < longest:
        with contextlib.suppress(ClientError):
            client.head_object(Bucket=bucket, Key=key)
            return waited
        time.sleep(_LOOK)
    return longest


@contextlib.contextmanager
def _stage(place: Path, code: Path) -> Iterator[tuple[Path, Any, str]]:
    """A server, and a daemon of ``code`` that reaches it through a proxy which hangs."""
    server = DevServer(place / "s3")
    server.start()
    try:
        server.make_bucket("tenants")
        target = Target(server.endpoint, server.key, server.secret, "tenants")
        client = botocore.session.get_session().create_client(
            "s3", endpoint_url=server.endpoint, region_name=REGION, aws_access_key_id=server.key,
            aws_secret_access_key=server.secret, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        root = place / "root"
        root.mkdir()
        with _proxy(target.endpoint) as endpoint, _daemon(code, root, replace(target, endpoint=endpoint)):
            yield root, client, target.bucket
    finally:
        server.stop()


@contextlib.contextmanager
def _daemon(code: Path, root: Path, target: Target) -> Iterator[None]:
    env = target.env | {"PYTHONPATH": str(code), "CACHESYNC_ROOT": str(root)}
    with (root.parent / "log").open("wb") as log:
        command = [sys.executable, "-m", "cachesync", "run"]
        daemon = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=code)
        try:
            time.sleep(_WARM)
            yield
        finally:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _proxy(endpoint: str) -> Iterator[str]:
    """A proxy that passes all on, but for requests that match ``_HUNG``: these, and their connections, end there."""
    place = urlsplit(endpoint)

    def pipe(source: socket.socket, sink: socket.socket, *, hangs: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if hangs and _HUNG.match(piece):
                    threading.Event().wait()
                sink.sendall(piece)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def take(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection((str(place.hostname), int(place.port or 80)))
                for ends, hangs in (((near, far), True), ((far, near), False)):
                    threading.Thread(target=pipe, args=ends, kwargs={"hangs": hangs}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=take, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
