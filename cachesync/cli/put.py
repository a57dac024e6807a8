"""``cachesync put``: stores a file, stdin or a directory of files under an address."""

from __future__ import annotations

import argparse
import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from cachesync.cli.bar import on_terminal
from cachesync.cli.connect import Connect
from cachesync.cli.flush import worst
from cachesync.cli.formatting import count, failures, one_line, size
from cachesync.model.address import Address, parse, parse_whole
from cachesync.model.errors import CacheSyncError, ExitCode, FileChanging, FileUnreadable, UsageError
from cachesync.model.keys import printable
from cachesync.model.outcomes import Artifact, Progress, no_progress
from cachesync.model.reports import Failure
from cachesync.model.verbs import Artifacts


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Store it. Raises what a single file raises; of a directory, what failed goes to stderr."""
    metadata = dict(options.meta)
    if options.type is not None:
        metadata["artifacttype"] = options.type
    labels: dict[str, Any] = {"content_type": options.content_type, "metadata": metadata}
    if options.no_overwrite:
        labels["overwrite"] = False
    if options.file != "-" and not os.path.exists(options.file):
        raise UsageError("put", options.file, "there is no such file", "give a file, a directory or - for stdin")
    with connect() as verbs:
        if options.file != "-" and os.path.isdir(options.file):
            return _put_tree(options, verbs.artifacts, labels)
        address = _target(options.file, options.address)
        with _opened(options.file) as source:
            stored = verbs.artifacts.put(address, source, **labels)
    _show([stored], [], as_json=options.json)
    return ExitCode.DONE


def _target(file: str, text: str) -> Address:
    if not text.endswith("/"):
        return parse(text)
    if file == "-":
        raise UsageError("put", text, "stdin has no name", "give the whole address")
    return parse_whole(text).child(os.path.basename(os.path.abspath(file)))


def _put_tree(options: argparse.Namespace, artifacts: Artifacts, labels: dict[str, Any]) -> int:
    top = options.file
    base = parse_whole(options.address)
    if options.address.endswith("/"):
        base = base.child(os.path.basename(os.path.abspath(top)) + "/")
    elif base.path:
        base = Address(base.space, base.name, f"{base.path}/")
    stored: list[Artifact] = []
    failed: list[tuple[str, CacheSyncError]] = []
    files: list[tuple[str, int]] = []
    with _held(top) as held, on_terminal(top) as bar:
        for path, size_or_why in _walk(held):
            if isinstance(size_or_why, int):
                files.append((path, size_or_why))
            else:
                failed.append((path, size_or_why))
        whole, done = sum(amount for _, amount in files), 0
        for number, (path, amount) in enumerate(files):
            (bar or no_progress)(Progress(number, len(files), done, whole))
            try:
                with _below(held, path) as source:
                    stored.append(artifacts.put(parse(f"{base}/{path}"), source, **labels))
            except CacheSyncError as error:
                failed.append((path, error))
            done += amount
    _show(stored, [Failure(path, error.advice) for path, error in failed], as_json=options.json)
    return worst(error.exit_code for _, error in failed)


@contextmanager
def _held(top: str) -> Iterator[int]:
    """The directory, open: what is put in its place, or in that of a folder in it, while it is read leads nowhere."""
    try:
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(top, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(top: int) -> Iterator[tuple[str, int | CacheSyncError]]:
    """Every file under an open directory with its size; what is neither a file nor a directory with why it cannot be
    stored, what cannot be read at the end."""
    waiting, errors = [""], []
    while waiting:
        folder = waiting.pop()
        folders = []
        for path, found in _look(top, folder):
            if isinstance(found, CacheSyncError):
                errors.append((path, found))
            elif stat.S_ISDIR(found.st_mode):
                folders.append(f"{path}/")
            elif stat.S_ISREG(found.st_mode):
                yield path, found.st_size
            else:
                what = "a link" if stat.S_ISLNK(found.st_mode) else "no file"
                yield path, FileUnreadable("put", path, f"it is {what}", "put stores files; a session stores links too")
        waiting += reversed(folders)
    yield from errors


def _look(top: int, folder: str) -> list[tuple[str, os.stat_result | CacheSyncError]]:
    """What is in a folder ("" or ending in "/"), by path; or why that cannot be told."""
    from cachesync.root.openat2 import open_beneath  # only now: one file needs none of it

    found: dict[str, os.stat_result | CacheSyncError] = {}
    try:
        descriptor = open_beneath(top, folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in os.listdir(descriptor):
                try:
                    found[folder + name] = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except OSError as error:
                    found[folder + name] = _unreadable(folder + name, error)
        finally:
            os.close(descriptor)
    except OSError as error:
        path = folder.rstrip("/") or "."
        found[path] = _unreadable(path, error)
    return sorted(found.items())


def _opened(file: str) -> BinaryIO:
    """The source; reading it raises FileChanging at its end if it changed meanwhile."""
    if file == "-":
        return sys.stdin.buffer
    try:
        return _steady(os.open(file, os.O_RDONLY | os.O_CLOEXEC), file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _below(top: int, path: str) -> BinaryIO:
    """The same for a regular file under an open directory, without following a link."""
    from cachesync.root.openat2 import open_regular

    try:
        descriptor = open_regular(top, path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if descriptor is None:
        raise FileUnreadable("put", path, "it is no file any more")
    return _steady(descriptor, path)


def _steady(descriptor: int, path: str) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Steady(descriptor, path), 1024 * 1024))


def _unreadable(path: str, error: OSError) -> FileUnreadable:
    return FileUnreadable("read", path, error.strerror or error, "is it there, and may you read it?")


class _Steady(io.RawIOBase):
    """A file that must not change while it is read: half of one state and half of another is no artifact."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._file = io.FileIO(descriptor)
        self._path = path
        self._before = os.fstat(descriptor)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill some of ``buffer``; 0 at the end. Raises FileChanging, FileUnreadable."""
        try:
            size = self._file.readinto(buffer) or 0
        except OSError as error:
            raise FileUnreadable("read", self._path, error.strerror or error) from error
        if not size and len(buffer):
            before, now = self._before, os.fstat(self._file.fileno())
            if stat.S_ISREG(now.st_mode) and (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
                raise FileChanging("read", self._path, "it changed while it was read", "put it again")
        return size

    def close(self) -> None:
        """Let it go."""
        self._file.close()
        super().close()


def _show(stored: list[Artifact], failed: list[Failure], *, as_json: bool) -> None:
    if as_json:
        told = [{"path": printable(row.path), "error": row.error} for row in failed]
        print(json.dumps({"stored": [artifact.json() for artifact in stored], "failed": told}))
        return
    if len(stored) == 1 and not failed:
        print(f"{one_line(stored[0].address)}: stored, {size(stored[0].size)}")
    else:
        total = f"{count(len(stored), 'file')}, {size(sum(artifact.size for artifact in stored))}"
        print(f"stored {total}" + (f"; {count(len(failed), 'failure')}" if failed else ""))
    for line in failures(failed):
        print(line, file=sys.stderr)
