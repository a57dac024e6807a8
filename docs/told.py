"""What the reference says beside what the code says of itself: a sentence or two for a command, a setting, a route.

A name here that the code does not have is an error of the generator, so nothing stays that is gone.
"""

from __future__ import annotations

COMMANDS: dict[str, str] = {
    "run": "Watches, uploads, and serves the control socket until SIGTERM or Ctrl-C; then it stores what is left for at"
    " most `drain_timeout`. It exits 0 if everything is stored then and every manifest is written, else 4; the log lists"
    " the files and the manifests that are left. A second signal ends it at once. It waits for a command that works on the"
    " root; a signal ends the wait (4). Wrong settings, and another daemon on the root, are 2. With `--dev-server` it also"
    " runs an S3 server,"
    " SeaweedFS, on loopback. See [under systemd](../systemd.md).",
    "mount": "The daemon, and every session as ordinary files at DIR. A daemon that runs already is used. See [the"
    " mount](../howto/mount.md).",
    "umount": "Flushes every session, takes the mount away, and flushes again. 4 if something is left, 1 if it cannot be"
    " stored; it is listed.",
    "flush": "The barrier. 0 if and only if every change made before it began is stored and the manifest that lists it is"
    " written; else it lists what is `failed` and what is `pending`. Of several sessions the code is the worst: 2, then"
    " 3, 1, 4, 0. With `--json` it is one object, or a list if several sessions or `--all` were asked for. With"
    " `--all`, a directory in the root that is no session (`my session`) has a row too, with `stored` false, and the code"
    " is 1: rename it, or list it in the root's `.cachesyncignore`. `stored` is"
    " the answer. `uploaded` and `deleted` count what was done during this flush. `expired` counts logs that only the store"
    " had, and that expired there. `vanished` counts files that are missing here without evidence of a deletion: the store"
    " keeps them. `manifest` is null if it was not written. `on_this_machine` is true if no store is configured: then the"
    " store is a folder of this machine, and stderr says so. `entries` only with `--receipt`. `version` is the ETag; it is not an MD5. Without a daemon, flush does the"
    " work itself.",
    "status": 'For one session it scans first, and the code is the "safe to kill" answer: 0, or 4. `daemon` is null'
    " without one; `rate` (bytes a second) too, and in the first seconds of sending. `notes` are sentences for an"
    " operator. `store_silent_for` are the seconds that the store has left unanswered what it was asked, or null."
    " `on_this_machine` is true if no store is configured: what is stored is safe on this machine only, and SAFE shows"
    " `here`."
    " `--watch` is a live screen, if the extra `watch` is installed; else, without a terminal, or with `--json`, the"
    " status comes again every second. `q` or Ctrl-C ends it, with the code of the last status. It waits for a daemon"
    " that goes away, and never takes its root.",
    "explain": '`kind` is file, link or dir. `state` is one of clean, dirty, failed, evicted, or "deleted here, not yet in'
    ' the store". Times are null for never.',
    "retry": "What failed is tried again by itself, after 5 s to 10 minutes; this does it now.",
    "new": "Makes `metadata.json`, `artifacts/`, `artifacts/terraform/` and `logs/`. `--template T` copies `templates/T`"
    " of the store into `artifacts/`.",
    "open": "Bytes, modes, times, links and directories. What stands here is never overwritten if it changed. Run again,"
    " it goes on; `--timeout` ends it by then, with 4 and what is missing. `flaws` are what is wrong with the manifest in"
    " the store; what it does not tell is as the store lists it then.",
    "close": "`flush` and `eviction` are the reports of those; `eviction` is null with `--keep`.",
    "evict": "What is dirty or open stays, and is named in `kept`. A file also stays if the kernel does not tell whether a"
    " program has it open for writing (overlayfs, FUSE, NFS, files of another user); `--force` drops it.",
    "verify": "Compares with manifest, journal and disk; 1 and a line for each difference. `--repair` stores a"
    " local file again if the store lacks it, or holds it in another state than it was stored in. Then it compares once"
    " more, and exits 0 if nothing differs. `repaired` are the paths that differed before. What it cannot repair stays a"
    " difference. Works on a host without a root.",
    "rebind": "The new store is the one that is configured now. The next flush or daemon stores the local files there; it does"
    " not send files that the new store has already with the same checksum. `missing` are evicted files that the new store"
    " does not have with the same size. Then rebind exits 1 and changes nothing, unless `--yes` gives these files up."
    " `kept` is a copy of the journal as it was. Stop the daemon first.",
    "ls": '`kind` is file, link or dir. `state` is "stored" where only the store was asked. A dir has a `key` if files are'
    " in it (not with `-R`). `files` is of a session that this host knows, and its `size` and `modified` are all of"
    " theirs; `-l` shows them. `unverified` says that the store could not be asked, and this was known before. Works on a host without a"
    " root.",
    "cat": "Works on a host without a root. With `--json` it prints no bytes but what it is; `source` is local, cache or"
    " store.",
    "get": "Works on a host without a root.",
    "put": "Waits until the store has it. With `--no-overwrite` the store itself decides whether there is something yet;"
    " if so, it is 1.",
    "rm": "Where the store keeps versions it first gets what it does not have of them, so `restore` brings back the last"
    " state.",
    "url": "From a second to seven days. Works on a host without a root.",
    "history": "Newest first; `deleted` is a deletion. Needs a store with versions. Works on a host without a root.",
    "restore": "Without `--version-id` the version before the newest one; also after a deletion. Needs a store with"
    " versions.",
    "mcp": "On stdio, or with `--http HOST:PORT` over HTTP. Over HTTP each request needs a token: that of the setting"
    " `http_token`, or the one in the file `mcp.token` of the state folder. `--session` binds it to one session, `--allow-projects` adds projects and templates. See [agents and MCP](../howto/agents.md).",
    "migrate": "Never touches the directory. What is skipped is named, a directory with all that is in it. `files` is `sent` + `present` + failed + pending. What the store has with the"
    " same checksum is `present`, and not sent. See [from a volume to a bucket](../howto/migrate.md).",
    "bucket": "`init` prints what the bucket should be and is not, and sets it with `--apply`; `check` exits 1 with each"
    " difference and its mend; `policy` prints least-privilege IAM rights. See [the bucket](../bucket.md), also for its"
    " JSON.",
    "cost": "Dollars a month. See [what it costs](../bucket.md#what-it-costs), also for its JSON.",
    "doctor": "Works with and without a daemon, and with a store that does not answer. Root, state, journal, watches, limits, FUSE, store, credentials, rights, conditional writes, copies, checksums,"
    " versioning and clock. `verdict` is ok, warning or problem; 1 if one is a problem. `mend` is null where there is"
    " nothing to mend; with ok it is a hint. A check can have several findings, and one that needs another to go well is"
    " left out where that one did not. It writes, reads and deletes one object in the store,"
    " `sessions/.cachesync/doctor-RANDOM`; in a bucket with versioning it also removes that object's versions, if"
    " `s3:DeleteObjectVersion` is allowed.",
    "completion": "See [completion](../howto/completion.md).",
    "config": "Secrets are masked.",
    "version": "",
}

SETTINGS: dict[str, str] = {
    "store": "`ARTIFACT_BUCKET` is a bucket's name. The default is under `$XDG_DATA_HOME` if that is set, a folder for each"
    " root.",
    "require_remote": "Then `run`, `flush`, `close`, `migrate` and ArtifactStore exit 2 where no store is configured, and"
    " with `file://`, `memory://` and `--dev-server`. It is set in the systemd units and in the container image.",
    "endpoint": "For MinIO, SeaweedFS, R2 and the like; without it, AWS.",
    "region": "Without it, the AWS chain's.",
    "sse_kms_key_id": "Without it, the bucket's own.",
    "state": "Put it on a local disk if the root is on NFS.",
    "cache_size": "0 for no cache.",
    "revalidate": "Then the next reader asks the store again.",
    "scan_interval": "If it is not set, the next scan of a large root comes later, so that scans take 1 % of a processor, but "
    "after 15m at the latest.",
    "bandwidth": "For all transfers together, as `20MiB`.",
    "delete_settle": "At a flush it is believed at once.",
    "delete_guard": "And over half of the session's files; `cachesync flush --confirm-deletes` lets them through.",
    "transfer_timeout": "For a small one; large ones get more, as long as they move on. Any other request has 30 s to be answered.",
    "socket_group": "It gets mode 0660 then.",
}

ROUTES: dict[str, str] = {
    "POST /v1/sessions/{session}/flush": "The report of flush; 200 stored, 409 something cannot be stored, 504 not"
    " finished in time.",
    "GET /v1/artifacts/{address}": "An artifact's bytes; `Range` and `If-Match` as HTTP has them. `X-Cachesync-Source` is"
    " local, cache or store. With `describe=1` what there is to know of them.",
    "PUT /v1/artifacts/{address}": "Stores the body; 201 and what was stored. `Content-Type` is kept, and `meta-NAME=VALUE`"
    " in the query is metadata, `meta-artifacttype` the artifact type. With `If-None-Match: *` only where there is nothing yet, else 412.",
    "GET /v1/list{address}": "What is under an address, or with `shallow=1` one level of it, one JSON a line.",
    "POST /v1/url/{address}": "A presigned link.",
    "GET /v1/history/{address}": "Every version.",
    "POST /v1/restore/{address}": "Makes a past version the newest again.",
    "POST /v1/sessions": 'Makes a session; 201 with `{"session": NAME}`. Options: `session`, `project`, `workspace`, and `template`, several times.',
    "POST /v1/sessions/{session}/open": "Lines of progress, then the report of open.",
    "POST /v1/sessions/{session}/verify": "Lines of progress, then the report of verify; with `repair=1` of"
    " `verify --repair`.",
    "POST /v1/sessions/{session}/close": "The report of close.",
    "POST /v1/sessions/{session}/evict": "The report of evict.",
    "DELETE /v1/artifacts/{address}": "Deletes it.",
    "GET /v1/sessions/{session}": "The session's row of status.",
    "GET /v1/sessions": "`sessions` are the names. `strays` are the directories in the root that are no sessions, each with"
    " `path` and `reason`.",
    "GET /healthz": "200 if the daemon's threads live, else 503. It never asks the store.",
    "GET /readyz": "200 if it takes work, else 503.",
    "GET /v1/status": "The status.",
    "POST /v1/retry": 'How many entries are tried again: `{"retried": N}`.',
    "GET /v1/events": "Server-sent events, without end: see below. Of one session, if it is named.",
    "GET /v1/activity": "The last 15 minutes, in buckets of 5 s; empty ones are left out.",
    "GET /metrics": "What Prometheus reads: see [metrics](../metrics.md). 501 where its client library is missing.",
    "GET /v1/pending/{session}": 'What is not stored yet: `{"session", "pending": [...], "more"}`, each as `explain` tells it,'
    " from the path after `after` on, `limit` of them. `failed=1` those that failed, `failed=0` the others.",
    "GET /v1/ondemand/changes": "A line for what the daemon changes in the root by itself, `{SESSION: [PATH]}`, without"
    " end.",
    "PUT /v1/ondemand/notices": "Looks at paths; the body is `{SESSION: {PATH: HINTS}}`.",
    "POST /v1/ondemand/{verb}/{names}": "What a mount asks: `bring`, `empty`, `foresee`, `remove` of a session and a path,"
    " `move` of two of each; each name percent-encoded as one segment.",
}

EXIT_CODES: dict[int, str] = {
    0: "done and stored",
    1: "something cannot be stored, read or verified; it is listed",
    2: "usage or configuration",
    3: "no such session, file or bucket",
    4: "not finished in time, still dirty; it is listed",
    130: "Ctrl-C in a command other than run and status --watch",
    141: "nobody reads the output any more",
}

CLI = """\
An address is `SESSION/PATH`, `projects/P/PATH` or `templates/PATH`. All commands work with or without a daemon; only the
store of `--dev-server` is there only while the daemon runs. Every [setting](settings.md) has a flag, before or after the
command.

A command that waits for a store which does not answer says so on stderr after 2 s. A question that has no answer within
30 s is an error, with exit code 4; what is dirty goes on being tried. Progress goes to stderr, on a terminal only."""

JSON = """\
`--json` prints one document on stdout; every command but `run`, `mount`, `mcp` and `completion` has it. Keys are stable:
later versions may add some. Times are seconds since the epoch, ages and durations seconds. A command that fails prints
one line on stderr, and this on stdout:"""

ORDER = """\
Flags over environment over `cachesync.toml` (in the working directory, then in `~/.config/cachesync/` or
`$XDG_CONFIG_HOME/cachesync/`, then in `/etc/cachesync/`) over defaults. The flag of `max_dirty_age` is `--max-dirty-age`, and so on for all but secrets. A wrong value is one line that names the
setting, its source and what is allowed; the exit code is 2. An environment variable that is empty counts as not set.
`cachesync config` prints every setting with its value and where that comes from.

The first two files count only where no other user can have put them: the file and its directory belong to root or to
the caller, and nobody else can write them. They never count in a root or below one, where agents write. Anything else
of that name is left out with a warning; a file of yours that others can write is an error."""

CREDENTIALS = """\
Credentials come from the AWS chain: environment, profile, web identity, instance. When the store refuses them the chain
is asked again."""

JOURNAL = """\
A journal belongs to one store: see [P17](../promises.md#p17-stored-means-it-is-in-this-store-now). `run`, and `flush`
without a daemon, exit 2 with another store on the same root; `cachesync rebind` moves it. With a daemon, `flush` asks
the daemon, and its store is the one that counts: `cachesync status` names it."""

HTTP = """\
The daemon answers HTTP on the socket `control.sock` in the state folder: the operator's socket, with every right. Only
its owner may use it, or the group that the setting `socket_group` names. The same routes are served on TCP if the
setting `http` is set; there anything but `/healthz` and `/readyz` needs the bearer token: see
[the page and HTTP](../page.md). `open` with `into` is answered to processes of the daemon's own user only, and not over
TCP."""

AGENTS = """\
The setting `agent_socket` opens a second socket, for agents, with `agent_group` as its group. It answers the routes
below, and 403 to everything else. Which user asks, the kernel says. A session is answered for if that user may read its
directory under the root: by owner, group, mode and ACL, for root too. Any other session is answered for as if it were
not there. `/v1/events` needs `session` there. The commands `flush`, `status` and `explain` work over it with
`CACHESYNC_SOCKET`. A user has 32 connections, and 8 flushes, 4 streams of events and 4 other requests at once; more wait,
for 20 s. Of receipts a user gets one at a time. A request counts until its answer is taken. The lists of a flush
(`failed`, `pending`, `conflicts`, `skipped`) have at most 1,000 lines there; if one is cut, `counts` says how long each
was. The socket's directory must be one that agents cannot write."""

ANSWERED = {
    "own": "Of sessions that the user may read.",
    "filtered": "Without the sessions that the user may not read.",
    "granted": "Of what the setting `agent_read` names.",
    "everybody": "Always.",
}

CURL = """\
<!-- begins with make run -->
<!-- after mkdir -p sessions/demo && echo '# Findings' > sessions/demo/foundation.md -->

```console
$ curl -s -X POST --unix-socket sessions/.cachesync/control.sock http://localhost/v1/sessions/demo/flush
{"session":"demo","stored":true,"files":1,...}
```"""

OPTIONS = """\
Options go in the query; one that is not known is an error, and so is a body, but for `PUT`. Names and paths are
percent-encoded. Answers are the JSON of [the commands](cli.md), errors too; a report has the HTTP status 200 for exit
code 0, 409 for 1, 504 for 4."""

MCP = """\
`cachesync mcp` serves these. An argument that a tool does not have is refused. An error says what is wrong and what to
do. [Agents and MCP](../howto/agents.md) says how to connect a client, and
[for an agent's prompt](../agent-prompt.md) has the text for the agent."""

PYTHON = """\
`from cachesync import ArtifactStore, Client`. `Client` asks the daemon of a root; `ArtifactStore` needs neither a daemon
nor a root. Errors are leaves of `cachesync.errors.CacheSyncError`; each has `operation`, `path`, `cause`, `hint` and
`exit_code`. What is answered is frozen, and has the JSON of [the commands](cli.md) as `json()`.
[Python, pandas, duckdb](../howto/python.md) has examples."""

EVENTS = """\
`GET /v1/events` is a stream of server-sent events; a comment keeps it alive. A listener that is too slow loses the oldest
and gets an event `lost` with their `count`: ask for the status anew then. 32 may listen at once."""
