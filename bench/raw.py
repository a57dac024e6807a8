"""The ceiling: PUTs and GETs over bare sockets with presigned URLs, as little client as there can be."""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config

from bench.target import REGION, Target

Span = tuple[int, int]
"""First and last byte of what is asked for."""


class Signer:
    """Presigns requests for one bucket."""

    def __init__(self, target: Target) -> None:
        self._client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=target.endpoint,
            region_name=REGION,
            aws_access_key_id=target.key,
            aws_secret_access_key=target.secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._bucket = target.bucket

    def sign(self, verb: str, key: str) -> str:
        """Path and query of a presigned request; ``verb`` is ``put_object``, ``get_object`` or ``head_object``."""
        url = self._client.generate_presigned_url(verb, Params={"Bucket": self._bucket, "Key": key})
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


def place(target: Target) -> tuple[str, int]:
    """Host and port of a server."""
    where = urlsplit(target.endpoint)
    assert where.hostname is not None and where.port is not None  # noqa: S101, PT018 -- the server made it
    return where.hostname, where.port


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            await reader.readexactly(int(line[15:]))
    return int(head[9:12])


async def _put_all(host: str, port: int, targets: Sequence[str], bodies: Sequence[bytes], connections: int) -> float:
    todo = iter(range(len(targets)))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for i in todo:
            head = f"PUT {targets[i]} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(bodies[i])}\r\n\r\n"
            writer.write(head.encode() + bodies[i])
            if (status := await _answer(reader)) != http.HTTPStatus.OK:
                raise RuntimeError(f"PUT answered {status}")
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return time.perf_counter() - begun


def put_all(target: Target, keys: Sequence[str], bodies: Sequence[bytes], connections: int = 32) -> float:
    """Store each body under its key; returns seconds, signing not counted."""
    signer = Signer(target)
    targets = [signer.sign("put_object", key) for key in keys]
    return asyncio.run(_put_all(*place(target), targets, bodies, connections))


class Asker:
    """One connection that asks for one thing after the other and keeps none of the bytes."""

    def __init__(self, target: Target) -> None:
        self._host = ":".join(map(str, place(target)))
        self._socket = socket.create_connection(place(target))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(1024 * 1024))

    def get(self, signed: str, span: Span | None = None) -> int:
        """Get what a presigned request asks for, or a span of it; returns how many bytes that are."""
        wanted = "" if span is None else f"Range: bytes={span[0]}-{span[1]}\r\n"
        status, head, came = self._ask("GET", signed, wanted)
        if status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
            raise RuntimeError(f"GET answered {status}")
        length = _length(head)
        while came < length:
            came += self._receive(0)
        return length

    def holds(self, signed: str, size: int) -> bool:
        """Whether a presigned HEAD finds an object of that size."""
        status, head, _ = self._ask("HEAD", signed)
        return status == http.HTTPStatus.OK and _length(head) == size

    def _ask(self, method: str, signed: str, headers: str = "") -> tuple[int, bytes, int]:
        """Ask; returns status, head, and how much of the body came with it."""
        self._socket.sendall(f"{method} {signed} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode())
        came = 0
        while (end := bytes(self._buffer[:came]).find(b"\r\n\r\n")) < 0:
            came += self._receive(came)
        head = bytes(self._buffer[:end]).lower()
        return int(head[9:12]), head, came - end - 4

    def _receive(self, start: int) -> int:
        count = self._socket.recv_into(self._buffer[start:])
        if not count:
            raise ConnectionError("the server let go")
        return count

    def close(self) -> None:
        """Let the connection go."""
        self._socket.close()


def _length(head: bytes) -> int:
    """How many bytes an answer has, by its head in small letters."""
    return int(head.split(b"content-length:")[1].split(b"\r\n")[0])


def get_all(target: Target, wanted: Sequence[tuple[str, Span | None]], connections: int = 32) -> float:
    """Get objects, or spans of them, and drop their bytes; returns seconds, signing not counted."""
    signer = Signer(target)
    todo = iter([(signer.sign("get_object", key), span) for key, span in wanted])  # taking from it is atomic
    begun = time.perf_counter()

    def work() -> None:
        with contextlib.closing(Asker(target)) as asker:
            for signed, span in todo:
                asker.get(signed, span)

    with ThreadPoolExecutor(connections) as crew:
        for done in [crew.submit(work) for _ in range(connections)]:
            done.result()
    return time.perf_counter() - begun
