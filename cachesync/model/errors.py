"""Every error of cachesync, and what it means for the exit code.

    CacheSyncError
    ├── UsageError                2   a word, name or setting that is not allowed
    │   ├── ConfigError               a setting: names it, its source, what is allowed
    │   └── RootLocked                another process holds the lock on this root
    ├── Unstorable                1   a name or file that no store can take as it is
    ├── FileChanging              4   the file would not hold still while it was read
    ├── DeleteHeld                1   more deletions at once than are believed
    ├── RootHalted                4   the root is missing or is not the one we opened
    ├── FileUnreadable            1   the file is there and cannot be read
    │   └── SessionTaken              ... since another user made the session's directory
    ├── FileUnwritable            1   a file or directory that cannot be made or taken away here
    │   ├── DiskFull              4   ... since the local disk has no room
    │   └── PathTaken                 ... since something else stands there
    ├── JournalDamaged            1   the journal cannot be trusted
    ├── JournalUnavailable        4   the journal cannot be opened or written now
    ├── IntegrityError            1   bytes that are not the bytes that were stored
    ├── NoSuchSession             3
    ├── DaemonUnavailable         4   the control socket gives no answer
    └── StoreError                    what the store said
        ├── StoreTransient        4   may work when tried again
        │   ├── StoreSlowDown         ... with fewer transfers at once
        │   └── StoreUnreachable      ... nobody answers there at all
        │       └── StoreSilent           ... somebody takes the question, and says nothing
        ├── StoreCredentials      1   expired or unusable credentials: ask the chain again
        ├── StorePermanent        1   will not work until somebody changes something
        │   ├── StoreDenied
        │   │   └── StoreArchived     ... the object is archived and cannot be read
        │   └── StoreNameTaken        ... most likely when a deletion under way is done
        ├── NoSuchBucket          3
        ├── ObjectNotFound        3
        ├── ArtifactExists        1   it was to be made, and is there
        └── PreconditionFailed    1   another writer was there first

Each message says operation, path, cause and, where one is known, the mend.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Self

_PASSING = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.ENETDOWN, errno.ENODEV, errno.ENOMEM, errno.ENOSPC, errno.ENOTCONN, errno.ENXIO, errno.EROFS, errno.ESTALE,
    errno.ETIMEDOUT,
})  # fmt: skip


def is_passing(error: OSError) -> bool:
    """Whether an error is temporary: the same call may work later, with the same settings. The exit code is then not
    USAGE, after which a service manager does not restart the daemon."""
    return error.errno in _PASSING


class ExitCode(IntEnum):
    """The exit codes of every command (SPEC section 6)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNFINISHED = 4


class CacheSyncError(Exception):
    """An error that a person may read: one line that says what failed and what to do.

    ``operation`` is a verb phrase ("read", "store"), ``path`` what it was done to, ``cause`` why it failed, ``hint``
    the mend. ``hint`` falls back to the class's own.
    """

    exit_code = ExitCode.FAILED
    hint = ""

    def __init__(self, operation: str, path: str = "", cause: object = "", hint: str = "") -> None:
        super().__init__(operation, path, cause)
        self.operation = operation
        self.path = path
        self.cause = cause
        self.hint = hint or type(self).hint

    def named(self, operation: str, path: str) -> Self:
        """The same error in the words of whoever asked: the verb, and the artifact or session as they named it."""
        self.operation, self.path = operation, path
        return self

    @property
    def reason(self) -> str:
        """The cause alone, for lists that show the path beside it."""
        return str(self.cause) or self.operation

    @property
    def advice(self) -> str:
        """The cause and the mend, for the same lists where a person has to act."""
        return f"{self.reason} ({self.hint})" if self.hint else self.reason

    def __str__(self) -> str:
        text = self.operation
        if self.path:
            text += f" {self.path!r}"
        if cause := str(self.cause):
            text += f": {cause}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class UsageError(CacheSyncError):
    """A word, name or setting that is not allowed."""

    exit_code = ExitCode.USAGE
    hint = "see cachesync --help"


class ConfigError(UsageError):
    """A setting that is not allowed."""

    hint = "cachesync config shows every setting and where it comes from"


class RootLocked(UsageError):
    """Another process holds the lock on this root."""

    hint = "one daemon serves a root; ask it with cachesync status"


class Unstorable(CacheSyncError):
    """A name or file that cannot be an object as it is."""

    hint = "rename it or list it in .cachesyncignore"


class FileChanging(CacheSyncError):
    """A file that changed while it was read, in another way than growing."""

    exit_code = ExitCode.UNFINISHED
    hint = "it is tried again when it holds still"


class DeleteHeld(CacheSyncError):
    """More deletions at once than are believed without a person's word."""

    hint = "cachesync flush --confirm-deletes SESSION carries them out"


class RootHalted(CacheSyncError):
    """The root is missing, or another directory stands in its place."""

    exit_code = ExitCode.UNFINISHED
    hint = "nothing is deleted in the store; work goes on when the root is back"


class JournalDamaged(CacheSyncError):
    """The journal's file is not a sound journal."""

    hint = "the next start, or a flush, sets it aside and rebuilds it from the root and the store"


class JournalUnavailable(CacheSyncError):
    """The journal cannot be opened or written now; what is in it is fine."""

    exit_code = ExitCode.UNFINISHED
    hint = "is the disk of the state folder full or read-only?"


class FileUnreadable(CacheSyncError):
    """A file that is there and cannot be read."""

    hint = "let the daemon's user read it, or list it in .cachesyncignore"


class SessionTaken(FileUnreadable):
    """Another user than the session's made the directory of its name."""

    hint = "move the directory away, or give it to the session's user with chown"


class FileUnwritable(CacheSyncError):
    """A file or directory that cannot be made, changed or taken away here."""

    hint = "let the daemon's user write there"


class PathTaken(FileUnwritable):
    """A file, a directory or a link stands where something else is to be made."""

    hint = "use another path, or remove what stands there"


class DiskFull(FileUnwritable):
    """The local disk has no room, or the user's quota is used up."""

    exit_code = ExitCode.UNFINISHED
    hint = "make room on the disk and try again"


class IntegrityError(CacheSyncError):
    """Bytes that are not the bytes that were stored."""

    hint = "the object was changed or damaged in the store; keep the local file"


class NoSuchSession(CacheSyncError):
    """Neither the root nor the journal nor the store has this session."""

    exit_code = ExitCode.NOT_FOUND
    hint = "cachesync status lists the sessions"


class DaemonUnavailable(CacheSyncError):
    """A daemon owns the root but its control socket gives no answer."""

    exit_code = ExitCode.UNFINISHED
    hint = "is it starting or stopping? see its log"


class StoreError(CacheSyncError):
    """What the store said, classified by the adapter that heard it."""


class StoreTransient(StoreError):
    """May work when tried again: 5xx, timeouts, resets, half answers."""

    exit_code = ExitCode.UNFINISHED
    hint = "try again in a moment"


class StoreSlowDown(StoreTransient):
    """The store asks for fewer requests."""


class StoreUnreachable(StoreTransient):
    """Nobody answers at the store's address."""

    hint = "is the endpoint right and the network up?"


class StoreSilent(StoreUnreachable):
    """Connections are taken at the store's address, and questions are not answered in time."""

    hint = "is the store up, and the network on the way to it? try again when it answers"


class StoreCredentials(StoreError):
    """Missing, expired or refused credentials."""

    hint = "renew the credentials, or correct them; the chain is asked again by itself"


class StorePermanent(StoreError):
    """Will not work until somebody changes something."""


class StoreDenied(StorePermanent):
    """The store knows who we are and says no."""

    hint = "give these credentials the right to read, write, delete and list the session's objects"


class StoreArchived(StoreDenied):
    """The object is in a storage class from which it cannot be read."""

    hint = "the object is archived; restore it from GLACIER first"


class StoreNameTaken(StorePermanent):
    """The store has folders, and cannot hold an object 'x' and another 'x/y'."""

    hint = "rename one of them, or use a store that has no folders"


class NoSuchBucket(StoreError):
    """The bucket does not exist."""

    exit_code = ExitCode.NOT_FOUND
    hint = "create it (cachesync bucket init --apply), or correct the store setting"


class ObjectNotFound(StoreError):
    """The store answered, and has no such object."""

    exit_code = ExitCode.NOT_FOUND
    hint = "cachesync ls shows what there is"


class ArtifactExists(StoreError):
    """It was to be made where there is nothing, and there is something."""

    hint = "name another one, or let it be overwritten"


class PreconditionFailed(StoreError):
    """The object is not the version that the request expected."""

    hint = "another writer was there first; both versions are kept"
