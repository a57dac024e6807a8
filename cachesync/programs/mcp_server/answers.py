"""What the tools answer, as the client gets it; keys are spelled as in the design note. Pure."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

MOST_READ = 2**20
"""Bytes that one read_artifact answers at most."""

MOST_LISTED = 1000
MOST_PROBLEMS = 50


class Written(TypedDict):
    """write_artifact: returned once the store has it."""

    success: bool
    s3Uri: str


class Content(TypedDict):
    """read_artifact: ``content`` alone for a whole text; the rest where it applies."""

    content: str
    encoding: NotRequired[Literal["base64"]]
    offset: NotRequired[int]
    size: NotRequired[int]
    nextOffset: NotRequired[int]
    version: NotRequired[str]
    unverified: NotRequired[bool]


class Row(TypedDict):
    """One artifact. ``state`` is stored or clean, evicted (only in the store), dirty (not stored yet) or failed."""

    path: str
    kind: str
    state: str
    size: int
    modified: float | None


class Listed(TypedDict):
    """list_artifacts; ``next`` is what to pass as ``after`` for the rest."""

    artifacts: list[Row]
    next: NotRequired[str]


class Link(TypedDict):
    """artifact_url."""

    url: str
    expiresIn: float


class Flushed(TypedDict):
    """flush_session. ``stored`` is the one that counts; the lists name the first few."""

    session: str
    stored: bool
    summary: str
    files: int
    bytes: int
    failed: list[dict[str, str]]
    pending: list[dict[str, str]]
    conflicts: list[dict[str, str]]
    skipped: list[dict[str, str]]


class Status(TypedDict):
    """session_status. With ``safeToKill`` nothing would be lost if this machine went away now."""

    session: str
    safeToKill: bool
    files: int
    bytes: int
    dirty: int
    inFlight: int
    failed: int
    evicted: int
    failures: list[dict[str, str]]


class Past(TypedDict):
    """One version of an artifact; ``deleted`` is a deletion."""

    versionId: str | None
    size: int
    modified: float
    latest: bool
    deleted: bool


class History(TypedDict):
    """artifact_history, newest first."""

    path: str
    versions: list[Past]


class Restored(TypedDict):
    """restore_artifact: what is the newest version now."""

    success: bool
    s3Uri: str
    size: int


def content(data: bytes, offset: int, size: int) -> Content:
    """``data``, found at ``offset`` of ``size`` bytes: as text if it is UTF-8, else base64.

    A character that is cut off at the end of a piece is left for the next one.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    last = offset + len(data) >= size
    try:
        text = decoder.decode(data, final=last)
        used = len(data) - len(decoder.getstate()[0])
    except UnicodeDecodeError:
        used = 0
    if used or not data:
        answer = Content(content=text)
    else:
        used = len(data)
        answer = Content(content=base64.b64encode(data).decode(), encoding="base64")
    if offset or not last:
        answer["offset"], answer["size"] = offset, size
    if offset + used < size:
        answer["nextOffset"] = offset + used
    return answer


def fit(value: Any) -> Any:
    """``value`` with every text in it fit for JSON: what is no Unicode is shown as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {fit(key): fit(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [fit(each) for each in value]
    return value


def first_few(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """As many problems as an agent can do something about."""
    return list(rows[:MOST_PROBLEMS])
