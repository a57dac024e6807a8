"""GET /metrics is true, cheap and bounded; documents, dashboard and alerts name what there is."""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cachesync import __version__
from cachesync.api.server import ControlServer
from cachesync.api.socket_address import connect
from cachesync.daemon.metrics_collector import WAIT, Measuring
from cachesync.journal.journal import Journal
from cachesync.model.events import Events
from cachesync.model.values import FileStat, Kind, Mark, QueueCounts
from cachesync.telemetry.activity import BOUNDS, Activity, Totals
from cachesync.telemetry.metrics import METRICS, CacheUse, Measures, Watching, render
from tests.promises.host import eventually

TOP = Path(__file__).resolve().parent.parent.parent
DASHBOARD = json.loads((TOP / "deploy" / "grafana-dashboard.json").read_text("utf-8"))
ALERTS = yaml.safe_load((TOP / "deploy" / "alerts.yaml").read_text("utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
NOW = 1_764_043_200.0
FULL = Measures(
    now=NOW,
    since=NOW - 60,
    totals=Totals(stored=3, bytes=30, latency=[1] * (len(BOUNDS) + 1), seconds=12.5),
    queue=QueueCounts(dirty=5, failed=2, oldest=NOW - 90, sessions=4, lost=1),
    unseen=6,
    in_flight=7,
    cache=CacheUse(8, 9, 10, 11),
    watching=Watching(healthy=True, root_ok=True, events=12, overflows=13, restarts=14, uncovered=15),
    listeners=16,
    events_lost=17,
    store_silent_for=18.5,
    credentials_expire_at=NOW + 600,
    credentials_ending=True,
)


def parsed(text):
    """Families by their names as they are in the text."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def numbers(text):
    """Each sample's number by its name and its labels, as ``name{a="b"}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            inside = ",".join(f'{label}="{of}"' for label, of in labels.items())
            found[f"{name}{{{inside}}}" if inside else name] = value
    return found


def ask(path, target="/metrics"):
    with connect(path, 10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read().decode()
        answer.close()
        return answer.status, answer.headers["Content-Type"], body


# -- what is rendered --------------------------------------------------------------------------------------------------


def test_every_metric_is_there_as_it_is_described_and_no_other():
    found = parsed(render(FULL).decode())
    assert set(found) == {name.removesuffix("_total") for name in METRICS}
    for name, told in METRICS.items():
        family = found[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (told.kind, told.help)
        labels: dict[str, set[str]] = {label: set() for label in told.labels}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    labels[label].add(value)
        assert {label: set(values) for label, values in told.labels.items()} == labels, name


def test_names_follow_prometheus():
    for name, told in METRICS.items():
        assert re.fullmatch(r"cachesync_[a-z_]+", name)
        assert name.endswith("_total") == (told.kind == "counter"), name
        if told.unit.startswith("seconds"):
            assert "_seconds" in name


def test_the_numbers_are_those_of_the_measures():
    found = numbers(render(FULL).decode())
    expected = {
        f'cachesync_build_info{{version="{__version__}"}}': 1,
        "cachesync_dirty_entries": 5, "cachesync_failed_entries": 2, "cachesync_oldest_dirty_seconds": 90,
        "cachesync_sessions": 4, "cachesync_lost_sessions": 1, "cachesync_unseen_paths": 6,
        "cachesync_in_flight_transfers": 7, "cachesync_cache_hits_total": 8, "cachesync_cache_misses_total": 9,
        "cachesync_cache_evictions_total": 10, "cachesync_cache_bytes": 11, "cachesync_watcher_events_total": 12,
        "cachesync_watcher_overflows_total": 13, "cachesync_watcher_restarts_total": 14,
        "cachesync_watcher_polled_directories": 15, "cachesync_event_listeners": 16,
        "cachesync_events_lost_total": 17, "cachesync_store_silent_seconds": 18.5,
        "cachesync_credentials_expire_seconds": 600, "cachesync_start_time_seconds": NOW - 60,
        'cachesync_uploads_total{outcome="stored"}': 3, "cachesync_uploaded_bytes_total": 30,
        "cachesync_close_to_stored_seconds_sum": 12.5, "cachesync_close_to_stored_seconds_count": len(BOUNDS) + 1,
        'cachesync_close_to_stored_seconds_bucket{le="0.005"}': 1,
        'cachesync_close_to_stored_seconds_bucket{le="300.0"}': len(BOUNDS),
        'cachesync_close_to_stored_seconds_bucket{le="+Inf"}': len(BOUNDS) + 1,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_what_is_not_known_is_left_out_and_not_a_zero():
    bare = Measures(
        now=NOW, since=NOW, totals=Totals(), queue=None, unseen=0, in_flight=0, cache=FULL.cache,
        watching=FULL.watching, listeners=0, events_lost=0, store_silent_for=None, credentials_expire_at=None,
        credentials_ending=False,
    )  # fmt: skip
    found = numbers(render(bare).decode())
    unknown = {"dirty_entries", "failed_entries", "oldest_dirty_seconds", "sessions", "lost_sessions"}
    assert not {f"cachesync_{name}" for name in (*unknown, "credentials_expire_seconds")} & set(found)
    assert found["cachesync_store_silent_seconds"] == 0


def test_the_classes_tell_five_milliseconds_from_five_minutes():
    assert (BOUNDS[0], BOUNDS[-1]) == (0.005, 300.0)
    assert list(BOUNDS) == sorted(set(BOUNDS))


# -- a daemon ----------------------------------------------------------------------------------------------------------


def test_a_daemon_tells_the_truth(host):
    host.start(scan_interval="1h")
    for number in range(4):
        host.write(f"secret-name-{number}", "x" * 1000)
    host.stored()
    os.utime(host.path("secret-name-0"), (1, 1))
    host.path("secret-name-1").unlink()
    host.foreign_put("secret-name-2", b"theirs")
    host.write("secret-name-2", "second")
    host.stored()
    with open(os.fsencode(host.root / "s1") + b"/\xff", "wb"):
        pass
    assert host.flush().code == 1
    assert host.run("cat", "s1/secret-name-3").code == 0
    status, kind, text = ask(host.state / "control.sock")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = numbers(text)
    expected = {
        'cachesync_uploads_total{outcome="stored"}': 5, 'cachesync_uploads_total{outcome="unchanged"}': 1,
        "cachesync_uploaded_bytes_total": 4006, "cachesync_deletions_total": 1, "cachesync_conflicts_total": 1,
        'cachesync_flushes_total{stored="true"}': 2, 'cachesync_flushes_total{stored="false"}': 1,
        "cachesync_close_to_stored_seconds_count": 5, "cachesync_dirty_entries": 1, "cachesync_failed_entries": 1,
        "cachesync_sessions": 1, "cachesync_watcher_up": 1, "cachesync_root_up": 1, "cachesync_lost_sessions": 0,
        "cachesync_store_silent_seconds": 0, "cachesync_scan_repairs_total": 0,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert found['cachesync_uploads_total{outcome="failed"}'] >= 1
    assert found["cachesync_oldest_dirty_seconds"] < 60
    assert abs(found["cachesync_start_time_seconds"] - time.time()) < 120
    for secret in ("secret-name", "s1", host.server.secret, host.server.key, str(host.root)):
        assert secret not in text


def test_a_closed_and_opened_session_counts_evictions_and_cache(host):
    host.start()
    host.write("a", b"x" * 100_000)
    assert host.run("close", "s1").code == 0
    for _ in range(2):
        assert host.run("cat", "s1/a").code == 0
    found = numbers(ask(host.state / "control.sock")[2])
    assert (found["cachesync_evicted_files_total"], found["cachesync_evicted_bytes_total"]) == (1, 100_000)
    assert found["cachesync_cache_misses_total"] >= 1
    assert found["cachesync_cache_hits_total"] >= 1
    assert found["cachesync_cache_bytes"] >= 100_000


def test_credentials_that_end_are_seen_ahead(host):
    until = time.gmtime(time.time() + 600)
    host.env["AWS_CREDENTIAL_EXPIRATION"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", until)
    host.env["AWS_SESSION_TOKEN"] = ""
    host.start()
    path = host.state / "control.sock"
    found = eventually(lambda: numbers(ask(path)[2]).get("cachesync_credentials_expire_seconds"), 20)
    assert 500 < found < 601
    assert numbers(ask(path)[2])["cachesync_credentials_ending"] == 1
    notes = eventually(lambda: host.run("status", "--json").json["notes"], 10)
    (note,) = [note for note in notes if "credentials" in note]
    assert "from env" in note
    assert "not being renewed" in note or "cannot be renewed" in note
    assert "credentials" in host.run("status").out
    assert host.said().count("the store's credentials") == 1
    assert host.server.secret not in note


def test_credentials_that_renew_themselves_are_not_complained_of(host):
    """A process hands out credentials for five minutes at first, and for an hour when it is asked again."""
    program = host.folder / "hand-out"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, time\n"
        f"first = not os.path.exists({str(host.folder / 'asked')!r})\n"
        f"open({str(host.folder / 'asked')!r}, 'a').write('x')\n"
        "until = time.gmtime(time.time() + (300 if first else 3600))\n"
        "until = time.strftime('%Y-%m-%dT%H:%M:%SZ', until)\n"
        "handed = {'AccessKeyId': os.environ['HANDED_KEY'], 'SecretAccessKey': os.environ['HANDED_SECRET']}\n"
        "print(json.dumps(handed | {'Version': 1, 'SessionToken': '', 'Expiration': until}))\n"
    )
    program.chmod(0o700)
    config = host.folder / "aws-config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    del host.env["AWS_ACCESS_KEY_ID"], host.env["AWS_SECRET_ACCESS_KEY"]
    host.env |= {
        "AWS_CONFIG_FILE": str(config), "HANDED_KEY": host.server.key, "HANDED_SECRET": host.server.secret,
    }  # fmt: skip
    host.start()
    path = host.state / "control.sock"
    left = eventually(lambda: numbers(ask(path)[2]).get("cachesync_credentials_expire_seconds", 0) > 3000, 30)
    assert left
    assert numbers(ask(path)[2])["cachesync_credentials_ending"] == 0
    assert not [note for note in host.run("status", "--json").json["notes"] if "credentials" in note]
    assert "the store's credentials" not in host.said()


# -- a million entries -------------------------------------------------------------------------------------------------


def fill(path, entries, *, dirty):
    """A journal of so many files, put in place by SQL: the API would take minutes."""
    journal = Journal(path)
    journal.sessions.add("s", 0.0)
    stat = FileStat(Kind.FILE, 1, 1, 1, 1, 0o644)
    journal.entries.mark("s", [Mark("first", stat, 5.0)], 1000.0)
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO entry (session, dir, name, kind, born, generation, synced, size, mtime_ns, ctime_ns, inode,"
            " mode, created_at, dirty_since, due_at, etag, failed)"
            " SELECT 1, CAST('d' || i / 100 AS BLOB), CAST('f-' || i AS BLOB), 'file', 1, 1, ?, 1, i, i, i, 420, 0,"
            " 2000, 5 + i, 'e', i <= 10 FROM n",
            (entries - 1, 0 if dirty else 1),
        )
        db.commit()
    return Journal(path)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("dirty", [False, True], ids=["stored", "dirty"])
def test_a_scrape_of_a_million_entries_takes_less_than_a_second(tmp_path, dirty, record_property):
    journal = fill(tmp_path / "journal.db", 1_000_000, dirty=dirty)
    take = measuring(journal.queue)
    try:
        scrapes = []

        def scrape():
            begun = time.perf_counter()
            counts = take._queue()
            scrapes.append(time.perf_counter() - begun)
            return counts

        counts = eventually(scrape, 60)
        begun = time.perf_counter()
        assert journal.queue.counts(60.0) == counts
        record_property("count", time.perf_counter() - begun)
    finally:
        journal.close()
    record_property("scrapes", scrapes)
    assert counts == (QueueCounts(1_000_000, 10, 1000.0, 1, 0) if dirty else QueueCounts(1, 0, 1000.0, 1, 0))
    assert max(scrapes) < 1.0


def test_a_count_ends_by_its_limit_and_others_write_meanwhile(tmp_path):
    journal = fill(tmp_path / "journal.db", 200_000, dirty=True)
    try:
        begun = time.perf_counter()
        assert journal.queue.counts(0.005) is None
        assert time.perf_counter() - begun < 0.5
        done = []
        counting = threading.Thread(target=lambda: done.append(journal.queue.counts(60.0)))
        counting.start()
        journal.entries.mark("s", [Mark("new", FileStat(Kind.FILE, 1, 1, 1, 9, 0o644), 5.0)], 3000.0)
        counting.join()
        assert done[0].dirty in (200_000, 200_001)
    finally:
        journal.close()


def test_a_journal_that_cannot_be_read_is_no_error(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    journal.close()
    (tmp_path / "journal.db").unlink()
    assert journal.queue.counts(1.0) is None


class SlowQueue:
    """Counts that take ``cost`` seconds and say how many there were; or fail."""

    def __init__(self, cost):
        self.cost = cost
        self.asked = 0
        self.failing = False

    def counts(self, _limit):
        self.asked += 1
        time.sleep(self.cost)
        return None if self.failing else QueueCounts(self.asked, 0, None, 1, 0)


def measuring(queue):
    engine = SimpleNamespace(journal=SimpleNamespace(queue=queue))
    return Measuring(engine, SimpleNamespace(), NOW, SimpleNamespace())  # type: ignore[arg-type]


def test_a_cheap_count_is_made_each_time():
    take = measuring(SlowQueue(0.0))
    assert [take._queue().dirty for _ in range(3)] == [1, 2, 3]


def test_a_dear_count_is_believed_for_a_while():
    queue = SlowQueue(0.05)
    take = measuring(queue)
    begun = time.monotonic()
    assert [take._queue().dirty for _ in range(20)] == [1] * 20
    eventually(lambda: take._queue().dirty == 2)
    assert time.monotonic() - begun >= 0.5
    assert queue.asked == 2


def test_nobody_waits_for_one_that_takes_long_and_it_is_shown_when_it_ends():
    queue = SlowQueue(2 * WAIT)
    take = measuring(queue)
    begun = time.monotonic()
    assert [take._queue() for _ in range(1)] == [None]
    assert time.monotonic() - begun < 1.5 * WAIT
    assert eventually(take._queue).dirty == 1
    assert queue.asked == 1, "one at a time"


def test_one_that_fails_leaves_the_last_one():
    queue = SlowQueue(0.0)
    take = measuring(queue)
    assert take._queue().dirty == 1
    queue.failing = True
    assert [take._queue().dirty for _ in range(3)] == [1] * 3


# -- without the library -----------------------------------------------------------------------------------------------


def test_without_the_library_the_answer_is_501_and_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    verbs = SimpleNamespace(events=Events(), activity=Activity(time.time), measure=lambda: FULL, pending=list)
    path = tmp_path / "c.sock"
    server = ControlServer(verbs, path, None, ready=bool, live=bool)
    server.start()
    try:
        status, _, body = ask(path)
    finally:
        server.stop()
    assert status == 501
    assert json.loads(body)["error"]["hint"] == "pip install prometheus-client"


def test_no_command_pays_for_it():
    code = "import sys; from cachesync.cli import main; main(['--version']); print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# -- documents, dashboard, alerts --------------------------------------------------------------------------------------


def test_the_document_has_every_metric():
    text = (TOP / "docs" / "metrics.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `cachesync_")]
    expected = []
    for name, told in METRICS.items():
        values = {label: "the version" if label == "version" else ", ".join(of) for label, of in told.labels.items()}
        labels = "; ".join(f"`{label}`: {of}" for label, of in values.items())
        expected.append(f"| `{name}` | {told.kind} | {told.unit} | {labels} | {told.help} |")
    assert rows == expected


def expressions():
    """Every PromQL expression of the dashboard and the alerts, with Grafana's variables filled in."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    found += [note["expr"] for note in DASHBOARD["annotations"]["list"]]
    found += [rule["expr"] for rule in RULES]
    return [text.replace("$__rate_interval", "5m").replace("$instance", ".*") for text in found]


def series():
    """Every name that a query may use, and its labels."""
    found = {"up": {"job", "instance"}}
    for name, told in METRICS.items():
        labels = {*told.labels, "instance", "job"}
        if told.kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


@pytest.mark.parametrize("expression", expressions())
def test_queries_ask_for_what_there_is(expression):
    known = series()
    names = set(re.findall(r"\b(?:cachesync_\w+|up)\b(?!\s*\()", re.sub(r'"[^"]*"', '""', expression)))
    assert names
    assert names <= set(known)
    for name, inside in re.findall(r"(\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) <= known[name]
    allowed = set().union(*(known[name] for name in names))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= allowed
    for name in names:
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert re.search(rf"(?:rate|increase)\({name}", expression), "a counter is of use by its rate only"
    assert expression.count("(") == expression.count(")")


def test_every_metric_has_a_panel():
    shown = " ".join(expressions())
    assert not [name for name in METRICS if name not in shown and name != "cachesync_build_info"]
    assert "cachesync_build_info" in json.dumps(DASHBOARD["templating"])


def test_the_dashboard_is_one_that_grafana_takes():
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies over another one"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule):
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Cachesync[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
    assert {"summary", "description"} == rule["annotations"].keys()


def test_there_is_an_alert_for_each_danger():
    asked = " ".join(rule["expr"] for rule in RULES)
    for name in (
        "up", "cachesync_oldest_dirty_seconds", "cachesync_failed_entries", "cachesync_credentials_ending",
        "cachesync_scan_repairs_total", "cachesync_store_silent_seconds", "cachesync_watcher_up",
        "cachesync_lost_sessions",
    ):  # fmt: skip
        assert re.search(rf"\b{name}\b", asked)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


@pytest.fixture
def prometheus(tmp_path):
    """A real Prometheus, which has the alerts as its rules and scrapes what we render; its address."""
    program = shutil.which("prometheus")
    if program is None:
        if os.environ.get("PROMETHEUS_TESTS") == "required":
            pytest.fail("no prometheus: apt-get install prometheus")
        pytest.skip("needs Debian's prometheus")

    class Target(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(render(FULL))

        def log_message(self, *_):
            pass

    target = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
    threading.Thread(target=target.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(TOP / "deploy" / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": "cachesync", "static_configs": [{"targets": [f"127.0.0.1:{target.server_port}"]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    words = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def query(path, **asked):
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def ready():
        assert process.poll() is None, (tmp_path / "log").read_text()
        with contextlib.suppress(OSError):
            return query("query", query="cachesync_dirty_entries")["result"]
        return None

    try:
        eventually(ready, 40, "it has scraped once")
        yield query
    finally:
        process.terminate()
        process.wait(20)
        target.shutdown()
        target.server_close()


@pytest.mark.timeout(120)
def test_a_real_prometheus_takes_metrics_queries_and_alerts(prometheus):
    for expression in expressions():
        prometheus("query", query=expression)
    for name, told in METRICS.items():
        asked = f"{name}_count" if told.kind == "histogram" else name
        assert prometheus("query", query=asked)["result"], name

    def firing():
        groups = prometheus("rules")["groups"]
        states = {rule["name"]: (rule["state"], rule["health"]) for group in groups for rule in group["rules"]}
        assert set(states) == {rule["alert"] for rule in RULES}
        assert all(health == "ok" for _, health in states.values()), states
        return {name for name, (state, _) in states.items() if state != "inactive"}

    expected = {"CachesyncFailed", "CachesyncLost", "CachesyncPolling", "CachesyncCredentialsEnd"}
    eventually(lambda: expected <= firing(), 30)
    assert not {"CachesyncDown", "CachesyncNotWatching", "CachesyncStoreSilent"} & firing()
