"""A value of every answer, as ``--json`` prints it: the reference shows them, so its keys are those of the code."""

from __future__ import annotations

from typing import Any

from cachesync import __version__
from cachesync.api.wire import error_json
from cachesync.model.errors import NoSuchSession
from cachesync.model.outcomes import (
    Artifact,
    CloseReport,
    EvictReport,
    MigrateReport,
    OpenReport,
    PastVersion,
    VerifyReport,
)
from cachesync.model.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)
from cachesync.model.values import Conflict, Skipped
from cachesync.ops.doctor.finding import warning
from cachesync.ops.rebind import RebindReport

_SHA256 = "770516662a6aa8106529459aa99dd5447ba7d9b98c6ac3a97b28fd6322c7aa6d"
_ETAG = "26ab0db90d72e28ad0ba1e22ee510510"
_MOMENT = 1795526656.1
_BAD_NAME = Failure("a\\xff", "the name is not UTF-8 (rename it or list it in .cachesyncignore)")
_SILENT = Pending("b", "the store does not answer")

_FLUSH = FlushReport(
    "demo",
    stored=False,
    files=3,
    bytes=38,
    uploaded=1,
    deleted=0,
    failed=[_BAD_NAME],
    pending=[Pending("b.txt", "its upload is under way")],
    conflicts=[Conflict("c.txt", "c.txt.conflict-20261124T132416Z-9b2cf535f277")],
    skipped=[Skipped(".d.swp", "ignored by '*.swp' (default)")],
    manifest=None,
    seconds=0.061,
    entries=[ReceiptLine("foundation.md", "sessions/demo/foundation.md", 11, _SHA256, _ETAG, None)],
)

_STATUS = StatusReport(
    "/srv/sessions",
    "s3://my-bucket/agents",
    DaemonStatus(4711, __version__, 86400.0),
    [
        SessionStatus(
            "demo",
            "open",
            files=3,
            bytes=38,
            dirty=1,
            dirty_bytes=0,
            in_flight=0,
            failed=1,
            evicted=0,
            conflicts=0,
            oldest_dirty_age=61.2,
            failures=[_BAD_NAME],
        )
    ],
    ["the store has not answered since 13:24:16Z, for 7 s; writes go on and are stored when it is back"],
    0.0,
    7.2,
)

_STORY = Story(
    "demo",
    "foundation.md",
    "file",
    "clean",
    generation=3,
    synced=3,
    size=11,
    stored_at=_MOMENT,
    key="sessions/demo/foundation.md",
    version=_ETAG,
    sha256=_SHA256,
)

_ARTIFACT = Artifact(
    "s1/artifacts/dashboard.yaml",
    "file",
    "evicted",
    size=13,
    modified=_MOMENT,
    key="sessions/s1/artifacts/dashboard.yaml",
    version=_ETAG,
    sha256=_SHA256,
    content_type="application/yaml",
    artifact_type="dashboard",
    uri="s3://my-bucket/sessions/s1/artifacts/dashboard.yaml",
)

_OPEN = OpenReport(
    "s1",
    "/srv/sessions/s1",
    files=5,
    bytes=134,
    fetched=4,
    fetched_bytes=121,
    failed=[Failure("a", "its SHA-256 is not the one that the manifest names")],
    pending=[_SILENT],
    skipped=[Skipped("c", "a link that leads out of the session")],
    flaws=["its end is missing"],
    seconds=0.031,
)

_MIGRATE = MigrateReport(
    "/old",
    dry_run=False,
    sessions=1,
    files=4,
    bytes=90,
    sent=1,
    sent_bytes=40,
    present=1,
    present_bytes=20,
    requests=3,
    seconds=0.4,
    conflicts=[Conflict("s1/c", "s1/c.conflict-20261124T132416Z-9b2cf535f277")],
    failed=[Failure("s1/a", "the name is not UTF-8")],
    pending=[Pending("s1/b", "no answer")],
    skipped=[Skipped("notes.txt", "not in a session directory")],
)

_PAST = PastVersion("s1/artifacts/dashboard.yaml", _ETAG, "v2", size=13, modified=_MOMENT, latest=True, deleted=False)

_VERSIONING = warning(
    "versioning",
    "off: what is deleted or overwritten is gone for good",
    "aws s3api put-bucket-versioning --bucket my-bucket --versioning-configuration Status=Enabled",
)

_EVICTED = EvictReport("s1", evicted=5, bytes=134, kept=[Pending("a", "it is open for writing")])

_KEPT = {"source": "store", "unverified": False}

ANSWERS: dict[str, Any] = {
    "flush": _FLUSH.json(),
    "status": _STATUS.json(),
    "explain": _STORY.json(),
    "retry": {"retried": 0},
    "new": {"session": "s1"},
    "open": _OPEN.json(),
    "close": CloseReport(FlushReport("s1", stored=True), closed=True, evicted=_EVICTED).json(),
    "evict": _EVICTED.json(),
    "verify": VerifyReport("s1", 5, 134, [Failure("a", "the object is gone")], [_SILENT], 0.2, repaired=["c"]).json(),
    "rebind": RebindReport(
        "/srv/sessions",
        "s3://new",
        "s3://old",
        12,
        (Failure("s1/a", "it is neither on this host nor in the new store"),),
    ).json(),
    "umount": {"unmounted": "/srv/files", "left": []},
    "ls": [_ARTIFACT.json()],
    "cat": _ARTIFACT.json() | _KEPT,
    "get": {"target": "dashboard.yaml", "files": 1, "bytes": 13, "failed": [{"path": "a", "error": "no such file"}]},
    "rm": {"removed": ["s1/a.txt"], "failed": [{"path": "s1/b.txt", "error": "the store does not answer"}]},
    "restore": _ARTIFACT.json(),
    "put": {"stored": [_ARTIFACT.json()], "failed": [{"path": "b.txt", "error": "the store does not answer"}]},
    "url": {"url": "https://my-bucket.s3.eu-central-1.amazonaws.com/sessions/s1/..."},
    "history": [_PAST.json()],
    "migrate": _MIGRATE.json(),
    "doctor": [_VERSIONING.json()],
    "config": [{"name": "root", "value": "/srv/sessions", "source": "environment CACHESYNC_ROOT"}],
    "version": {"version": __version__},
}
"""By command; a command that is missing here answers as another one does, or in a document of its own."""

ERROR: dict[str, Any] = error_json(
    NoSuchSession("flush", "demo", "there is no such directory under the root", "cachesync status lists the sessions")
)
