"""What a mount in front of the root asks (verbs.OnDemand): entries are brought here one by one, as programs ask for
them, and renamed and removed without being brought."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from cachesync.model.keys import check_path, check_session, is_session_name
from cachesync.model.verbs import Noticed
from cachesync.root.staging import Staging
from cachesync.session.hydration import Bringer
from cachesync.session.renaming import Renamer
from cachesync.session.stored_sessions import StoredSessions
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Learner
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.uploader import Uploader
from cachesync.sync.wait_stored import Awaiter
from cachesync.watch.hints import Hint

__all__ = ["OnDemand"]


class OnDemand:
    """Implements verbs.OnDemand. ``staging`` gives the one staging folder of this process; ``unseen`` takes from hints
    those of which nobody else tells."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        learner: Learner,
        uploader: Uploader,
        staging: Callable[[], Staging],
    ) -> None:
        self._c = context
        self._scanner = scanner
        self._uploader = uploader
        self._awaiter = Awaiter(context, uploader)
        self._bringer = Bringer(context, scanner, learner, staging)
        self._stored = StoredSessions(self._list_stored)
        self._renamer = Renamer(context, scanner, learner, self._bringer, uploader)
        self.unseen: Callable[[Noticed], Noticed] = lambda hints: hints

    def bring(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        self._bringer.bring(check_session(session), _checked(path))

    def make_empty(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        self.foresee(session, path)
        self._bringer.make_empty(session, check_path(path))

    def foresee(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        self._c.journal.residence.foresee(check_session(session), check_path(path))

    def remove(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        self._renamer.remove(check_session(session), _checked(path))

    def move(self, session: str, path: str, to_session: str, to_path: str) -> None:
        """See verbs.OnDemand."""
        self._renamer.move(check_session(session), _checked(path), check_session(to_session), _checked(to_path))

    def store(self, session: str, path: str, *, timeout: float) -> None:
        """See verbs.OnDemand."""
        self._scanner.notice(check_session(session), {check_path(path): Hint.CHANGED})
        self._awaiter.stored(session, path, timeout)

    def notice(self, hints: Noticed) -> None:
        """See verbs.OnDemand."""
        for session, paths in self.unseen(hints).items():
            self._scanner.notice(session, {path: Hint(hint) for path, hint in paths.items()})

    def changes(self) -> Iterator[Mapping[str, Sequence[str]]]:
        """See verbs.OnDemand."""
        return self._c.tree.changes.listen()

    def sessions(self) -> list[str]:
        """See verbs.OnDemand."""
        known = {*self._c.tree.sessions()[0], *self._c.journal.sessions.names()}
        stored = self._stored.names(refresh=self._uploader.store_down_since is None)
        return sorted(known | stored)

    def _list_stored(self) -> Iterator[str]:
        start = f"{self._c.prefix}/sessions/" if self._c.prefix else "sessions/"
        for info in self._c.store.list(start, shallow=True):
            name = info.key.removeprefix(start)
            if name.endswith("/") and is_session_name(name[:-1]):
                yield name[:-1]


def _checked(path: str) -> str:
    if path:
        check_path(path.removesuffix("/"))
    return path
