"""The values that the parts hand to each other: frozen, no I/O, no clock.

Paths are POSIX, relative to their session, and are ``str`` as ``os.fsdecode`` makes them, so a name that is not UTF-8
travels as surrogates until someone refuses it. A directory's entry has a path that ends in "/": a file and a directory
of one name, one after the other, are two entries. Times are seconds or nanoseconds since the epoch; sizes are bytes;
digests are lower-case hex.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from cachesync.model.record import record


class Kind(StrEnum):
    """What an entry is on disk. Anything else is skipped and reported."""

    FILE = "file"
    LINK = "link"
    DIRECTORY = "dir"


@record(frozen=True, slots=True)
class FileStat:
    """The fields of ``lstat`` that show a change. ``mode`` is the permission bits. ``mount`` identifies the mount of a
    directory whose parent is on another file system, or the file system of a file or link that is not on the root's."""

    kind: Kind
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    target: str | None = None
    mount: str | None = None


@record(frozen=True, slots=True)
class Rights:
    """Whom a file or directory belongs to, and its POSIX ACLs as the kernel's extended attributes hold them (None: it
    has none). They are of one host: on another one the numbers mean other users."""

    uid: int
    gid: int
    acl: bytes | None = None
    default_acl: bytes | None = None


class Leases(StrEnum):
    """Whether leases on a file system detect all writers of a file, only some, or none."""

    HONEST = "honest"
    LYING = "lying"
    REFUSED = "refused"


@record(frozen=True, slots=True)
class Device:
    """One file system. ``number`` is its ``st_dev``; ``id`` is the key of its capabilities in the journal."""

    id: str
    number: int
    kind: str


@record(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a file system. Two changes within ``tick`` seconds may get one time stamp. ``births`` says
    that it records birth times."""

    device: Device
    tick: float
    births: bool
    leases: Leases


LONGEST_TICK = 2.1
"""Seconds. FAT has the coarsest time stamps: two seconds."""

UNMEASURED = Capabilities(Device("", -1, "unknown"), LONGEST_TICK, births=False, leases=Leases.REFUSED)
"""The assumed capabilities of a file system that was not measured."""


@record(frozen=True, slots=True)
class Version:
    """The store's name for one state of one object. The ETag is opaque: it is never taken for an MD5."""

    etag: str
    version_id: str | None = None


@record(frozen=True, slots=True)
class Stored:
    """What the store confirmed for an entry: facts of the object, not of the disk."""

    version: Version
    size: int
    sha256: str | None
    mtime_ns: int
    mode: int
    stored_at: float


@record(frozen=True, slots=True)
class Tail:
    """What a file has more than the object that it replaces, which is its first ``start`` bytes: a SHA-256 for each
    ``part_size`` bytes from there."""

    start: int
    part_size: int
    sha256: Sequence[str]


@record(frozen=True, slots=True)
class Superseded:
    """What another host has put in the place of what stands here: a file's new version, or how a link or directory is
    listed now. Both are None if that host removed it."""

    stored: Stored | None = None
    other: FileStat | None = None


@record(frozen=True, slots=True)
class Labels:
    """What somebody gave an artifact along with its bytes: a content type (None: the one that its name promises) and
    metadata of their own."""

    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@record(frozen=True, slots=True)
class Entry:
    """The journal's row for one path of one session. See journal/schema.py for what each column means. ``rights`` are
    those of an evicted entry when it was last here."""

    session: str
    path: str
    kind: Kind
    born: int
    generation: int
    absent: int
    synced: int
    resident: bool
    stat: FileStat | None
    gone_at: float | None
    closed: bool
    unsettled: bool
    stored: Stored | None
    puts: int
    created_at: float
    dirty_since: float
    due_at: float
    attempts: int
    tried_at: float | None
    error: str | None
    failed: bool
    labels: Labels | None = None
    relabelled: bool = False
    hidden: bool = False
    superseded: Superseded | None = None
    older: Stored | None = None
    vanished: bool = False
    doubted: bool = False
    rights: Rights | None = None

    @property
    def current(self) -> Stored | None:
        """What the store has at the path, as last known; ``stored`` is what this host brought there or from there."""
        return self.stored if self.superseded is None else self.superseded.stored

    @property
    def dirty(self) -> bool:
        """The store does not have what is on disk."""
        return self.synced < self.generation

    @property
    def tombstone(self) -> bool:
        """The file was deleted, and the store's delete is not confirmed yet."""
        return self.gone_at is not None


@record(frozen=True, slots=True)
class Barrier:
    """What was dirty at one instant: path to generation, of existing and of deleted files and links.

    It holds names. A flush adds the new names of files that move while it waits (``with_moved``).
    """

    standing: Mapping[str, int]
    gone: Mapping[str, int]

    def with_moved(self, entries: Iterable[Entry]) -> Barrier:
        """Return a barrier that also holds these moved files, and tombstones of their old names."""
        standing, gone = dict(self.standing), dict(self.gone)
        for entry in entries:
            (gone if entry.tombstone else standing)[entry.path] = entry.generation
        return Barrier(standing, gone)

    def is_met(self, entry: Entry) -> bool:
        """Whether the store has what the barrier holds of this entry, or what came after it on disk.

        A path that is now a tombstone or a younger row has no bytes of that instant: the file was deleted or moved. A
        missing path is not met until a scan finds out which.
        """
        if (generation := self.gone.get(entry.path)) is not None:
            return entry.synced >= generation or entry.born > generation
        if (generation := self.standing.get(entry.path)) is not None:
            return max(entry.synced, entry.absent - 1, entry.born - 1) >= generation
        return True


@record(frozen=True, slots=True)
class Mark:
    """What was seen at one path and makes it dirty: its stat, or None for a resident path that is missing.

    ``closed`` says that a writer's close was the last hint. ``due_at`` is when the uploader may take it.
    """

    path: str
    stat: FileStat | None
    due_at: float
    closed: bool = False


@record(frozen=True, slots=True)
class Session:
    """The journal's row for a session. ``directory`` is the identity of its directory. ``manifest`` is the last known
    version of the manifest, ``serial`` its number. ``lost`` counts the files that disappeared with the directory before
    they were stored. ``listed_at`` is when the store's listing was last compared, in seconds since the epoch.
    ``doubted`` says that no whole scan has finished since a crash or a rollback. ``vanished`` counts the files that are
    missing here without evidence of a deletion. ``mode`` and ``rights`` are the directory's when it was last here;
    where it never was, ``mode`` is the manifest's."""

    name: str
    state: str
    directory: str | None
    learned: bool
    revision: int
    manifest_revision: int
    manifest: Version | None
    confirmed: int
    lost: int
    serial: int = 0
    listed_at: float | None = None
    doubted: bool = False
    vanished: int = 0
    mode: int | None = None
    rights: Rights | None = None


@record(frozen=True, slots=True)
class Tombstones:
    """A session's deletions that wait for the store: how many that no person confirmed, of how many entries that the
    store has, and when the last one was seen."""

    unconfirmed: int
    stored: int
    last_seen: float


@record(frozen=True, slots=True)
class Counts:
    """Counts of a session's entries. ``bytes`` is the size of all resident and evicted files. ``newest`` is the latest
    mtime of a file. ``vanished`` counts the evicted files that are missing here without evidence of a deletion. Files
    that another host deleted in the store, and that are still here, are counted in ``deleted_elsewhere`` only."""

    files: int
    bytes: int
    dirty: int
    dirty_bytes: int
    failed: int
    evicted: int
    oldest_dirty: float | None
    newest: float | None
    vanished: int = 0
    deleted_elsewhere: int = 0


@record(frozen=True, slots=True)
class QueueCounts:
    """What is dirty in all sessions together, links and tombstones too. ``oldest`` is since when; ``lost`` counts the
    sessions whose directory went with files that were not stored."""

    dirty: int
    failed: int
    oldest: float | None
    sessions: int
    lost: int


@record(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store describes it. A listing leaves ``sha256``, ``metadata`` and ``content_type`` out."""

    key: str
    size: int
    version: Version
    modified: float
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None


@record(frozen=True, slots=True)
class PastObject:
    """One version of an object, as a listing of versions shows it; ``deleted`` is a delete marker."""

    key: str
    size: int
    version: Version
    modified: float
    latest: bool
    deleted: bool


@record(frozen=True, slots=True)
class Attributes:
    """What travels with an object's bytes."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@record(frozen=True, slots=True)
class Multipart:
    """A multipart upload under way: enough to go on with it after a restart.

    ``sha256`` and ``part_size`` say which bytes it is for; ``parts`` maps the number (from 1) of each part that the
    store has confirmed to its ETag.
    """

    key: str
    upload_id: str
    sha256: str
    part_size: int
    parts: Mapping[int, str] = field(default_factory=dict)


@record(frozen=True, slots=True)
class Skipped:
    """A path that is not stored, on purpose, and why."""

    path: str
    reason: str


@record(frozen=True, slots=True)
class Conflict:
    """Another writer's bytes that were in the way, and the path that keeps them."""

    path: str
    kept_as: str
