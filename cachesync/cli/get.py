"""``cachesync get``: a copy of an artifact, or of all under an address, in a file or directory of the caller.

Each file is written whole beside its place and renamed. Nothing is overwritten without ``--force``, no link that stands
there is followed, and no name leads out of the target directory.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cachesync.cli.bar import on_terminal
from cachesync.cli.cat import warn
from cachesync.cli.connect import Connect
from cachesync.cli.flush import worst
from cachesync.cli.formatting import count, failures, one_line, size
from cachesync.cli.ls import inside, relative, told_of
from cachesync.model.address import Address, parse, parse_whole
from cachesync.model.errors import (
    CacheSyncError,
    FileUnwritable,
    NoSuchSession,
    ObjectNotFound,
    StoreSilent,
    UsageError,
)
from cachesync.model.keys import check_path, printable, stays_inside
from cachesync.model.outcomes import Artifact, OnProgress, Progress, no_progress
from cachesync.model.reports import Failure
from cachesync.model.values import Kind
from cachesync.model.verbs import Artifacts, Reading
from cachesync.root.openat2 import HOLD, open_beneath
from cachesync.root.rename import move
from cachesync.root.staging import make_directories, translated

_ELSEWHERE = frozenset({"evicted", "stored"})
"""States of what is not here."""


class _Got(NamedTuple):
    """What was written where, and what could not be."""

    target: str
    files: int
    bytes: int
    failed: list[tuple[str, CacheSyncError]]


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Get it. Raises what a single file raises; of a folder, what failed goes to stderr."""
    address = parse_whole(options.address)
    with connect() as verbs, on_terminal(options.address) as bar:
        progress = bar or no_progress
        got = None
        if not address.whole:
            got = _one(verbs.artifacts, address, options, progress)
        if got is None:
            if options.version_id is not None:
                raise UsageError("get", options.address, "names many artifacts, which have no version id together")
            got = _tree(verbs.artifacts, address, options, progress)
    failed = [Failure(path, error.advice) for path, error in got.failed]
    if options.json:
        told = [{"path": printable(row.path), "error": row.error} for row in failed]
        print(json.dumps({"target": printable(got.target), "files": got.files, "bytes": got.bytes, "failed": told}))
    else:
        bad = f"; {count(len(failed), 'failure')}" if failed else ""
        print(f"{one_line(got.target)}: {count(got.files, 'file')}, {size(got.bytes)}{bad}")
        for line in failures(failed):
            print(line, file=sys.stderr)
    return worst(error.exit_code for _, error in got.failed)


def _one(artifacts: Artifacts, address: Address, options: argparse.Namespace, progress: OnProgress) -> _Got | None:
    """Get a single artifact; None if there is none of that name, and it may be a folder."""
    name = address.path.rpartition("/")[2]
    target = options.target or name
    if target.endswith("/") or os.path.isdir(target):
        target = os.path.join(target, name)
    try:
        reading = artifacts.read(address, version_id=options.version_id)
    except ObjectNotFound:
        if options.version_id is not None:
            raise
        return None
    with reading, _directory(os.path.dirname(target) or ".") as folder:
        warn(reading)
        whole = reading.artifact.size

        def step(done: int) -> None:
            progress(Progress(0, 1, done, whole))

        written = _write(folder, os.path.basename(target), reading, step, force=options.force)
    return _Got(target, 1, written, [])


def _tree(artifacts: Artifacts, address: Address, options: argparse.Namespace, progress: OnProgress) -> _Got:
    if not str(address):
        raise UsageError("get", cause="all sessions at once are too much", hint="name one")
    try:
        found = list(told_of(inside(address, artifacts.list(address))))
    except (ObjectNotFound, NoSuchSession) as error:
        raise error.named("get", str(address)) from None
    target = options.target or str(address).rpartition("/")[2]
    with translated("make the directory", target):
        os.makedirs(target, exist_ok=True)
    # Links last: nothing is written through one that came with the tree.
    found.sort(key=lambda artifact: artifact.kind == Kind.LINK)
    files = sum(artifact.kind == Kind.FILE for artifact in found)
    whole = sum(artifact.size for artifact in found)
    number = amount = 0
    failed: list[tuple[str, CacheSyncError]] = []
    silence: StoreSilent | None = None
    with _directory(target) as top:
        for artifact in found:
            path = relative(address, artifact.address).rstrip("/")
            if silence is not None and artifact.state in _ELSEWHERE:  # each would wait as long again
                failed.append((path, silence))
                continue
            done, before = number, amount

            def step(part: int, done: int = done, before: int = before) -> None:
                progress(Progress(done, files, before + part, whole))

            try:
                check_path(path)
                written = _place(artifacts, top, path, artifact, step, force=options.force)
            except CacheSyncError as error:
                failed.append((path, error))
                silence = error if isinstance(error, StoreSilent) else silence
                continue
            number += artifact.kind == Kind.FILE
            amount += written
    return _Got(target, number, amount, failed)


def _place(
    artifacts: Artifacts, top: int, path: str, artifact: Artifact, step: Callable[[int], None], *, force: bool
) -> int:
    """Put one artifact at ``path`` below an open directory; how many bytes it has."""
    if artifact.kind == Kind.DIRECTORY:
        with translated("make the directory", path):
            make_directories(top, path)
        return 0
    parent, _, name = path.rpartition("/")
    with translated("write", path):
        make_directories(top, parent)
        folder = open_beneath(top, parent, HOLD | os.O_DIRECTORY)
    try:
        if artifact.kind == Kind.LINK:
            if not stays_inside(path, artifact.target or ""):
                raise FileUnwritable(
                    "make the link", path, f"it leads to {artifact.target!r}, which may be outside", "not made"
                )
            with _temporary(folder, name, force=force) as temporary:
                os.symlink(artifact.target or "", temporary, dir_fd=folder)
            return 0
        with artifacts.read(parse(artifact.address)) as reading:
            warn(reading)
            return _write(folder, name, reading, step, force=force)
    finally:
        os.close(folder)


def _write(folder: int, name: str, reading: Reading, step: Callable[[int], None], *, force: bool) -> int:
    """Write a reading to a file in an open directory; how many bytes it has."""
    done = 0
    with _temporary(folder, name, force=force) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        with open(descriptor, "wb", buffering=0) as out:
            for piece in reading.chunks():
                done += len(piece)
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) :]
                step(done)
    return done


@contextmanager
def _temporary(folder: int, name: str, *, force: bool) -> Iterator[str]:
    """A name beside ``name``, for the block to make; it gets the name ``name`` at the end, or goes again."""
    temporary = f".{secrets.token_hex(8)}.cachesync"
    with translated("write", name):
        try:
            if not force:
                _check_free(folder, name)
            yield temporary
            if force:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                move(folder, temporary, folder, name)
        except FileExistsError:
            raise UsageError("write", name, "it is there already", "--force overwrites it") from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)


def _check_free(folder: int, name: str) -> None:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return
    raise FileExistsError


@contextmanager
def _directory(path: str) -> Iterator[int]:
    """A directory of the caller's, open. Raises FileUnwritable."""
    with translated("open", path):
        descriptor = os.open(path, HOLD | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
