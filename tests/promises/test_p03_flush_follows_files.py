"""P3: flush follows files, not names: what is moved while it waits is stored under the name that it has then."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import MakeHost
from tests.faults.proxy import Proxy, delay
from tests.promises.host import Host, eventually
from tests.promises.line import Line
from tests.servers import SeaweedServer
from tests.watching import exchange


@pytest.fixture(params=["with a daemon", "without a daemon"])
def host_(request: pytest.FixtureRequest, wired: Host) -> Host:
    if request.param == "with a daemon":
        wired.start()
    return wired


def flushing(host: Host, meanwhile: Callable[[], object], *, timeout: float = 40.0) -> int:
    """The exit code of a flush, and then SIGKILL for everything."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        flush = host.launch(("flush", "s1", "--json", "--timeout", f"{timeout:g}"), {}, out, err)
        try:
            meanwhile()
            return flush.wait(timeout + 30)
        finally:
            flush.kill()
            flush.wait()
            if host.daemon is not None:
                host.kill()


def during_the_flush(host: Host, line: Line, change: Callable[[], object], *, keys: int) -> Callable[[], object]:
    """Return a call that waits for ``keys`` objects in the store and runs ``change``. The flush cannot end before."""
    host.write("held", "1")
    line.stall = b"/held"

    def meanwhile() -> None:
        eventually(lambda: len(host.keys()) >= keys, what="some files are stored")
        change()
        line.stall = None
        line.mend()

    return meanwhile


def check_all_is_stored(host: Host) -> None:
    """Every file that stands is in the store under its name, and the manifest lists exactly what stands."""
    local = host.local()
    objects = host.objects()
    assert {path: objects.get(path) for path in local} == local
    assert {path for path, row in host.listed().items() if row["type"] == "file"} == set(local)


@pytest.mark.timeout(120)
def test_p03_a_directory_that_is_renamed_during_a_flush(host_: Host, line: Line):
    for number in range(400):
        host_.write(f"d/f{number}", f"{number}")
    rename = during_the_flush(host_, line, lambda: os.rename(host_.path("d"), host_.path("e")), keys=50)
    assert flushing(host_, rename) == 0
    assert len(host_.local()) == 401
    check_all_is_stored(host_)


@pytest.mark.parametrize("watched", [True, False])
def test_p03_a_name_that_cannot_be_stored_yet_is_followed_to_its_next_one(wired: Host, line: Line, *, watched: bool):
    """Nothing depends on when the rename comes: no file is stored under either name before the end."""
    if watched:
        wired.start()
    for number in range(5):
        wired.write(f"d/report{number}", f"{number}")
    wired.write("other", "x")
    line.stall = b"/report"

    def rename() -> None:
        eventually(lambda: wired.object("other"), what="the flush is under way")
        os.rename(wired.path("d"), wired.path("e"))

    assert flushing(wired, rename, timeout=6.0) == 4
    line.stall = None
    line.mend()
    wired.stored()
    check_all_is_stored(wired)


@pytest.mark.timeout(120)
def test_p03_stored_files_that_are_renamed_during_a_flush(host_: Host, line: Line):
    for number in range(100):
        host_.write(f"d/f{number}", f"{number}")
    host_.stored()
    for number in range(200):
        host_.write(f"new/f{number}", f"new {number}")
    rename = during_the_flush(host_, line, lambda: os.rename(host_.path("d"), host_.path("e")), keys=120)
    assert flushing(host_, rename) == 0
    check_all_is_stored(host_)
    assert host_.keys() == set(host_.local()), "no object of an old name is left to a host that opens the session now"


@pytest.mark.timeout(120)
def test_p03_files_that_change_places_during_a_flush(host_: Host, line: Line):
    """The names stand all the time; no event tells that one of them was lost."""
    for number in range(150):
        host_.write(f"a/f{number}", f"a {number}")
        host_.write(f"b/f{number}", f"b {number}")

    def swap() -> None:
        for old, new in (("a", "tmp"), ("b", "a"), ("tmp", "b")):
            os.rename(host_.path(old), host_.path(new))

    assert flushing(host_, during_the_flush(host_, line, swap, keys=40)) == 0
    check_all_is_stored(host_)


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    with Proxy(seaweed.endpoint) as proxy:
        yield proxy


@pytest.fixture
def delayed(make_host: MakeHost, proxy: Proxy) -> Host:
    """A host that reaches the store through ``proxy``."""
    return make_host(env={"S3_ENDPOINT": proxy.endpoint})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["files", "directories"])
def test_p03_names_that_are_exchanged_during_a_flush(delayed: Host, proxy: Proxy, kind: str):
    """RENAME_EXCHANGE: no name is missing at any time."""
    delayed.start()
    for name in ("a", "b"):
        delayed.write(f"{name}/f", f"{name}, stored")
    delayed.stored()
    held = proxy.add(delay(1.0), "PutObject", ".*/held")
    proxy.add(delay(5.0), "(Put|Copy|Head)Object", ".*/b/.*")
    delayed.write("a/f", "written before the flush")
    delayed.write("held", "1")
    names = ("a/f", "b/f") if kind == "files" else ("a", "b")

    def swap() -> None:
        eventually(lambda: held.hits, what="the flush waits")
        exchange(*(str(delayed.path(name)) for name in names))

    assert flushing(delayed, swap) == 0
    check_all_is_stored(delayed)


@pytest.mark.timeout(120)
def test_p03_a_file_that_is_renamed_while_the_manifest_is_written(delayed: Host, proxy: Proxy):
    """The daemon stores the new name, and deletes the old one, before the manifest is there."""
    delayed.start()
    delayed.write("f0", "0")
    delayed.stored()
    delayed.write("f1", "1")
    manifest = proxy.add(delay(3.0), "PutObject", ".*manifest.json")

    def rename() -> None:
        eventually(lambda: manifest.hits, what="the manifest is on its way")
        os.rename(delayed.path("f0"), delayed.path("new"))

    assert flushing(delayed, rename) == 0
    check_all_is_stored(delayed)


@pytest.mark.timeout(120)
def test_p03_a_file_that_moves_twice_does_not_hold_up_the_flush(delayed: Host, proxy: Proxy):
    """The old name waits for the new one, which is missing: only another look finds the newest."""
    for path in ("a/f", "b/other", "c/other"):
        delayed.write(path, path)
    delayed.stored()
    os.rename(delayed.path("a/f"), delayed.path("b/f"))
    anything = proxy.add(delay(1.0))

    def rename() -> None:
        eventually(lambda: anything.hits, what="the flush asks the store")
        os.rename(delayed.path("b/f"), delayed.path("c/f"))

    assert flushing(delayed, rename, timeout=30.0) == 0
    check_all_is_stored(delayed)


@contextmanager
def moving(host: Host, *, every: float) -> Iterator[None]:
    """A program that moves each of ten files between two directories, all the time."""
    stop = threading.Event()
    places = [host.path("x"), host.path("y")]

    def work() -> None:
        while not stop.is_set():
            for number in range(10):
                for old, new in (places, places[::-1]):
                    if (old / f"f{number}").exists():
                        os.rename(old / f"f{number}", new / f"f{number}")
                        break
                stop.wait(every)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("every", [0.0, 0.002, 0.05])
def test_p03_a_storm_of_renames_ends_truthfully(host_: Host, every: float):
    contents = {f"only {number}".encode() for number in range(10)}
    for number in range(10):
        host_.write(f"{'xy'[number % 2]}/f{number}", f"only {number}")
    for name in "xy":
        host_.path(name).mkdir(exist_ok=True)
    with moving(host_, every=every):
        done = host_.flush(timeout=4.0)
        stored = set(host_.objects().values())
    assert done.json["seconds"] < 4 + 4, "it ends by its timeout"
    if done.code == 0:
        assert stored >= contents
    else:
        assert done.code == 4
        assert done.json["pending"]
    host_.stored()
    assert set(host_.objects().values()) == contents


@pytest.mark.timeout(120)
def test_p03_files_that_come_and_go_do_not_hold_a_flush_up(host_: Host):
    """Temporary files, and files that are written whole and renamed to their place: what programs do all the time."""
    for number in range(20):
        host_.write(f"f{number}", f"{number}")
    host_.write("state.json", "0")
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            host_.write(f"tmp{number % 7}", "passing").unlink()
            host_.write("state.json.new", f"{number}").replace(host_.path("state.json"))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        done = host_.flush(timeout=20.0)
    finally:
        stop.set()
        thread.join()
    assert done.code == 0, done.out
    objects = host_.objects()
    assert {f"f{number}": f"{number}".encode() for number in range(20)}.items() <= objects.items()
    assert "state.json" in objects


@pytest.mark.timeout(120)
def test_p12_files_that_are_moved_while_a_daemon_drains(host: Host):
    host.start(settle="5s")
    for number in range(300):
        host.write(f"d/f{number}", f"{number}")
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGTERM)
    eventually(lambda: len(host.keys()) >= 30, what="some files are stored")
    os.rename(host.path("d"), host.path("e"))
    code = host.ended()
    assert code == 0, host.complaints()
    check_all_is_stored(host)
