"""The write path, measured: ``python -m bench.write_path [--files 2000] [--size 51200] [--runs 3]``.

Each run starts a fresh SeaweedFS and measures in turn, on the same bytes: plain writes to the file system; raw PUTs;
the same files written under a watched root until all are stored; ``cachesync flush`` of files that stood there before,
without a daemon; the same flush again, nothing changed; and the time from close to stored, one small file at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.raw import Signer, put_all
from cachesync.control.client import ControlClient
from cachesync.devserver import DevServer

TICK = os.sysconf("SC_CLK_TCK")
CACHESYNC = [sys.executable, "-m", "cachesync"]


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peak(pid: int) -> float:
    """The most resident memory that a process has had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def write(folder: Path, bodies: list[bytes]) -> float:
    """Write each body to a file; returns seconds."""
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    for i, body in enumerate(bodies):
        with open(folder / f"{i}.bin", "wb") as file:
            file.write(body)
    return time.perf_counter() - begun


@contextlib.contextmanager
def daemon(root: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], ControlClient]]:
    """A running daemon and a client of it."""
    root.mkdir(parents=True)
    command = [*CACHESYNC, "run", "--root", str(root), "--log-level", "warning"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    client = ControlClient(root / ".cachesync" / "control.sock")
    try:
        while not client.is_serving():
            time.sleep(0.02)
        yield process, client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def _latencies(folder: Path, server: DevServer, signer: Signer, prefix: str, count: int) -> list[float]:
    where = urlsplit(server.endpoint)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    times = []
    for i in range(count):
        target = signer.sign("head_object", f"{prefix}/l{i}.txt")
        request = f"HEAD {target} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
        with open(folder / f"l{i}.txt", "wb") as file:
            file.write(b"x" * 1000)
        begun = time.perf_counter()
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if head[9:12] == b"200":
                break
            await asyncio.sleep(0.0003)
        times.append(time.perf_counter() - begun)
        await asyncio.sleep(0.02)
    writer.close()
    return times


def flush(root: Path, env: dict[str, str], session: str = "s") -> float:
    """``cachesync flush`` as a process of its own, without a daemon; returns seconds."""
    begun = time.perf_counter()
    subprocess.run([*CACHESYNC, "flush", session, "--root", str(root)], env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def one_run(files: int, size: int) -> dict[str, float]:
    """All figures of one run."""
    bodies = [os.urandom(size) for _ in range(files)]
    with tempfile.TemporaryDirectory(prefix="cachesync-bench-") as name:
        place = Path(name)
        server = DevServer(place / "s3")
        server.start()
        try:
            for bucket in ("raw", "watch", "flush"):
                server.make_bucket(bucket)
            env = os.environ | {
                "AWS_ACCESS_KEY_ID": server.key,
                "AWS_SECRET_ACCESS_KEY": server.secret,
                "S3_ENDPOINT": server.endpoint,
                "AWS_REGION": "us-east-1",
            }
            figures = {"ext4_s": write(place / "plain", bodies)}
            figures["raw_s"] = put_all(server, "raw", bodies)
            root = place / "watched"
            with daemon(root, env | {"CACHESYNC_STORE": "s3://watch"}) as (process, client):
                (root / "warm").mkdir()
                (root / "warm" / "up").write_text("x")
                client.flush("warm", timeout=60)
                before = cpu(process.pid)
                begun = time.perf_counter()
                figures["app_s"] = write(root / "s", bodies)
                report = client.flush("s", timeout=300)
                figures["stored_s"] = time.perf_counter() - begun
                assert report.stored and report.files == files, report.json()  # noqa: S101, PT018 -- else no figure counts
                figures["cpu_ms_per_file"] = (cpu(process.pid) - before) / files * 1000
                figures["peak_mib"] = peak(process.pid)
                signer = Signer(server, "watch")
                times = sorted(asyncio.run(_latencies(root / "s", server, signer, "sessions/s", 200)))
                figures["close_to_stored_p50_ms"] = times[len(times) // 2] * 1000
                figures["close_to_stored_p99_ms"] = times[int(len(times) * 0.99)] * 1000
            env["CACHESYNC_STORE"] = "s3://flush"
            root = place / "flushed"
            write(root / "s", bodies)
            figures["flush_s"] = flush(root, env)
            figures["unchanged_s"] = flush(root, env)
            figures["unchanged_settled_s"] = flush(root, env)
        finally:
            server.stop()
    return figures


def main() -> None:
    """Run, and print medians with their range, and what they are of the raw PUT loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=50 * 1024)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = [one_run(options.files, options.size) for _ in range(options.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    for name, median in medians.items():
        values = [run[name] for run in runs]
        print(f"{name:24} {median:9.3f}   ({min(values):.3f} .. {max(values):.3f})")
    raw = options.files / medians["raw_s"]
    print(f"raw PUT loop             {raw:9.0f} files/s")
    for name in ("stored_s", "flush_s"):
        print(f"{name.removesuffix('_s'):8} of raw           {medians['raw_s'] / medians[name]:9.2f}")
    print(f"app of plain writes      {medians['app_s'] / medians['ext4_s']:9.1f} x")
    print(json.dumps({"options": vars(options), "runs": runs}))


if __name__ == "__main__":
    main()
