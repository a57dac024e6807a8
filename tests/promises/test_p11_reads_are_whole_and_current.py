"""P11: local file, cache, store; one version, whole and verified; and the store's silence is no "not found"."""

from __future__ import annotations

import os

import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host
from tests.promises.line import Line

S = "s1"
MIB = 1024 * 1024


def cat(host: Host, address: str) -> tuple[int, bytes, str]:
    done = host.run("cat", address)
    return done.code, done.out.encode(), done.err


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "alone"])
def test_p11_what_is_closed_is_read_the_second_time_from_the_cache(wired: Host, line: Line, running: bool):  # noqa: FBT001
    text = "x" * (5 * MIB)
    (wired.root / S).mkdir()
    (wired.root / S / "a").write_text(text)
    assert wired.run("close", S).code == 0
    if running:
        wired.start()
    assert cat(wired, f"{S}/a") == (0, text.encode(), "")
    before = line.answered
    assert cat(wired, f"{S}/a") == (0, text.encode(), "")
    assert line.answered - before < MIB, "the bytes came over the line again"


def test_p11_what_another_host_stored_is_seen(make_host: MakeHost):
    one, two = make_host("one"), make_host("two", env={"CACHESYNC_REVALIDATE": "0s"})
    (one.root / S).mkdir()
    (one.root / S / "a").write_text("first")
    assert one.run("flush", S).code == 0
    two.start()
    assert cat(two, f"{S}/a")[1] == b"first"
    (one.root / S / "a").write_text("second")
    assert one.run("flush", S).code == 0
    assert cat(two, f"{S}/a")[1] == b"second"
    (one.root / S / "a").unlink()
    assert one.run("flush", S).code == 0
    assert cat(two, f"{S}/a")[0] == 3


def test_p11_the_local_file_comes_first(host: Host):
    host.start()
    (host.root / S).mkdir()
    (host.root / S / "a").write_text("stored")
    assert host.run("flush", S).code == 0
    (host.root / S / "a").write_text("not yet")
    assert cat(host, f"{S}/a")[1] == b"not yet"
    (host.root / S / "a").unlink()
    assert cat(host, f"{S}/a")[0] == 3


def test_p11_in_an_outage_the_cache_is_served_and_nothing_is_called_missing(make_host: MakeHost, line: Line):
    one = make_host("one")
    (one.root / S).mkdir()
    for name in ("read", "unread"):
        (one.root / S / name).write_text(name)
    assert one.run("close", S).code == 0
    two = make_host(
        "two", env={"S3_ENDPOINT": line.endpoint, "CACHESYNC_REVALIDATE": "0s", "CACHESYNC_TRANSFER_TIMEOUT": "2s"}
    )
    two.start()
    assert cat(two, f"{S}/read") == (0, b"read", "")
    line.cut()
    code, out, err = cat(two, f"{S}/read")
    assert (code, out) == (0, b"read")
    assert "unverified" in err or "not be asked" in err, err
    for name in ("unread", "never-there"):
        code, out, err = cat(two, f"{S}/{name}")
        assert (code, out) == (4, b""), err
    line.mend()
    assert cat(two, f"{S}/unread") == (0, b"unread", "")
    assert cat(two, f"{S}/never-there")[0] == 3


def test_p05_wrong_bytes_are_an_error(host: Host):
    """The object is another one with the first one's metadata; then verify and cat both say so."""
    (host.root / S).mkdir()
    (host.root / S / "a").write_bytes(os.urandom(3 * MIB))
    (host.root / S / "b").write_text("fine")
    assert host.run("close", S).code == 0
    assert host.run("verify", S).code == 0
    host.s3.put_object(Bucket=host.bucket, Key=f"sessions/{S}/a", Body=os.urandom(3 * MIB))
    host.s3.delete_object(Bucket=host.bucket, Key=f"sessions/{S}/b")
    done = host.run("verify", S, "--json")
    assert done.code == 1
    assert sorted(row["path"] for row in done.json["differences"]) == ["a", "b"]


def test_p11_a_host_without_a_root_reads_what_the_store_has(make_host: MakeHost):
    one, two = make_host("one"), make_host("two")
    one.keep_versions()
    one.write("dir/a", "bytes")
    assert one.run("flush", S).code == 0
    two.root.rmdir()
    assert two.run("ls").out == f"{S}/\n"
    assert two.run("ls", f"{S}/dir/").out == "a\n"
    assert two.run("cat", f"{S}/dir/a").out == "bytes"
    assert two.run("get", f"{S}/dir/a", str(two.folder / "got")).code == 0
    assert (two.folder / "got").read_text() == "bytes"
    assert two.run("url", f"{S}/dir/a").out.startswith("http")
    assert "latest" in two.run("history", f"{S}/dir/a").out
    assert two.run("verify", S).code == 0
    assert two.run("cat", f"{S}/none").code == two.run("verify", "ghost").code == 3
    assert not two.root.exists()


def test_p11_a_root_that_is_missing_is_no_empty_one(host: Host):
    state = host.folder / "state"
    host.env["CACHESYNC_STATE"] = str(state)
    host.write("a", "stored")
    assert host.run("flush", S).code == 0
    host.root.rename(host.folder / "unmounted")
    done = host.run("cat", f"{S}/a")
    assert (done.code, "open the root" in done.err) == (2, True)
