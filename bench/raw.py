"""The ceiling: PUTs and GETs over bare sockets with presigned URLs, as little client as there can be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config

from cachesync.devserver import DevServer


class Signer:
    """Presigns requests for one bucket of a DevServer."""

    def __init__(self, server: DevServer, bucket: str) -> None:
        self._client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.key,
            aws_secret_access_key=server.secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._bucket = bucket

    def sign(self, verb: str, key: str) -> str:
        """Path and query of a presigned request; ``verb`` is ``put_object``, ``get_object`` or ``head_object``."""
        url = self._client.generate_presigned_url(verb, Params={"Bucket": self._bucket, "Key": key})
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


async def answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            await reader.readexactly(int(line[15:]))
    return status


async def _put_all(host: str, port: int, targets: Sequence[str], body: Sequence[bytes], connections: int) -> float:
    todo = iter(range(len(targets)))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for i in todo:
            head = f"PUT {targets[i]} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body[i])}\r\n\r\n"
            writer.write(head.encode() + body[i])
            status = await answer(reader)
            if status != 200:  # noqa: PLR2004 -- what a PUT that worked says
                raise RuntimeError(f"PUT answered {status}")
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return time.perf_counter() - begun


def put_all(server: DevServer, bucket: str, bodies: Sequence[bytes], connections: int = 32) -> float:
    """Store each body under a key of its own; returns seconds, signing not counted."""
    signer = Signer(server, bucket)
    targets = [signer.sign("put_object", f"raw/{i}") for i in range(len(bodies))]
    return asyncio.run(_put_all(*place(server), targets, bodies, connections))


def place(server: DevServer) -> tuple[str, int]:
    """Host and port of a server."""
    where = urlsplit(server.endpoint)
    assert where.hostname is not None and where.port is not None  # noqa: S101, PT018 -- the server made it
    return where.hostname, where.port


class Getter:
    """One connection that gets one object after the other and keeps none of their bytes."""

    def __init__(self, server: DevServer) -> None:
        self._host = ":".join(map(str, place(server)))
        self._socket = socket.create_connection(place(server))
        self._buffer = memoryview(bytearray(1024 * 1024))

    def get(self, target: str) -> int:
        """Get what a presigned request asks for; returns how many bytes it has."""
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        came = 0
        while (end := bytes(self._buffer[:came]).find(b"\r\n\r\n")) < 0:
            came += self._receive(came)
        head = bytes(self._buffer[:end]).lower()
        if head[9:12] != b"200":
            raise RuntimeError(f"GET answered {head[9:12]!r}")
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        came -= end + 4
        while came < length:
            came += self._receive(0)
        return length

    def _receive(self, start: int) -> int:
        count = self._socket.recv_into(self._buffer[start:])
        if not count:
            raise ConnectionError
        return count

    def close(self) -> None:
        """Let the connection go."""
        self._socket.close()


def get_all(server: DevServer, bucket: str, keys: Sequence[str], connections: int = 32) -> float:
    """Get each object and drop its bytes; returns seconds, signing not counted."""
    signer = Signer(server, bucket)
    todo = iter([signer.sign("get_object", key) for key in keys])  # taking from a list's iterator is atomic
    begun = time.perf_counter()

    def work() -> None:
        with contextlib.closing(Getter(server)) as getter:
            for target in todo:
                getter.get(target)

    with ThreadPoolExecutor(connections) as crew:
        for done in [crew.submit(work) for _ in range(connections)]:
            done.result()
    return time.perf_counter() - begun
