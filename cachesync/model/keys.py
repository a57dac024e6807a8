"""Names: sessions, paths inside them, and the object keys they become. Pure.

A path goes to a key and back without change or not at all. What comes from outside (a command, a listing, a manifest)
passes ``check_path`` or ``from_key`` before anything is opened, so no ``..``, absolute path or odd separator gets by.
"""

from __future__ import annotations

import re
from collections.abc import Container

from cachesync.model.errors import Unstorable, UsageError

RESERVED = ".cachesync"
"""Our own folder in the root, and our own sub-prefix in each session."""

MAX_KEY_BYTES = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""

MAX_NAME_BYTES = 255
"""NAME_MAX of Linux's file systems."""

_NO_NAMES = frozenset({"", ".", ".."})
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_session_name(name: str) -> bool:
    """Whether a directory of this name in the root is a session (SPEC section 4)."""
    return _SESSION.fullmatch(name) is not None


def check_session(name: str) -> str:
    """Return ``name``, or raise UsageError if no session can be called that."""
    if not is_session_name(name):
        raise UsageError("session", name, "is not a session name", "allowed: [A-Za-z0-9][A-Za-z0-9._-]{0,127}")
    return name


def is_path(path: str) -> bool:
    """Whether ``path`` is in normal form, cannot leave its session, and is bytes that a disk could have."""
    if "\0" in path or not _NO_NAMES.isdisjoint(path.split("/")):
        return False
    try:
        return path.isascii() or bool(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False


def check_path(path: str) -> str:
    """Return ``path``, or raise UsageError if it could leave its session or is not in normal form."""
    if not is_path(path):
        raise UsageError("path", path, "does not name a file inside its session", "no '..', no leading '/', no '//'")
    return path


def session_prefix(prefix: str, session: str) -> str:
    """The start of every key of a session; ``prefix`` is the store's own, without slashes at its ends."""
    return f"{prefix}/sessions/{session}/" if prefix else f"sessions/{session}/"


def to_key(prefix: str, session: str, path: str) -> str:
    """The object key of ``path``.

    Raises Unstorable where it has none: not UTF-8, longer than a key may be, or in our own sub-prefix.
    """
    key = session_prefix(prefix, session) + path
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise Unstorable("store", path, "the name is not UTF-8") from None
    if length > MAX_KEY_BYTES:
        raise Unstorable("store", path, f"its key would be {length} bytes long; {MAX_KEY_BYTES} is the limit")
    if is_reserved(path):
        raise Unstorable("store", path, f"{RESERVED}/ is cachesync's own")
    return key


def from_key(prefix: str, session: str, key: str) -> str | None:
    """The path that a listed key stands for, or None if it is no path of this session (or is ours)."""
    start = session_prefix(prefix, session)
    path = key[len(start) :]
    if not key.startswith(start) or is_reserved(path):
        return None
    try:
        path.encode()
        return check_path(path)
    except (UsageError, UnicodeEncodeError):
        return None


def is_reserved(path: str) -> bool:
    """Whether a path lies in our own folder of its session."""
    return path.split("/", 1)[0] == RESERVED


def stays_inside(path: str, target: str) -> bool:
    """Whether a link at ``path`` that leads to ``target`` is sure to stay in its session.

    ".." counts at the beginning only, where it leaves directories that we made; after a name it might leave what
    another link leads to.
    """
    if target.startswith("/"):
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return ups <= path.count("/") and ".." not in parts[ups:]


def is_within(path: str, directories: Container[str]) -> bool:
    """Whether a path is one of ``directories``, or below one; "." stands for all. Pure."""
    while path not in directories:
        if not path:
            return "." in directories
        path = path.rpartition("/")[0]
    return True


def reserved_near(prefix: str, key: str) -> str:
    """Return the prefix of our own keys in the session of ``key``, which a policy for that session allows. If ``key``
    is in no session, return the prefix of our keys outside the sessions."""
    start = session_prefix(prefix, "")[:-1]
    session, slash, _ = key[len(start) :].partition("/")
    if not key.startswith(start) or not slash or not is_session_name(session):
        return session_prefix(prefix, RESERVED)
    return f"{session_prefix(prefix, session)}{RESERVED}/"


def manifest_key(prefix: str, session: str) -> str:
    """Where the session's manifest is."""
    return session_prefix(prefix, session) + f"{RESERVED}/manifest.json"


def identity_key(prefix: str) -> str:
    """Return the key of the store's identity."""
    return session_prefix(prefix, RESERVED) + "store.json"


def conflict_path(path: str, stamp: str, version: str) -> str:
    """Where the bytes of another writer are kept; ``stamp`` is UTC, as ``20261124T132416Z``, ``version`` an id.

    A name that would get too long for a disk is cut.
    """
    parent, slash, name = path.rpartition("/")
    tail = f".conflict-{stamp}-{re.sub(r'[^A-Za-z0-9]', '', version)[:12] or 'unknown'}"
    kept = name.encode()[: MAX_NAME_BYTES - len(tail)].decode(errors="ignore")
    return parent + slash + kept + tail


def printable(path: str) -> str:
    r"""``path`` fit for a log line or JSON: bytes that are not UTF-8 shown as ``\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
