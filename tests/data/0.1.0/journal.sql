BEGIN TRANSACTION;
CREATE TABLE conflict (
    session  INTEGER NOT NULL REFERENCES session(id),
    path     BLOB NOT NULL,
    kept_as  BLOB NOT NULL,
    seen_at  REAL NOT NULL,
    reported INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "conflict" VALUES(1,X'636F6E666C6963742E747874',X'636F6E666C6963742E7478742E636F6E666C6963742D3230323631313330543033343935395A2D346133306562393538343436',1796010599.39946,1);
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
    unsettled       INTEGER NOT NULL DEFAULT 0,  -- the bytes may have changed since without a trace in the stat
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
INSERT INTO "entry" VALUES(1,X'',X'6269672E62696E','file',5,5,0,0,1,5,1700000200000000000,1796010599449661014,12086066,420,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1.79601059946099257e+09,NULL,NULL,1.79601059946099257e+09,1.796010599459661e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'636C65616E2E747874','file',1,1,0,1,1,12,1700000000000000000,1796010599265722179,12085970,420,NULL,NULL,0,0,0,'414fda62e890c69cc10288ac631f5b47',NULL,12,1700000000000000000,420,'3887488175c13cd123273b870899cb15273e5cd21c0e2573dc9c040b08f88031',1.79601059933101701e+09,NULL,NULL,NULL,1,1.79601059930759954e+09,NULL,NULL,1.79601059930759954e+09,0.0,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'636F6E666C6963742E747874','file',1,2,0,2,1,12,1700000100000000000,1796010599385838143,12085978,420,NULL,NULL,0,0,0,'eb2cd7fd5da946044d9eb0264a228e3b',NULL,12,1700000100000000000,420,'8d63f5130daab7290e4332fc7399c7eb5c746a9cd7e9270fc2a239643af702c8',1.796010599409626e+09,NULL,NULL,NULL,2,1.79601059930759954e+09,NULL,NULL,1.79601059938953471e+09,0.0,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'636F6E666C6963742E7478742E636F6E666C6963742D3230323631313330543033343935395A2D346133306562393538343436','file',3,3,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,0,0,'9737e9ec14a773955dd5992780e1f2e6',NULL,15,1796010599373228544,420,'9a082037f5ea07536dc002cf98446fddc33d21086914bda712733a34f036ebfc',1.79601059937322854e+09,NULL,NULL,NULL,0,1.79601059937322854e+09,NULL,NULL,1.79601059937322854e+09,1.79601059937322854e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'642F','dir',1,4,0,4,1,4096,1796010599426664201,1796010599426664201,12085950,493,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1.79601059930759954e+09,NULL,NULL,1.79601059943343186e+09,1.7960105994366641e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'64697274792E747874','file',1,5,0,1,1,13,1700000200000000000,1796010599449375297,12085971,420,NULL,NULL,0,0,0,'10857791a0bf26dd94a759e825bb1669',NULL,12,1700000000000000000,420,'c0a43e8cb5b8f3a6d1765de2dde4e9110ebda3acf9e16507d06a8f151b156de0',1.79601059934460449e+09,NULL,NULL,NULL,1,1.79601059930759954e+09,NULL,NULL,1.79601059946099257e+09,1.79601060034460449e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'656D7074792F','dir',1,1,0,1,1,4096,1796010599269742028,1796010599269742028,12085981,493,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1.79601059930759954e+09,NULL,NULL,1.79601059930759954e+09,1.79601059930747675e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'6C696E6B','link',1,1,0,1,1,9,1796010599269742028,1796010599269742028,12085980,511,X'636C65616E2E747874',NULL,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1.79601059930759954e+09,NULL,NULL,1.79601059930759954e+09,1.796010599307482e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'',X'746F6D6273746F6E652E747874','file',1,5,5,1,1,16,1700000000000000000,1796010599266702712,12085977,420,NULL,1.79601059946099257e+09,0,0,0,'297270586c79152d67e773099b7a09a1',NULL,16,1700000000000000000,420,'84b63d2f4c3368b2bfa6668c789781fb7536f92dc4d840777af8c78281dbc509',1.79601059935569047e+09,NULL,NULL,NULL,1,1.79601059930759954e+09,NULL,NULL,1.79601059946099257e+09,1.79601060145623421e+09,0,NULL,NULL,0);
INSERT INTO "entry" VALUES(1,X'64',X'657669637465642E747874','file',1,1,0,1,0,16,1700000000000000000,1796010599266522063,12085974,420,NULL,NULL,0,0,0,'8f2109756c765b60a7b7c1544e494c10',NULL,16,1700000000000000000,420,'9c06b5e4e485b5812917325be833f03b760a5bf9acef02e00d435f35e1371551',1.79601059936436367e+09,NULL,NULL,NULL,1,1.79601059930759954e+09,NULL,NULL,1.79601059930759954e+09,0.0,0,NULL,NULL,0);
CREATE TABLE meta (
    id         TEXT NOT NULL,        -- random name of this journal; objects carry it as their `writer`
    generation INTEGER NOT NULL,     -- the last generation given out, over all sessions
    store      TEXT,                 -- the store that all of this is true of
    place      TEXT,                 -- which file this is: a copy of it is another journal
    boot       TEXT                  -- the kernel's boot under which it is open; NULL once it was closed in order
) STRICT;
INSERT INTO "meta" VALUES('196e930af962fc91',5,'file:///srv/store','12085998',NULL);
CREATE TABLE part (
    session INTEGER NOT NULL,
    path    BLOB NOT NULL,
    number  INTEGER NOT NULL,        -- from 1
    etag    TEXT NOT NULL,
    PRIMARY KEY (session, path, number)
) STRICT, WITHOUT ROWID;
INSERT INTO "part" VALUES(1,X'6269672E62696E',1,'etag-1');
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
INSERT INTO "session" VALUES(1,'s','open',1.79601059930697751e+09,'12085949:1796010599248379937',1,11,10,'5e2b7b674cae3f0e7710e651050d55a4',NULL,0,0,0);
CREATE TABLE upload (
    session   INTEGER NOT NULL REFERENCES session(id),
    path      BLOB NOT NULL,
    key       TEXT NOT NULL,
    upload_id TEXT NOT NULL,
    sha256    TEXT NOT NULL,         -- of the whole file that is being sent
    part_size INTEGER NOT NULL,
    PRIMARY KEY (session, path)
) STRICT, WITHOUT ROWID;
INSERT INTO "upload" VALUES(1,X'6269672E62696E','sessions/s/big.bin','upload-1','0000000000000000000000000000000000000000000000000000000000000000',16777216);
CREATE INDEX work ON entry(due_at) WHERE synced < generation AND (kind = 'file' OR etag IS NOT NULL);
CREATE INDEX dirty ON entry(session) WHERE synced < generation;
CREATE INDEX evicted ON entry(session, dir) WHERE resident = 0;
CREATE INDEX inode ON entry(inode) WHERE inode IS NOT NULL;
COMMIT;
PRAGMA user_version=1;
