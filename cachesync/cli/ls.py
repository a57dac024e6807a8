"""``cachesync ls``: the artifacts under an address."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, one_line, size, stamp
from cachesync.model.address import Address, parse_whole
from cachesync.model.errors import ExitCode
from cachesync.model.outcomes import Artifact
from cachesync.model.values import Kind


def run(options: argparse.Namespace, connect: Connect) -> int:
    """List them, as they come; JSON and the tree once all are there."""
    address = parse_whole(options.address)
    with connect() as verbs:
        shallow = not (options.recursive or options.tree)
        found = told_of(inside(address, verbs.artifacts.list(address, shallow=shallow)))
        if options.json:
            print(f"[{', '.join([json.dumps(artifact.json()) for artifact in found])}]")
        elif options.tree:
            for line in tree(address, found):
                print(line)
        else:
            for artifact in found:
                name = one_line(shown(address, artifact))
                print(long(artifact, name) if options.long else name)
    return ExitCode.DONE


def inside(address: Address, found: Iterable[Artifact]) -> Iterator[Artifact]:
    """What was found, without the directory that was asked for."""
    base = str(address)
    return (artifact for artifact in found if artifact.kind != Kind.DIRECTORY or artifact.address.rstrip("/") != base)


def told_of(found: Iterable[Artifact]) -> Iterator[Artifact]:
    """What was found; stderr says so, once, if that is only what was known before."""
    told = False
    for artifact in found:
        if artifact.unverified and not told:
            told = True
            print("cachesync: the store cannot be asked; this is what was known before", file=sys.stderr)
        yield artifact


def relative(address: Address, found: str) -> str:
    """The address of something found, without what was asked for; the name alone if it is just that."""
    base = str(address)
    if base and found.startswith(f"{base}/"):
        return found[len(base) + 1 :]
    return found.rpartition("/")[2] if found == base else found


def shown(address: Address, artifact: Artifact) -> str:
    """The relative path; a directory's ends in "/"."""
    path = relative(address, artifact.address).rstrip("/")
    return f"{path}/" if artifact.kind == Kind.DIRECTORY else path


def long(artifact: Artifact, name: str) -> str:
    """Size, time, state and name; of a session also how many files, where that is known."""
    known = artifact.kind != Kind.DIRECTORY or artifact.files is not None
    amount = size(artifact.size) if known else "-"
    target = "" if artifact.target is None else f" -> {one_line(artifact.target)}"
    files = "" if artifact.files is None else f"  {count(artifact.files, 'file')}"
    return f"{amount:>9}  {stamp(artifact.modified):20}  {artifact.state:7}  {name}{target}{files}"


def tree(address: Address, found: Iterable[Artifact]) -> Iterator[str]:
    """Each name once, below its directory and indented."""
    rows = {tuple(path.rstrip("/").split("/")): path.endswith("/") for path in (shown(address, a) for a in found)}
    for parts in list(rows):
        for depth in range(1, len(parts)):
            rows[parts[:depth]] = True
    for parts in sorted(rows):
        yield "  " * (len(parts) - 1) + one_line(parts[-1]) + ("/" if rows[parts] else "")
