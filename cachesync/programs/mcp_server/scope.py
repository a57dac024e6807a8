"""What an agent may name: the artifacts of one session, and no other's. Pure."""

from __future__ import annotations

from cachesync.model.address import Address, Space, parse, parse_whole
from cachesync.model.errors import UsageError
from cachesync.model.keys import check_path, check_session
from cachesync.model.record import record

URL = "cachesync://"


@record(frozen=True, slots=True)
class Scope:
    """``bound`` is the one session that is served, None for any that is named; ``projects`` lets the tools at projects
    and templates too, by ``cachesync://projects/P/PATH`` and ``cachesync://templates/PATH``."""

    bound: str | None = None
    projects: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a session that cannot be served."""
        if self.bound is not None:
            _check(self.bound)

    def session(self, given: str | None) -> str:
        """The session to work on. Raises UsageError if it is not named, or is another than the bound one."""
        if self.bound is not None and given not in (None, "", self.bound):
            cause = f"this server is bound to the session {self.bound!r}"
            raise UsageError("use the session", given or "", cause, "leave 'session' out")
        if found := self.bound or given:
            return _check(found)
        hint = (
            "call the tool again with 'session' set to the name of your session; if you do not know it, ask the user."
            " Whoever runs this server can bind it with --session or CACHESYNC_SESSION"
        )
        raise UsageError("find the session", cause="no session was named", hint=hint)

    def address(self, path: str, session: str | None) -> Address:
        """The artifact that a path names. Raises UsageError for what lies outside."""
        _check_unicode(path)
        if not path.startswith(URL):
            return Address(Space.SESSIONS, self.session(session), _inside(path))
        address = parse(path.removeprefix(URL))
        if address.space is Space.SESSIONS:
            return Address(Space.SESSIONS, self.session(address.name), _inside(address.path))
        self._check_projects(path)
        return address

    def folder(self, prefix: str, session: str | None) -> Address:
        """The folder whose listing holds every path that begins with ``prefix``. Raises UsageError."""
        _check_unicode(prefix)
        folder, slash, _ = prefix.removeprefix(URL).rpartition("/")
        if prefix.startswith(URL):
            self._check_projects(prefix)
            address = parse_whole(folder + slash)
            if address.space is not Space.SESSIONS:
                return address
            raise UsageError("list", prefix, "names no project", f"begin with {URL}projects/ or {URL}templates/")
        return Address(Space.SESSIONS, self.session(session), _inside(folder) + slash if slash else "")

    def _check_projects(self, path: str) -> None:
        if not self.projects:
            cause = "only the artifacts of the session are served"
            hint = (
                "use a path inside the session, such as artifacts/main.tf; --allow-projects lets an agent at projects"
            )
            raise UsageError("use", path, cause, hint)


def _inside(path: str) -> str:
    try:
        return check_path(path)
    except UsageError as error:
        hint = "give a path relative to the session, such as artifacts/terraform/main.tf, without '..' and leading '/'"
        raise UsageError("use the path", path, error.cause, hint) from None


def _check(session: str) -> str:
    # Such a session has no address of its own: its files would be taken for a project's.
    if session in list(Space):
        raise UsageError("use the session", session, "that is the name of another space", "name a session")
    return check_session(session)


def _check_unicode(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError("use the path", repr(path), "it is no valid Unicode", "give another one") from None
