"""Calls of the kernel: of a scan and of storing a file, each a file's and a round's; and what waits for the disk."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.budgets.conftest import Counted, S
from tests.budgets.kernel import SYNCS, Traced, traced

pytestmark = pytest.mark.s3

FEW, MANY = 10, 30

SCANNED_FILE = {"newfstatat": 1}
SCANNED_ROUND = {
    "newfstatat": 2,  # the root, the session
    "statx": 1,  # when the session's directory was born
    "openat2": 3,  # the directory, and .cachesyncignore in the root and in the session
    "fstat": 2,
    "fgetxattr": 2,  # the ACLs of the session's directory
    "getdents64": 2,
    "lseek": 1,
    "close": 2,
    "fcntl": 3 + 2 * 3,  # the listing's own descriptor; the journal's lock, taken and given back for three questions
}

FILE, SOCKET, JOURNAL = "root/s/", "<socket:", "/journal.db"
STORED_FILE = {
    FILE: {
        "openat2": 1,  # held, to see that it is a file
        "openat": 1,
        "close": 2,
        "fstat": 4,  # held, opened, before and after it is read
        "fcntl": 2,  # is there a writer? A lease, taken and given back
        "lseek": 1,  # a write under way is waited for
        "pread64": 1,
    },
    SOCKET: {"poll": 1, "sendto": 1, "recvfrom": 1},  # is it still good? and then the kernel waits
    JOURNAL: {"fcntl": 8},  # of the question, the first after a commit, and of the transaction
}
PAGES = 5.0
"""Pages of the journal that a confirmation writes, measured as 4.5: of the session, of the entry, and of the three
indexes that it is in; some are one page. The two questions read as many, as another connection has written them."""


def a_file(few: Traced, many: Traced) -> dict[str, float]:
    """What one file more costs, by call: the difference of two runs, so that what comes once is not in it."""
    more = Counter(many.calls)
    more.subtract(few.calls)
    return {name: count / (MANY - FEW) for name, count in sorted(more.items()) if count}


def both(few: Traced, many: Traced) -> str:
    return f"a file is {a_file(few, many)}\n{FEW} files: {few}\n\n{MANY} files: {many}"


def scanned(counting: Counted, folder: Path, count: int) -> Traced:
    counting.write(*(f"f{number}" for number in range(count)))
    counting.settle()
    counting.driven.scan(S, recheck=True)
    with traced(folder) as done:
        counting.driven.scan(S, recheck=True)
    return done


def test_a_scan_is_one_stat_a_file_and_24_calls_besides(counting: Counted, tmp_path: Path):
    few, many = scanned(counting, tmp_path, FEW), scanned(counting, tmp_path, MANY)
    assert a_file(few, many) == SCANNED_FILE, both(few, many)
    files = Counter({name: count * (FEW + 1) for name, count in SCANNED_FILE.items()})  # and the first one
    assert few.calls - files == Counter(SCANNED_ROUND), str(few)
    assert sum(SCANNED_ROUND.values()) == 24


def stored(counting: Counted, folder: Path, count: int, mark: str) -> Traced:
    counting.write(*(f"{mark}{number:02}" for number in range(count)))
    counting.notice()

    def pump() -> Traced:
        with traced(folder) as done:
            assert counting.driven.pump() == count
        return done

    with ThreadPoolExecutor(1) as elsewhere:  # where the engine stores files too: sockets of the main thread cost more
        return elsewhere.submit(pump).result()


def test_a_stored_file_is_12_calls_on_it_3_on_the_socket_8_locks_and_10_pages_of_the_journal(
    counting: Counted, tmp_path: Path
):
    stored(counting, tmp_path, 1, "connected")
    few, many = stored(counting, tmp_path, FEW, "few"), stored(counting, tmp_path, MANY, "many")
    found = {place: a_file(few.on(place), many.on(place)) for place in STORED_FILE}
    written, read = found[JOURNAL].pop("pwrite64"), found[JOURNAL].pop("pread64")
    assert found == STORED_FILE, both(few, many)
    assert a_file(few.without(*STORED_FILE), many.without(*STORED_FILE)) == {}, both(few, many)
    assert written / 2 <= PAGES, both(few, many)  # a page's head, and the page
    assert read <= PAGES, both(few, many)


# -- what waits for the disk -------------------------------------------------------------------------------------------


@pytest.fixture
def settled(counting: Counted) -> Counted:
    counting.write(*(f"f{number}" for number in range(MANY)))
    counting.settle()
    return counting


def test_storing_a_session_never_waits_for_the_disk(counting: Counted, tmp_path: Path):
    with traced(tmp_path, SYNCS, threads=True) as done:
        counting.write(*(f"f{number}" for number in range(MANY)))
        counting.flush()
    assert done.calls == {}, str(done)


def test_deletes_wait_for_the_disk_once_however_many(settled: Counted, tmp_path: Path):
    for number in range(MANY // 3):
        (settled.session / f"f{number}").unlink()
    with traced(tmp_path, SYNCS, threads=True) as done:
        settled.notice()
        assert settled.driven.pump() == MANY // 3
    assert done.calls == {"fdatasync": 1}, str(done)


def test_evict_waits_for_the_disk_once(settled: Counted, tmp_path: Path):
    with traced(tmp_path, SYNCS, threads=True) as done:
        assert settled.engine.lifecycle.evict(S).evicted == MANY + 1
    assert done.calls == {"fdatasync": 1}, str(done)


def test_open_waits_for_the_disk_once_a_file(settled: Counted, tmp_path: Path):
    """A file is whole on the disk before it is given its name: else a power cut could leave an empty one, which would
    be taken for a change."""
    settled.engine.lifecycle.evict(S)
    with traced(tmp_path, SYNCS, threads=True) as done:
        assert settled.engine.lifecycle.open(S).fetched == MANY + 1
    assert done.calls == {"fdatasync": MANY + 1}, str(done)
