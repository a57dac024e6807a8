"""``cachesync cost`` as an operator runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.promises.host import Host
from tests.servers import SeaweedServer

pytestmark = pytest.mark.s3

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/bucket.md").read_text("utf-8")


def test_the_design_notes_example_asks_nobody(host: Host):
    host.env["S3_ENDPOINT"] = "http://127.0.0.1:1"
    done = host.run("cost", "--sessions", "1000", "--artifacts", "10", "--size", "50KB")
    assert done.code == 0
    (standard,) = (line for line in done.out.splitlines() if line.startswith("S3 Standard "))
    assert standard.split()[2:] == ["0.01", "0.05", "0.02", "0.08"]
    assert "10,000 PUT and 50,000 GET requests" in done.out
    assert host.run("cost", "--sessions", "1000", "--json").json["costs"][0]["total"] == pytest.approx(0.0815)


def test_what_is_in_the_bucket_is_counted(host: Host, seaweed: SeaweedServer):
    host.keep_versions()
    host.s3.put_object(Bucket=host.bucket, Key="of-others", Body=b"x" * 1000)
    for body in (b"12345", b"123"):
        host.s3.put_object(Bucket=host.bucket, Key="sessions/s/a", Body=body)
    host.s3.put_object(Bucket=host.bucket, Key="projects/p/b", Body=b"12")
    host.s3.delete_object(Bucket=host.bucket, Key="projects/p/b")
    done = host.run("cost", "--json")
    assert done.code == 0
    counts = {name: done.json[name] for name in ("objects", "stored", "bytes", "puts", "gets")}
    assert counts == {"objects": 1, "stored": 3, "bytes": 10, "puts": 3, "gets": None}
    lines = host.run("cost", "--dev-server", str(seaweed.folder)).out
    assert lines.startswith("1 object and 2 past versions, 10 B; in a month 3 PUT and uncounted GET requests\n")


@pytest.mark.parametrize(
    "words",
    [("--sessions", "-1"), ("--sessions", "many"), ("--size", "big"), ("--store", "file:///tmp")],
    ids=" ".join,
)
def test_words_that_are_not_allowed(host: Host, words: tuple[str, ...]):
    done = host.run("cost", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("cachesync: ")


def test_a_bucket_that_is_not_there(host: Host):
    assert host.run("cost", "--store", "s3://no-such-bucket").code == 3


def test_the_json_is_as_the_document_shows(host: Host):
    (shown,) = (
        text for text in re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL) if '"costs"' in text
    )
    example, real = json.loads(shown), host.run("cost", "--sessions", "1000", "--json").json
    assert example == real
