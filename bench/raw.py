"""The ceiling: PUTs over bare sockets with presigned URLs, as little client as there can be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
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
        """Path and query of a presigned request; ``verb`` is ``put_object`` or ``head_object``."""
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
    where = urlsplit(server.endpoint)
    assert where.hostname is not None and where.port is not None  # noqa: S101, PT018 -- the server made it
    return asyncio.run(_put_all(where.hostname, where.port, targets, bodies, connections))
