"""Clients that are libraries, each in a process of its own: ``python -m bench.loops VERB BUCKET ARGUMENT...``.

Prints what the work alone took, as JSON: neither the interpreter's start nor the signing of raw requests counts.
``raw-put FOLDER PREFIX``, ``raw-get PREFIX KEYS-FILE``, ``raw-put-big FILE KEY``, ``raw-get-big KEY BYTES``,
``s3fs-put FOLDER PREFIX``, ``s3fs-get PREFIX FOLDER``, ``s3fs-put-big FILE KEY``, ``s3fs-get-big KEY FILE``.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from bench.machine import MIB, Cost, WentWrong, run_for_output
from bench.raw import get_all, put_all
from bench.target import Target

AT_ONCE = 32
_PIECE = 16 * MIB
_PIECES_AT_ONCE = 4


def loop(verb: str, target: Target, *arguments: str | Path) -> Cost:
    """Run a verb in a process of its own; what it says that it took, with that process's memory."""
    command = [sys.executable, "-m", "bench.loops", verb, target.bucket, *arguments]
    cost, output = run_for_output(command, target.env)
    try:
        told = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise WentWrong(f"{verb} said {output[-200:]!r}") from None
    return Cost(told["seconds"], told["cpu"], cost.rss)


def _files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def _raw_put(target: Target, folder: str, prefix: str) -> Callable[[], float]:
    paths = _files(folder)
    bodies = [Path(folder, path).read_bytes() for path in paths]
    return lambda: put_all(target, [prefix + path for path in paths], bodies, AT_ONCE)


def _raw_get(target: Target, prefix: str, keys: str) -> Callable[[], float]:
    wanted = [(prefix + path, None) for path in Path(keys).read_text().splitlines()]
    return lambda: get_all(target, wanted, AT_ONCE)


def _raw_put_big(target: Target, file: str, key: str) -> Callable[[], float]:
    data = memoryview(Path(file).read_bytes())
    bodies = [bytes(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)]
    return lambda: put_all(target, [f"{key}/{i}" for i in range(len(bodies))], bodies, _PIECES_AT_ONCE)


def _raw_get_big(target: Target, key: str, size: str) -> Callable[[], float]:
    spans = [(at, min(at + _PIECE, int(size)) - 1) for at in range(0, int(size), _PIECE)]
    return lambda: get_all(target, [(key, span) for span in spans], _PIECES_AT_ONCE)


def _s3fs_put(target: Target, folder: str, prefix: str) -> Callable[[], float]:
    paths = _files(folder)
    return _s3fs(
        target, len(paths), lambda fs, i: fs._put_file(f"{folder}/{paths[i]}", f"{target.bucket}/{prefix}{paths[i]}")
    )


def _s3fs_get(target: Target, prefix: str, keys: str, folder: str) -> Callable[[], float]:
    paths = Path(keys).read_text().splitlines()
    for path in paths:
        Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
    return _s3fs(
        target, len(paths), lambda fs, i: fs._get_file(f"{target.bucket}/{prefix}{paths[i]}", f"{folder}/{paths[i]}")
    )


def _s3fs_put_big(target: Target, file: str, key: str) -> Callable[[], float]:
    return _s3fs(
        target,
        1,
        lambda fs, _: fs._put_file(file, f"{target.bucket}/{key}", chunksize=_PIECE, max_concurrency=_PIECES_AT_ONCE),
    )


def _s3fs_get_big(target: Target, key: str, file: str) -> Callable[[], float]:
    return _s3fs(target, 1, lambda fs, _: fs._get_file(f"{target.bucket}/{key}", file))


def _s3fs(target: Target, count: int, each: Callable[[Any, int], Awaitable[object]]) -> Callable[[], float]:
    """Do so many things with s3fs as it comes, so many at once as everybody."""
    import s3fs

    async def work() -> float:
        fs = s3fs.S3FileSystem(
            asynchronous=True,
            key=target.key,
            secret=target.secret,
            endpoint_url=target.endpoint,
            config_kwargs={"max_pool_connections": AT_ONCE},
            skip_instance_cache=True,
        )
        session = await fs.set_session()
        todo = iter(range(count))

        async def crew() -> None:
            for i in todo:
                await each(fs, i)

        begun = time.perf_counter()
        await asyncio.gather(*(crew() for _ in range(AT_ONCE)))
        seconds = time.perf_counter() - begun
        await session.close()
        return seconds

    return lambda: asyncio.run(work())


_VERBS: Mapping[str, Callable[..., Callable[[], float]]] = {
    "raw-put": _raw_put,
    "raw-get": _raw_get,
    "raw-put-big": _raw_put_big,
    "raw-get-big": _raw_get_big,
    "s3fs-put": _s3fs_put,
    "s3fs-get": _s3fs_get,
    "s3fs-put-big": _s3fs_put_big,
    "s3fs-get-big": _s3fs_get_big,
}


def main() -> None:
    """Carry out a verb, and print what it took."""
    verb, bucket, *arguments = sys.argv[1:]
    env = os.environ
    target = Target(env["S3_ENDPOINT"], env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], bucket)
    work = _VERBS[verb](target, *arguments)
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}))


if __name__ == "__main__":
    main()
