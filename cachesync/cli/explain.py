"""``cachesync explain``: the story of one file."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, moment, one_line, size
from cachesync.model.errors import ExitCode, UsageError
from cachesync.model.keys import check_path, check_session
from cachesync.model.reports import Story


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Print the story. Raises UsageError for what is not SESSION/PATH."""
    session, _, path = options.artifact.partition("/")
    if not path:
        raise UsageError("explain", options.artifact, "names no file", "give SESSION/PATH")
    check_session(session)
    check_path(path.removesuffix("/"))
    with connect() as verbs:
        story = verbs.explain(session, path)
    if options.json:
        print(json.dumps(story.json()))
    else:
        for sentence in sentences(story, time.time()):
            print(sentence)
    return ExitCode.DONE


def sentences(story: Story, now: float) -> Iterator[str]:
    """The story in sentences, one a line; ``now`` in seconds since the epoch."""
    if story.state == "left out":
        yield one_line(f"{story.session}/{story.path} is left out, on purpose: {story.error}")
        return
    yield one_line(f"{story.session}/{story.path}") + f" is {story.state}."
    if story.size is not None:
        yield f"It holds {size(story.size)}."
    if story.synced < story.generation:
        since = "" if story.dirty_since is None else f" since {moment(story.dirty_since, now)}"
        seen = f"change {story.generation} was seen, {story.synced or 'none'} is the latest that is stored"
        yield f"It is dirty{since}: {seen}."
    if story.attempts:
        last = "" if story.tried_at is None else f", last at {moment(story.tried_at, now)}"
        yield f"It was tried {count(story.attempts, 'time')} without success{last}."
    if story.error is not None:
        yield f"The last error: {one_line(story.error)}."
    if story.due_at is not None:
        tried = "It is due now" if story.due_at <= now else f"The next try is due at {moment(story.due_at, now)}"
        yield f"{tried}."
    yield from _whereabouts(story, now)


def _whereabouts(story: Story, now: float) -> Iterator[str]:
    """What the store has of it."""
    if story.stored_at is None:
        if story.kind == "file":
            yield "Nothing of it is stored yet."
        else:
            listed = "lists it" if story.synced == story.generation else "will list it"
            yield f"It is no object of its own: the session's manifest {listed}."
        return
    yield f"The store has it since {moment(story.stored_at, now)}" + (
        "." if story.key is None else f" as {one_line(story.key)}."
    )
    version = "" if story.version is None else f"Its version is {one_line(story.version)}"
    if story.version_id is not None:
        version += f", version id {one_line(story.version_id)}"
    if version:
        yield version + "."
    if story.sha256 is not None:
        yield f"Its SHA-256 is {story.sha256}."
