"""A slow line to a server, in a process of its own: ``Link.to(endpoint, delay=0.02, mbit=200)``.

What one side sends arrives half the delay later, and no faster than so many bits a second in each direction, all
connections together. A new connection first costs one way there and back, as a handshake does. Bytes are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

_PIECE = 64 * 1024
_ON_THE_WAY = 4 * 1024 * 1024
"""Bytes of one connection and direction that are under way at once; at 200 Mbit/s and 80 ms there are 2 MB."""


class Link:
    """The near end, at ``endpoint``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self._ask()['port']}"

    @classmethod
    @contextlib.contextmanager
    def to(cls, endpoint: str, *, delay: float = 0.0, mbit: float = math.inf) -> Iterator[Self]:
        """A link while it is needed; its process ends with it, and with us."""
        place = urlsplit(endpoint)
        command = [sys.executable, "-m", "bench.link", str(place.hostname), str(place.port), str(delay), str(mbit)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield cls(process)
        finally:
            process.communicate()  # closes its input, which ends it

    def sent(self) -> int:
        """Bytes that clients have sent so far."""
        return self._ask()["sent"]

    def _ask(self) -> dict[str, int]:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 -- made so
        with self._lock:
            self._process.stdin.write("?\n")
            self._process.stdin.flush()
            told: dict[str, int] = json.loads(self._process.stdout.readline())
            return told


class _Lane:
    """One direction of the line: whose turn it is, and how much went along."""

    def __init__(self, delay: float, rate: float) -> None:
        self._delay = delay
        self._rate = rate
        self._free = 0.0
        self.passed = 0

    def due(self, now: float, size: int) -> float:
        """When bytes that are sent now have arrived."""
        self.passed += size
        self._free = max(now, self._free) + size / self._rate
        return self._free + self._delay

    async def carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Bring what one side sends to the other, until it says no more."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_ON_THE_WAY // _PIECE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(under_way, sink))
            loop = asyncio.get_running_loop()
            while True:
                piece = await source.read(_PIECE)
                await under_way.put((self.due(loop.time(), len(piece)), piece))
                if not piece:
                    return

    @staticmethod
    async def _deliver(under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await under_way.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not piece:
                sink.write_eof()
                return
            sink.write(piece)
            await sink.drain()


async def serve(host: str, port: int, delay: float, mbit: float) -> None:
    """Be the line, and tell port and counts for each line of input, until it ends."""
    rate = mbit * 1e6 / 8
    there, back = _Lane(delay / 2, rate), _Lane(delay / 2, rate)

    async def take(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_out = None
        try:
            await asyncio.sleep(delay)
            far_in, far_out = await asyncio.open_connection(host, port)
            async with asyncio.TaskGroup() as group:
                group.create_task(there.carry(near_in, far_out))
                group.create_task(back.carry(far_in, near_out))
        except (OSError, ExceptionGroup):
            pass  # one side let go: so does the other, below
        finally:
            for side in (near_out, far_out):
                if side is not None:
                    side.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, backlog=512)
    here = server.sockets[0].getsockname()[1]
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"port": here, "sent": there.passed, "received": back.passed}), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
