"""What a flush waits for, and what it does not."""

from cachesync.watch.hints import Hint
from tests.driving import Driven
from tests.flat_store import FlatStore

S = "s"


def test_a_flush_does_not_wait_for_what_changes_after_its_barrier(tmp_path):
    files = tmp_path / "root" / S
    files.mkdir(parents=True)
    for number in range(4):
        (files / str(number)).write_text("before")
    store = FlatStore()
    driven = Driven(tmp_path / "root", store, transfers="1")
    scanner = driven.engine.scanner

    def put(key, _before, after):
        """Storing takes a while, and its file is written anew meanwhile."""
        driven.clock.push(0.06)
        file = files / key.rpartition("/")[2]
        if file.exists() and after.data == b"before":
            file.write_text("after")
            scanner.notice(S, {file.name: Hint.CHANGED | Hint.CLOSED})

    store.watch = put

    def one_transfer(timeout: float) -> None:
        if not driven.one():
            driven.clock.push(timeout)

    driven.uploader.wait_for_progress = one_transfer  # type: ignore[method-assign]
    begun = driven.clock.ahead
    assert driven.flush(S).stored
    assert driven.clock.ahead - begun < 0.5, "four files and the manifest"
    store.watch = lambda *_: None
    driven.clock.push(5)
    assert driven.flush(S).uploaded == 4
    driven.close()


def test_p08_a_file_that_moved_to_another_session_is_stored_there_before_its_old_object_is_deleted(tmp_path):
    root, store = tmp_path / "root", FlatStore()
    for session in (S, "t"):
        (root / session).mkdir(parents=True)
    (root / S / "f").write_text("its only copy")
    driven = Driven(root, store)
    assert driven.flush(S).stored
    (root / S / "f").rename(root / "t" / "g")
    deletions = []

    def look(key, _before, after):
        if after is None:
            deletions.append((key, "sessions/t/g" in store.objects))

    store.watch = look
    driven.scan("t")
    assert driven.flush(S).stored
    assert deletions == [(f"sessions/{S}/f", True)]
    driven.close()
