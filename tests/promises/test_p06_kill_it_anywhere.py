"""P6: after SIGKILL at any instruction the next start finds and finishes the work."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from tests.promises.host import Host, eventually


@pytest.mark.timeout(120)
def test_p06_killed_in_the_middle_of_3000_writes(host: Host):
    host.start()
    started = threading.Event()

    def work() -> None:
        for number in range(3000):
            host.write(f"d{number % 30}/f{number}", f"content of {number} " * (number % 40))
            if number == 1000:
                started.set()

    writer = threading.Thread(target=work)
    writer.start()
    started.wait()
    host.kill()
    at_death = len(host.keys())
    writer.join()
    host.start()
    host.stored(timeout=60)
    assert host.objects() == host.local()
    assert at_death < 3000


@pytest.mark.timeout(120)
def test_p06_killed_again_and_again_under_a_busy_writer(host: Host):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"d{chance.randrange(4)}/f{chance.randrange(40)}"
            path = host.path(name)
            match chance.randrange(5):
                case 0 if path.exists():
                    path.unlink()
                case 1 if path.exists():
                    path.rename(host.write(f"d{chance.randrange(4)}/g{chance.randrange(40)}"))
                case 2 if path.exists():
                    with open(path, "ab") as file:
                        file.write(b"more")
                case _:
                    host.write(name, f"{number}" * chance.randrange(200))
            time.sleep(0.002)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(5):
            host.start()
            time.sleep(chance.random() * 1.5)
            host.kill()
    finally:
        stop.set()
        writer.join()
    host.start()
    told = host.stored(timeout=40)
    assert told["conflicts"] == []
    assert host.objects() == host.local()
    assert {path for path, row in host.listed().items() if row["type"] == "file"} == set(host.local())


@pytest.mark.timeout(90)
def test_p06_killed_in_the_middle_of_a_large_file(host: Host):
    data = os.urandom(50 * 1024 * 1024)
    host.write("big.bin", data)
    host.start(bandwidth="20MiB")
    uploads = host.s3.list_multipart_uploads
    eventually(lambda: uploads(Bucket=host.bucket).get("Uploads"), 10)
    time.sleep(1.0)
    host.kill()
    assert host.object("big.bin") is None
    host.start()
    told = host.stored(timeout=40)
    assert told["conflicts"] == []
    assert host.object("big.bin") == data
    assert not uploads(Bucket=host.bucket).get("Uploads")


def test_p06_an_upload_that_nobody_needs_any_more_is_given_up(host: Host):
    host.write("big.bin", os.urandom(50 * 1024 * 1024))
    host.write("small", "1")
    host.start(bandwidth="20MiB")
    uploads = host.s3.list_multipart_uploads

    def has_part() -> bool:
        """A part is there: so the upload is in the journal, whoever is killed now."""
        found = uploads(Bucket=host.bucket).get("Uploads", ())
        asked = ({"Bucket": host.bucket, "Key": each["Key"], "UploadId": each["UploadId"]} for each in found)
        return any(host.s3.list_parts(**each).get("Parts") for each in asked)

    eventually(has_part)
    host.kill()
    host.path("big.bin").unlink()
    host.start()
    host.stored()
    assert host.keys() == {"small"}
    eventually(lambda: not uploads(Bucket=host.bucket).get("Uploads"))


def test_p06_changes_while_nobody_watched_are_found(host: Host):
    for name in ("same", "changed", "grown", "gone", "moved", "d/moved-too", "to-link", "to-dir"):
        host.write(name, f"{name} before")
    host.start()
    host.stored()
    host.kill()
    host.write("changed", "changed AFTER.")
    with open(host.path("grown"), "ab") as file:
        file.write(b" and after")
    host.path("gone").unlink()
    host.path("moved").rename(host.path("moved-here"))
    host.path("d").rename(host.path("e"))
    host.path("to-link").unlink()
    host.path("to-link").symlink_to("same")
    host.path("to-dir").unlink()
    host.write("to-dir/file", "in it")
    host.start()
    host.stored()
    assert host.objects() == host.local()
    assert host.listed()["to-link"]["target"] == "same"


def test_p06_flush_alone_finishes_what_a_killed_daemon_left(host: Host):
    host.start()
    for number in range(300):
        host.write(f"f{number}", f"{number}")
    host.kill()
    host.stored()
    assert host.objects() == host.local()


def test_p06_killed_during_the_last_flush(host: Host):
    """The manifest in the store never lists what the store does not have."""
    host.start()
    for round_ in range(4):
        for number in range(40):
            host.write(f"f{number}", f"{round_}.{number}")
        flush = threading.Thread(target=lambda: host.flush(timeout=5))
        flush.start()
        time.sleep(0.25 + round_ * 0.1)
        host.kill()
        flush.join()
        if host.manifest() is not None:
            assert {row["path"] for row in host.manifest()["entries"]} <= host.keys()
        host.start()
    host.stored()
    assert host.objects() == host.local()
    for path, row in host.listed().items():
        assert row["version"] == host.head(path)["ETag"].strip('"')
