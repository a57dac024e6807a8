"""Addresses: how a person names an artifact, wherever it is (SPEC section 4). Pure.

``SESSION/PATH`` is a file of a session, ``projects/P/PATH`` one of a project, ``templates/PATH`` a template. A session
that is called ``projects`` or ``templates`` has no address of its own; its files still are stored.
"""

from __future__ import annotations

from enum import StrEnum

from cachesync.model.errors import Unstorable, UsageError
from cachesync.model.keys import MAX_KEY_BYTES, check_path, check_session, is_session_name, to_key
from cachesync.model.keys import from_key as path_from_key
from cachesync.model.record import record


class Space(StrEnum):
    """The three places in the store, as their keys begin."""

    SESSIONS = "sessions"
    PROJECTS = "projects"
    TEMPLATES = "templates"


@record(frozen=True, slots=True)
class Address:
    """One artifact, or all of a space, a session or a folder: then ``path`` is "" or ends in "/".

    ``name`` is the session or the project, "" for templates and for all of a space.
    """

    space: Space
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        """As ``parse`` takes it."""
        if self.space is Space.SESSIONS:
            return f"{self.name}/{self.path}".rstrip("/") if self.name else ""
        return "/".join(part for part in (self.space, self.name, self.path.rstrip("/")) if part)

    @property
    def session(self) -> str | None:
        """The session it lies in, or None."""
        return self.name if self.space is Space.SESSIONS and self.name else None

    @property
    def whole(self) -> bool:
        """Whether it names more than one artifact."""
        return not self.path or self.path.endswith("/")

    def key(self, prefix: str) -> str:
        """Its object key, or the start of all keys in it. Raises Unstorable where the key would be none."""
        if self.space is Space.SESSIONS and self.name and not self.whole:
            return to_key(prefix, self.name, self.path)
        parts = [prefix, self.space, self.name] if self.name else [prefix, self.space]
        key = "".join(f"{part}/" for part in parts if part) + self.path
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            raise Unstorable("store", self.path, "the name is not UTF-8") from None
        if length > MAX_KEY_BYTES:
            cause = f"its key would be {length} bytes long; {MAX_KEY_BYTES} is the limit"
            raise Unstorable("store", self.path, cause)
        return key

    def child(self, path: str) -> Address:
        """An artifact in this folder."""
        return Address(self.space, self.name, self.path + path)


def parse(text: str) -> Address:
    """Read an address of one artifact. Raises UsageError for anything else."""
    address = parse_whole(text)
    if address.whole:
        raise UsageError("find", text, "names no file", "give SESSION/PATH, projects/P/PATH or templates/PATH")
    return address


def parse_whole(text: str) -> Address:
    """Read the address of an artifact or of many: "" is all sessions, ``SESSION``, ``SESSION/DIR/``, ``projects``...

    Without a "/" at its end a path is taken as written: whether it is a folder, the store knows. Raises UsageError.
    """
    head, _, rest = text.partition("/")
    if not text:
        return Address(Space.SESSIONS)
    if head == Space.TEMPLATES:
        return Address(Space.TEMPLATES, "", _path(rest))
    if head == Space.PROJECTS:
        project, slash, rest = rest.partition("/")
        if not project and not slash:
            return Address(Space.PROJECTS)
        return Address(Space.PROJECTS, _project(project), _path(rest))
    return Address(Space.SESSIONS, check_session(head), _path(rest))


def from_key(prefix: str, key: str) -> Address | None:
    """The artifact that a listed key stands for, or None if it has no address (or is ours)."""
    start = f"{prefix}/" if prefix else ""
    space, _, rest = key[len(start) :].partition("/")
    if not key.startswith(start) or space not in list(Space):
        return None
    if space == Space.TEMPLATES:
        name, path = "", rest
    else:
        name, _, path = rest.partition("/")
        if not is_session_name(name):
            return None
    if space == Space.SESSIONS:
        found = None if name in list(Space) else path_from_key(prefix, name, key)
        return None if found is None else Address(Space.SESSIONS, name, found)
    try:
        path.encode()
        return Address(Space(space), name, check_path(path))
    except (UsageError, UnicodeEncodeError):
        return None


def _path(path: str) -> str:
    if path:
        check_path(path.removesuffix("/"))
    return path


def _project(name: str) -> str:
    try:
        return check_session(name)
    except UsageError as error:
        raise UsageError("project", name, "is not a project name", error.hint) from None
