"""``cachesync bucket`` as an operator runs it: plan, init, check, policies; lines, JSON, exit codes."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path

import pytest

from tests.promises.host import Host
from tests.servers import SeaweedServer

pytestmark = pytest.mark.s3

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/bucket.md").read_text("utf-8")


@pytest.fixture
def empty(host: Host) -> Host:
    """A host whose store names a bucket that nobody made."""
    host.env["CACHESYNC_STORE"] = f"s3://{host.bucket}-new/agents"
    return host


def states(settings: list[dict[str, str]], state: str) -> set[str]:
    return {row["setting"] for row in settings if row["state"] == state}


def test_init_on_an_empty_server_and_then_check_is_clean(empty: Host):
    plan = empty.run("bucket", "init", "--json")
    assert (plan.code, plan.json["applied"]) == (0, False)
    assert "bucket" in states(plan.json["settings"], "differs")
    assert empty.run("bucket", "check").code == 3
    done = empty.run("bucket", "init", "--apply", "--json")
    assert (done.code, done.json["applied"]) == (0, True)
    changed = {"bucket", "encryption", "versioning", "unfinished uploads", "past versions", "logs"}
    assert states(done.json["settings"], "set") == changed
    assert states(done.json["settings"], "unsupported") == {"public access"}
    checked = empty.run("bucket", "check", "--json")
    assert (checked.code, states(checked.json["settings"], "differs")) == (0, set())
    again = empty.run("bucket", "init", "--apply", "--json")
    assert (again.code, states(again.json["settings"], "set")) == (0, set())
    # The daemon works in it, and its logs are what the rule looks for.
    empty.write("logs/agent.jsonl", "{}")
    empty.write("a.txt", "1")
    assert empty.flush("s1").code == 0
    new = {"Bucket": f"{empty.bucket}-new"}
    tags = {
        name: empty.s3.get_object_tagging(**new, Key=f"agents/sessions/s1/{name}")["TagSet"]
        for name in ("logs/agent.jsonl", "a.txt")
    }
    assert tags == {"logs/agent.jsonl": [{"Key": "kind", "Value": "log"}], "a.txt": []}


def test_check_names_what_was_changed(empty: Host):
    assert empty.run("bucket", "init", "--apply").code == 0
    new = {"Bucket": f"{empty.bucket}-new"}
    empty.s3.put_bucket_versioning(**new, VersioningConfiguration={"Status": "Suspended"})
    done = empty.run("bucket", "check")
    assert done.code == 1
    lines = done.out.splitlines()
    (line,) = (number for number, line in enumerate(lines) if line.startswith("differs"))
    assert lines[line].split()[1:] == ["versioning", "Suspended", "->", "Enabled"]
    assert "why: " in lines[line + 1]
    assert "mend: cachesync bucket init --apply" in lines[line + 2]
    assert lines[-1] == "1 difference, 0 refused"


def test_a_plan_in_lines_changes_nothing(host: Host):
    done = host.run("bucket", "init")
    assert done.code == 0
    assert re.search(r"^differs +versioning +off -> Enabled$", done.out, re.MULTILINE)
    assert re.search(r"^left out +TLS only +no policy\n.*plain http", done.out, re.MULTILINE)
    assert re.search(r"^unsupported +public access +unknown\n +this store does not", done.out, re.MULTILINE)
    assert "nothing was" in done.out
    assert "Status" not in host.s3.get_bucket_versioning(Bucket=host.bucket)
    assert host.run("bucket", "check").code == 1
    applied = host.run("bucket", "init", "--apply", "--log-days", "5")
    assert (applied.code, applied.out.splitlines()[-1]) == (0, "5 settings changed, 0 refused")
    assert host.run("bucket", "check", "--log-days", "5").code == 0
    assert host.run("bucket", "check").code == 1


def test_the_bucket_of_a_development_server(host: Host, seaweed: SeaweedServer):
    done = host.run("bucket", "init", "--dev-server", str(seaweed.folder), "--json")
    assert done.code == 0
    assert done.json["bucket"] == host.bucket


@pytest.mark.parametrize("of", [(), ("daemon",), ("session", "s1"), ("cloudwatch",)])
def test_a_policy_is_json_and_asks_nobody(host: Host, of: tuple[str, ...]):
    host.env["S3_ENDPOINT"] = "http://127.0.0.1:1"
    done = host.run("bucket", "policy", *of)
    assert done.code == 0
    statements = json.loads(done.out)["Statement"]
    resources = [resource for row in statements for resource in row["Resource"]]
    if of == ("cloudwatch",):
        assert resources == ["*"]
    else:
        assert all(resource.startswith(f"arn:aws:s3:::{host.bucket}") for resource in resources)
    if of == ("session", "s1"):
        assert f"arn:aws:s3:::{host.bucket}/sessions/s1/*" in resources


@pytest.mark.parametrize(
    "words",
    [
        ("bucket",),
        ("bucket", "make"),
        ("bucket", "init", "more"),
        ("bucket", "check", "--apply"),
        ("bucket", "policy", "--apply"),
        ("bucket", "policy", "root"),
        ("bucket", "policy", "session"),
        ("bucket", "policy", "session", "../s"),
        ("bucket", "init", "--log-days", "-1"),
        ("bucket", "init", "--log-days", "x"),
        ("bucket", "init", "--store", "file:///tmp"),
    ],
    ids=" ".join,
)
def test_words_that_are_not_allowed(host: Host, words: tuple[str, ...]):
    done = host.run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("cachesync: ")


def test_a_bucket_that_logs_into_itself(host: Host):
    assert host.run("bucket", "init", "--log-bucket", host.bucket).code == 2


def test_the_json_is_as_the_document_shows(host: Host):
    (shown,) = re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[:1]
    example = json.loads(shown)
    real = host.run("bucket", "check", "--json").json
    assert list(example) == list(real)
    assert all(list(row) == list(real["settings"][0]) for row in example["settings"])
    told = {re.sub(r"[`*]", "", row.split("|")[1]).strip() for row in DOCUMENT.splitlines() if row.startswith("| ")}
    assert {row["setting"] for row in real["settings"]} <= told


def test_a_log_that_expired_is_missed_and_can_be_brought_back(host: Host):
    assert host.run("bucket", "init", "--apply").code == 0
    host.write("logs/agent.jsonl", "{}")
    host.write("a.txt", "1")
    assert host.run("close", "s1").code == 0
    # What the rule does after 30 days: it leaves a deletion mark.
    with contextlib.closing(sqlite3.connect(host.state / "journal.db")) as db:
        db.execute("UPDATE entry SET stored_at = stored_at - 30 * 86400")
        db.commit()
    host.s3.delete_object(Bucket=host.bucket, Key="sessions/s1/logs/agent.jsonl")
    assert "agent.jsonl" not in host.run("ls", "-R", "s1").out
    verified = host.run("verify", "s1", "--json")
    assert (verified.code, [row["path"] for row in verified.json["differences"]]) == (1, ["logs/agent.jsonl"])
    opened = host.run("open", "s1", "--json")
    assert (opened.code, opened.json["files"]) == (0, 1)
    assert host.run("restore", "s1/logs/agent.jsonl").code == 0
    assert host.run("cat", "s1/logs/agent.jsonl").out == "{}"
