"""P4: what is stored is what the file held at one moment."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from string import ascii_uppercase

import pytest

from tests.promises.host import Host, eventually

MIB = 1024 * 1024


@contextmanager
def _in_background(step: Callable[[int], None]) -> Iterator[None]:
    """``step(0)``, ``step(1)``, ... in a thread, without a pause of ours."""
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for number in itertools.count():
                if stop.is_set():
                    return
                step(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if wrong:
        raise wrong[0]


def _of_one_moment(data: bytes) -> bool:
    """Of a file that is overwritten from its start, pass for pass, with the next letter of the alphabet each time: one
    letter, or the pass under way and what is left of the one before."""
    runs = _letters(data)
    if len(runs) == 1:
        return True
    return len(runs) == 2 and (ascii_uppercase.index(runs[1]) + 1) % 26 == ascii_uppercase.index(runs[0])


def _letters(data: bytes) -> list[str]:
    """The letters of the runs of equal bytes, fast for few runs."""
    letters: list[str] = []
    at = 0
    while at < len(data) and len(letters) < 5:
        letter = data[at : at + 1]
        letters.append(letter.decode())
        rest = data[at:].lstrip(letter)
        at = len(data) - len(rest)
    return letters


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [3 * MIB, 20 * MIB], ids=["whole", "multipart"])
def test_p04_a_file_that_is_overwritten_all_the_time_is_never_torn(host: Host, size: int):
    host.keep_versions()
    path = host.write("torn.bin", b"Z" * size)
    host.start(max_dirty_age="0.5s")

    def step(number: int) -> None:
        chunk = ascii_uppercase[number % 26].encode() * (256 * 1024)
        with open(path, "r+b", buffering=0) as file:
            for at in range(0, size, len(chunk)):
                os.pwrite(file.fileno(), chunk, at)
        if number % 5 == 4:
            time.sleep(0.15)  # long enough for somebody who is quick

    answers = []
    with _in_background(step):
        until = time.monotonic() + 6
        while time.monotonic() < until:
            answers.append(host.flush(timeout=2))
    for done in answers:
        assert done.code in (0, 4), done.out
        assert done.json["pending"] or done.code == 0
    host.stored()
    assert host.object("torn.bin") == path.read_bytes()
    versions = host.versions("torn.bin")
    assert versions
    for body in versions:
        assert len(body) == size
        assert _of_one_moment(body), _letters(body)


def test_p04_a_file_that_is_truncated_and_rewritten_is_never_torn(host: Host):
    host.keep_versions()
    path = host.write("torn.bin", b"")
    host.start()

    def step(number: int) -> None:
        with open(path, "wb", buffering=0) as file:
            for _ in range(16):
                file.write(ascii_uppercase[number % 26].encode() * 65536)
        time.sleep(0.01)

    with _in_background(step):
        for _ in range(6):
            assert host.flush(timeout=2).code in (0, 4)
    host.stored()
    assert host.object("torn.bin") == path.read_bytes()
    for body in host.versions("torn.bin"):
        assert len(_letters(body)) <= 1


@pytest.mark.timeout(90)
def test_p04_a_file_overwritten_while_it_is_sent_in_parts_is_never_torn(host: Host):
    """A slow line leaves all the time there is to change the file between its parts."""
    host.keep_versions()
    size = 34 * MIB
    path = host.write("big.bin", b"A" * size)
    host.start(bandwidth="20MiB")
    time.sleep(0.7)
    with open(path, "r+b") as file:
        file.seek(size - MIB)
        file.write(b"B" * MIB)
    time.sleep(0.5)
    path.write_bytes(b"C" * size)
    host.stored(timeout=40)
    assert host.object("big.bin") == b"C" * size
    for body in host.versions("big.bin"):
        assert body in (b"A" * size, b"A" * (size - MIB) + b"B" * MIB, b"C" * size)
    assert "Uploads" not in host.s3.list_multipart_uploads(Bucket=host.bucket)


def test_p04_a_growing_file_is_stored_as_a_prefix(host: Host):
    host.keep_versions()
    host.start(max_dirty_age="0.3s")
    path = host.write("grow.bin", b"")
    with open(path, "ab", buffering=0) as file:

        def step(number: int) -> None:
            file.write(b"%07d\n" % number * 64)
            time.sleep(0.0005)

        with _in_background(step):
            sizes = []
            for _ in range(5):
                before = os.path.getsize(path)
                host.stored()
                sizes.append((before, len(host.object("grow.bin") or b"")))
    host.stored()
    whole = path.read_bytes()
    assert host.object("grow.bin") == whole
    versions = host.versions("grow.bin")
    assert len(versions) >= 5
    for body in versions:
        assert whole.startswith(body)
    for before, after in sizes:
        assert after >= before, "flush said stored, and less was stored than there was when it began"


def test_p04_a_jsonl_with_an_open_writer_ends_at_a_line_end(host: Host):
    host.start(max_dirty_age="0.5s")
    path = host.write("log.jsonl", '{"n": 0}\n')
    with open(path, "ab", buffering=0) as file:
        file.write(b'{"n": 1}\n{"n": ')
        eventually(lambda: host.object("log.jsonl") == b'{"n": 0}\n{"n": 1}\n')
        for number in range(2, 30):
            file.write(b'%d}\n{"n": ' % number)
            body = host.object("log.jsonl")
            assert body is not None
            assert body.endswith(b"\n"), body
            time.sleep(0.05)
        host.stored()
        assert host.object("log.jsonl") == path.read_bytes(), "a flush stores the partial line too"
        file.write(b"30}\n")
        file.write(b'{"n": 31')
    eventually(lambda: host.object("log.jsonl") == path.read_bytes(), what="the rest when it is closed")
    assert path.read_bytes().endswith(b'{"n": 31')


def test_p04_a_jsonl_with_two_writers_ends_at_a_line_end(host: Host):
    """That one of them closed it does not say that the line is finished."""
    host.keep_versions()
    host.start(max_dirty_age="0.5s")
    path = host.write("log.jsonl", "")
    with open(path, "ab", buffering=0) as slow:
        slow.write(b"begun by one, ")
        with open(path, "ab", buffering=0) as quick:
            quick.write(b"... and this by the other\nnot yet")
        time.sleep(1.5)
        slow.write(b" finished\n")
        eventually(lambda: host.object("log.jsonl") == path.read_bytes())
    for body in host.versions("log.jsonl"):
        assert body == b"" or body.endswith(b"\n"), body


def test_p04_a_jsonl_whose_only_line_is_not_finished_waits_and_flush_takes_it(host: Host):
    host.start(max_dirty_age="0.3s")
    path = host.path("log.jsonl")
    path.parent.mkdir()
    with open(path, "wb", buffering=0) as file:
        file.write(b"no line end")
        time.sleep(1)
        assert not host.object("log.jsonl")
        host.stored()
        assert host.object("log.jsonl") == b"no line end"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("size", [3 * MIB, 20 * MIB], ids=["whole", "multipart"])
def test_p04_a_file_whose_ends_change_together_is_never_torn(host: Host, size: int):
    """A number is written at the start and then at the end, thousands of times while somebody reads what is between.
    At one moment they are the same, or the end is one behind."""
    host.keep_versions()
    path = host.write("stamped.bin", b"%012d" % 0 + bytes(size - 24) + b"%012d" % 0)
    host.start(max_dirty_age="0.3s")
    descriptor = os.open(path, os.O_WRONLY)
    stamps = itertools.count(1)

    def step(number: int) -> None:
        for stamp in itertools.islice(stamps, 2000):
            os.pwrite(descriptor, b"%012d" % stamp, 0)
            os.pwrite(descriptor, b"%012d" % stamp, size - 12)
        time.sleep(0.2 if number % 10 == 9 else 0)  # long enough for somebody who is quick

    answers = []
    with _in_background(step):
        until = time.monotonic() + 5
        while time.monotonic() < until:
            answers.append(host.flush(timeout=1))
    os.close(descriptor)
    for done in answers:
        assert done.code in (0, 4), done.out
        if done.code == 4:
            assert done.json["pending"]
            assert {item["path"] for item in done.json["pending"]} <= {"stamped.bin", ".cachesync/manifest.json", "."}
            assert all(item["reason"] for item in done.json["pending"])
    host.stored()
    assert host.object("stamped.bin") == path.read_bytes()
    for body in host.versions("stamped.bin"):
        assert int(body[:12]) - int(body[-12:]) in (0, 1), (body[:12], body[-12:])
