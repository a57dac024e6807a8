"""The journal's schema: what each column means stands here and nowhere else.

Facts are stored, states are derived: ``dirty`` is ``synced < generation``, ``tombstone`` is ``gone_at IS NOT NULL``,
``evicted`` is ``resident = 0``, and what is in flight is memory. A journal of an older version is brought forward by
``MIGRATIONS``, one script a step; ``PRAGMA user_version`` counts the steps done.
"""

from __future__ import annotations

VERSION_1 = """
CREATE TABLE meta (
    id         TEXT NOT NULL,        -- random name of this journal; objects carry it as their `writer`
    generation INTEGER NOT NULL,     -- the last generation given out, over all sessions
    store      TEXT,                 -- the store that all of this is true of
    place      TEXT,                 -- which file this is: a copy of it is another journal
    boot       TEXT                  -- the kernel's boot in which it was opened; "-" before it: closed in order
) STRICT;

CREATE TABLE session (
    id                  INTEGER PRIMARY KEY,
    name                TEXT NOT NULL UNIQUE,
    state               TEXT NOT NULL DEFAULT 'open',      -- as the manifest says: open or closed
    added_at            REAL NOT NULL,
    directory           TEXT,                              -- which one it is: inode and birth, so that another in
                                                           -- its place is noticed
    learned             INTEGER NOT NULL DEFAULT 0,        -- the store's listing was merged into the entries
    revision            INTEGER NOT NULL DEFAULT 0,        -- counts changes that a manifest would show
    manifest_revision   INTEGER NOT NULL DEFAULT -1,       -- the revision that the last written manifest shows
    manifest_etag       TEXT,                              -- the manifest's version in the store, as last known
    manifest_version_id TEXT,
    confirmed           INTEGER NOT NULL DEFAULT 0,        -- tombstones up to this generation are believed
    lost                INTEGER NOT NULL DEFAULT 0,        -- files that went with the directory before they were
                                                           -- stored, until one stands there again
    opening             INTEGER NOT NULL DEFAULT 0         -- it is being brought here, or was when we died
) STRICT;

-- One row a path. A directory's name ends in '/', so a file and a directory of one name are two rows.
CREATE TABLE entry (
    session         INTEGER NOT NULL REFERENCES session(id),
    dir             BLOB NOT NULL,               -- parent path in the session, '' at its top; bytes as on disk
    name            BLOB NOT NULL,
    kind            TEXT NOT NULL CHECK (kind IN ('file', 'link', 'dir')),
    born            INTEGER NOT NULL,            -- generation at which the path was first seen
    generation      INTEGER NOT NULL,            -- latest mark
    absent          INTEGER NOT NULL DEFAULT 0,  -- latest mark at which the path was seen missing
    synced          INTEGER NOT NULL DEFAULT 0,  -- latest mark whose state the store has confirmed
    resident        INTEGER NOT NULL DEFAULT 1,  -- the bytes are expected on local disk
    -- the disk, as last seen (NULL: never seen here)
    size            INTEGER,
    mtime_ns        INTEGER,
    ctime_ns        INTEGER,
    inode           INTEGER,
    mode            INTEGER,                     -- permission bits
    target          BLOB,                        -- of a link
    gone_at         REAL,                        -- when a resident path was first seen missing
    closed          INTEGER NOT NULL DEFAULT 0,  -- the last hint was a writer's close
    hidden          INTEGER NOT NULL DEFAULT 0,  -- 1: a file was made here of whose name only the store had bytes, and
                                                 -- whoever made it saw nothing of them; 2: whoever makes one next has
                                                 -- seen them (through the mount)
    unsettled       INTEGER NOT NULL DEFAULT 0,  -- 1: the bytes may have changed without a change of the stat; 2: a
                                                 -- power failure may also have reverted them
    -- the store, as last confirmed (NULL: never stored)
    etag            TEXT,                        -- '': there may be an object, by a try that goes on or
                                                 -- whose answer was lost
    version_id      TEXT,
    stored_size     INTEGER,
    stored_mtime_ns INTEGER,
    stored_mode     INTEGER,
    sha256          TEXT,                        -- of the stored bytes; NULL if learned from a listing
    stored_at       REAL,
    -- other versions (JSON, see rows.py)
    newer           TEXT,                        -- of what is resident: what another host has put in its place, in the
                                                 -- store or in the manifest; 'null': it removed it
    older           TEXT,                        -- of a file that went with the session's directory, or is ignored: the
                                                 -- version that it was, if the store has another one by now
    stood_in        TEXT,                        -- that directory
    puts            INTEGER NOT NULL DEFAULT 0,  -- how often the path was stored
    created_at      REAL NOT NULL,               -- when the path was first seen
    -- what a put gave along with the bytes (JSON, see rows.py), until the path is deleted; and what of it is stored
    labels          TEXT,
    stored_labels   TEXT,
    -- the way there
    dirty_since     REAL NOT NULL,               -- first mark since it was last clean
    due_at          REAL NOT NULL,               -- not to be tried before
    attempts        INTEGER NOT NULL DEFAULT 0,  -- failures in a row
    tried_at        REAL,                        -- when the last try that failed began
    error           TEXT,
    failed          INTEGER NOT NULL DEFAULT 0,  -- will not work until somebody changes something
    PRIMARY KEY (session, dir, name)
) STRICT, WITHOUT ROWID;

-- What the uploader has to do: a file to store, or an object that stands where no file is any more.
CREATE INDEX work ON entry(due_at) WHERE synced < generation AND (kind = 'file' OR etag IS NOT NULL);
CREATE INDEX dirty ON entry(session) WHERE synced < generation;
-- Names that are only in the store: the mount asks for them where the disk has nothing.
CREATE INDEX evicted ON entry(session, dir) WHERE resident = 0;
-- Where a renamed file may have come from, and gone to.
CREATE INDEX inode ON entry(inode) WHERE inode IS NOT NULL;

-- A multipart upload under way; its parts that the store has confirmed.
CREATE TABLE upload (
    session   INTEGER NOT NULL REFERENCES session(id),
    path      BLOB NOT NULL,
    key       TEXT NOT NULL,
    upload_id TEXT NOT NULL,
    sha256    TEXT NOT NULL,         -- of the whole file that is being sent
    part_size INTEGER NOT NULL,
    PRIMARY KEY (session, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE part (
    session INTEGER NOT NULL,
    path    BLOB NOT NULL,
    number  INTEGER NOT NULL,        -- from 1
    etag    TEXT NOT NULL,
    PRIMARY KEY (session, path, number)
) STRICT, WITHOUT ROWID;

-- Another writer's bytes that were in the way, until a flush has reported them.
CREATE TABLE conflict (
    session  INTEGER NOT NULL REFERENCES session(id),
    path     BLOB NOT NULL,
    kept_as  BLOB NOT NULL,
    seen_at  REAL NOT NULL,
    reported INTEGER NOT NULL DEFAULT 0
) STRICT;
"""

VERSION_2 = """
ALTER TABLE meta ADD COLUMN endpoint TEXT;                          -- that store's endpoint; NULL: unknown
ALTER TABLE meta ADD COLUMN store_id TEXT;                          -- the identity that the store itself keeps
ALTER TABLE meta ADD COLUMN pulse INTEGER NOT NULL DEFAULT 0;       -- also in a file of the root: another number there
                                                                    -- shows that one of them was rolled back
ALTER TABLE session ADD COLUMN manifest_serial INTEGER NOT NULL DEFAULT 0;  -- number of the latest known manifest:
                                                                    -- one with a lower number is older
ALTER TABLE session ADD COLUMN doubted INTEGER NOT NULL DEFAULT 0;  -- 1: the last life did not end in order, and no
                                                                    -- whole scan has finished since: a missing file
                                                                    -- does not count as deleted
ALTER TABLE session ADD COLUMN listed_at REAL;                      -- when the store's listing was last compared with
                                                                    -- the entries; NULL: unknown
ALTER TABLE entry ADD COLUMN vanished INTEGER NOT NULL DEFAULT 0;   -- 1: evicted because it was missing without
                                                                    -- evidence of a deletion
ALTER TABLE entry ADD COLUMN mount TEXT;                            -- a mounted directory: the mount's identity; a file
                                                                    -- or link: its file system if not the root's
CREATE INDEX vanished ON entry(session) WHERE vanished = 1;
CREATE INDEX mounted ON entry(session) WHERE mount IS NOT NULL;

-- One row a life: a process that stores from this journal. Each object names its life. So an object whose put response
-- was lost is recognized as ours, and an object of a cloned journal is not (see lives.py).
CREATE TABLE life (
    number INTEGER PRIMARY KEY,      -- in the order in which they began
    token  TEXT NOT NULL UNIQUE,     -- random
    began  INTEGER NOT NULL          -- the last generation given out before it; no earlier life used a later one
) STRICT;

-- Measured capabilities of the file systems under this root (see root/capabilities.py).
CREATE TABLE device (
    id     TEXT NOT NULL PRIMARY KEY,  -- device number, kind and id of the file system, and the kernel's release
    kind   TEXT NOT NULL,              -- ext4, overlayfs, nfs, ...
    tick   REAL NOT NULL,              -- two changes within so many seconds may get one time stamp
    births INTEGER NOT NULL,           -- 1: it records birth times
    leases TEXT NOT NULL               -- honest, lying, refused
) STRICT, WITHOUT ROWID;
"""

VERSION_3 = """
-- Rights: "uid:gid", or with POSIX ACLs "uid:gid:access:default", those in hex as the kernel's attributes hold them.
ALTER TABLE session ADD COLUMN mode INTEGER;   -- permission bits of its directory when it was last here, or as the
                                               -- manifest of another host says; NULL: unknown
ALTER TABLE session ADD COLUMN rights TEXT;    -- of its directory when it was last here
ALTER TABLE entry ADD COLUMN rights TEXT;      -- of what was evicted; means nothing while it is resident
-- The work of each session, and of each weight (policy.Weight): sessions share the uploader.
DROP INDEX work;
CREATE INDEX work ON entry(session,
    (CASE WHEN gone_at IS NULL AND resident = 1 THEN ifnull(size, 0) ELSE 0 END > 1048576)
    + (CASE WHEN gone_at IS NULL AND resident = 1 THEN ifnull(size, 0) ELSE 0 END > 16777216),
    due_at) WHERE synced < generation AND (kind = 'file' OR etag IS NOT NULL);
"""

MIGRATIONS = (VERSION_1, VERSION_2, VERSION_3)
