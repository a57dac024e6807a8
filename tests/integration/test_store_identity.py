"""P17: a store that was emptied, restored, replaced or moved is noticed, and what it lacks is stored again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.model.errors import ConfigError, StoreDenied, StoreUnreachable
from cachesync.model.keys import identity_key, manifest_key
from cachesync.model.reports import FlushReport
from tests.driving import Driven
from tests.flat_store import FlatStore
from tests.life import Host, S

IDENTITY = identity_key("")
MANIFEST = manifest_key("", S)
PREFIX = f"sessions/{S}/"


@pytest.fixture
def store() -> FlatStore:
    return FlatStore()


@pytest.fixture
def make(tmp_path: Path, store: FlatStore) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def host(name: str, **flags: Any) -> Host:
        hosts.append(Host(tmp_path / name, store, **flags))
        return hosts[-1]

    yield host
    for each in hosts:
        each.stop()


@pytest.fixture
def a(make: Callable[..., Host]) -> Host:
    """A host with two flushed files, which are called unlike everything else."""
    a = make("a")
    a.write("f", "of f")
    a.write("d/g", "of g")
    a.flush()
    return a


def restart(host: Host) -> None:
    host.stop()
    host.start()


def files(store: FlatStore, prefix: str = PREFIX) -> dict[str, bytes]:
    found = {key: held.data for key, held in store.objects.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): data for key, data in found.items() if key != MANIFEST}


def listed(store: FlatStore) -> set[str]:
    return {row["path"] for row in json.loads(store.objects[MANIFEST].data)["entries"] if row["type"] == "file"}


def state(host: Host) -> Any:
    (row,) = host.driven.engine.service.status(S).sessions
    return row


def identity(store: FlatStore) -> str:
    found: str = json.loads(store.objects[IDENTITY].data)["id"]
    return found


def known(host: Host) -> Any:
    return host.journal.binding.get()


def failed(report: FlushReport) -> set[str]:
    assert not report.stored
    assert report.exit_code == 1
    return {failure.path for failure in report.failed}


WHOLE = {"f": b"of f", "d/g": b"of g"}


# -- what was lost -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["the same life", "another life"])
def test_an_emptied_store_gets_everything_again(a: Host, store: FlatStore, again: str) -> None:
    store.objects.clear()
    if again == "another life":
        restart(a)
    report = a.driven.flush(S)
    assert (report.stored, report.files, report.uploaded) == (True, 2, 2)
    assert files(store) == WHOLE
    assert listed(store) == {"f", "d/g"}
    assert state(a).safe_to_kill
    assert report.conflicts == []


def test_what_was_lost_is_not_safe_before_it_is_stored_again(a: Host, store: FlatStore) -> None:
    store.objects.clear()
    a.driven.engine.learner.again(S)
    assert state(a).dirty == 2
    assert not state(a).safe_to_kill
    a.driven.pump()
    assert files(store) == WHOLE
    assert state(a).safe_to_kill


def test_objects_that_go_beside_their_manifest_are_found_at_a_listing(a: Host, store: FlatStore) -> None:
    store.foreign_delete(PREFIX + "f")
    a.life.open(S)
    report = a.driven.flush(S, receipt=True)
    assert report.stored
    assert files(store) == WHOLE
    assert report.entries is not None
    assert {line.path: line.version for line in report.entries}["f"] == store.objects[PREFIX + "f"].info.version.etag


def test_evict_does_not_let_go_of_what_the_store_lost(a: Host, store: FlatStore) -> None:
    store.foreign_delete(PREFIX + "f")
    kept = {row.path for row in a.life.evict(S).kept}
    assert kept >= {"f"}
    a.driven.pump()
    assert files(store) == WHOLE


def test_another_hosts_deletion_is_none_of_the_stores_losses(
    a: Host, make: Callable[..., Host], store: FlatStore
) -> None:
    b = make("b")
    b.life.open(S)
    (b.session / "f").unlink()
    b.flush()
    assert listed(store) == {"d/g"}
    a.flush()
    assert files(store) == {"d/g": b"of g"}
    assert (a.session / "f").read_text() == "of f"
    a.driven.engine.learner.again(S)  # the manifest is one that is known by now
    a.flush()
    assert files(store) == {"d/g": b"of g"}


def test_another_hosts_change_stays_its_own(a: Host, make: Callable[..., Host], store: FlatStore) -> None:
    b = make("b")
    b.life.open(S)
    b.write("f", "of b")
    b.flush()
    a.flush()
    assert files(store) == {"f": b"of b", "d/g": b"of g"}


def test_a_store_that_went_back_in_time_gets_what_is_newer(a: Host, store: FlatStore) -> None:
    then = dict(store.objects)
    a.write("f", "newer")
    a.write("new", "new")
    a.flush()
    store.objects = then
    report = a.driven.flush(S)
    assert report.stored
    (copy,) = report.conflicts  # who brought the older version back is not known: both are kept (C1)
    assert files(store) == {"f": b"newer", "d/g": b"of g", "new": b"new", copy.kept_as: b"of f"}
    assert listed(store) == {"f", "d/g", "new", copy.kept_as}


def test_a_store_that_went_back_before_its_first_manifest(a: Host, store: FlatStore) -> None:
    del store.objects[MANIFEST]
    a.flush()
    assert listed(store) == {"f", "d/g"}


@pytest.fixture
def evicted(a: Host, store: FlatStore) -> Host:
    """... and one of the files is only in the store, which loses it."""
    a.life.evict(S)
    a.life.open(S)
    (a.session / "f").unlink()
    a.journal.entries.let_go(S, "f", is_dir=False)
    assert not a.entry("f").resident
    store.foreign_delete(PREFIX + "f")
    store.foreign_delete(MANIFEST)
    return a


def test_what_was_lost_and_is_not_here_fails(evicted: Host, store: FlatStore) -> None:
    assert failed(evicted.driven.flush(S)) == {"f"}
    assert failed(evicted.driven.flush(S)) == {"f"}
    assert state(evicted).failed == 1
    assert not state(evicted).safe_to_kill
    restart(evicted)
    assert failed(evicted.driven.flush(S)) == {"f"}
    assert MANIFEST not in store.objects, "no manifest forgets it"


def test_what_was_lost_may_come_back(evicted: Host, store: FlatStore) -> None:
    failed(evicted.driven.flush(S))
    evicted.driven.engine.service.artifacts.restore(address("f"))
    evicted.flush()
    assert files(store) == WHOLE
    assert listed(store) == {"f", "d/g"}
    assert state(evicted).safe_to_kill


def test_what_was_lost_may_be_given_up(evicted: Host, store: FlatStore) -> None:
    failed(evicted.driven.flush(S))
    evicted.driven.engine.service.artifacts.remove(address("f"))
    evicted.flush()
    assert listed(store) == {"d/g"}


def test_what_was_lost_may_be_made_again(evicted: Host, store: FlatStore) -> None:
    failed(evicted.driven.flush(S))
    evicted.write("f", "made again")
    evicted.flush()
    assert files(store) == {"f": b"made again", "d/g": b"of g"}
    assert state(evicted).conflicts == 0


def test_what_another_host_deletes_meanwhile_is_not_lost(a: Host, make: Callable[..., Host], store: FlatStore) -> None:
    b = make("b")
    b.life.open(S)
    a.life.evict(S)
    (b.session / "f").unlink()
    b.driven.scan(S)
    b.driven.clock.push(10)
    b.driven.pump()
    assert "f" not in files(store)
    a.driven.engine.learner.again(S)  # no manifest says so yet
    assert state(a).failed + state(a).dirty
    b.flush()
    a.driven.clock.push(1000)
    a.driven.pump()
    assert a.entry("f") is None
    a.flush()
    assert listed(store) == {"d/g"}


def test_a_log_that_left_the_store_is_stored_again_while_its_bytes_are_here(a: Host, store: FlatStore) -> None:
    """Whatever removed it, a rule or a hand: the bytes are here, so they are stored (P17)."""
    a.write("logs/old", "old")
    a.flush()
    a.driven.clock.push(30 * 86_400)
    store.foreign_delete(PREFIX + "logs/old")
    a.driven.engine.learner.again(S)
    report = a.driven.flush(S, receipt=True)
    assert report.stored
    assert report.entries is not None
    assert "logs/old" in {line.path for line in report.entries}
    assert "logs/old" in files(store)
    assert "logs/old" in listed(store)


# -- identity ----------------------------------------------------------------------------------------------------------


def test_the_first_confirmed_put_binds_and_identifies(make: Callable[..., Host], store: FlatStore) -> None:
    a = make("a")
    a.write("f")
    store.down = True
    a.driven.flush(S, timeout=1.0)
    assert known(a) is None, "a store that never said yes is nobody's"
    store.down = False
    a.driven.clock.push(60)
    a.flush()
    assert known(a).store == "memory://driven"
    assert known(a).store_id == identity(store)


def test_hosts_agree_on_one_identity(a: Host, make: Callable[..., Host], store: FlatStore) -> None:
    first = identity(store)
    b = make("b")
    b.life.open(S)
    b.write("b")
    b.flush()
    assert identity(store) == known(b).store_id == known(a).store_id == first


def test_of_two_who_write_it_at_once_the_first_wins(
    make: Callable[..., Host], store: FlatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = make("a")
    a.write("f")
    put = store.put

    def overtaken(key: str, *args: Any, **given: Any) -> Any:
        if key == IDENTITY and IDENTITY not in store.objects:
            store.foreign_put(IDENTITY, json.dumps({"format": 1, "id": "ab" * 16}).encode())
        return put(key, *args, **given)

    monkeypatch.setattr(store, "put", overtaken)
    a.flush()
    assert known(a).store_id == "ab" * 16


def test_a_store_that_lets_nobody_write_it_is_used_all_the_same(
    make: Callable[..., Host], store: FlatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = make("a")
    a.write("f")
    put = store.put

    def denied(key: str, *args: Any, **given: Any) -> Any:
        if key == IDENTITY:
            raise StoreDenied("store", key, "403")
        return put(key, *args, **given)

    monkeypatch.setattr(store, "put", denied)
    a.flush()
    assert (known(a).store, known(a).store_id) == ("memory://driven", None)
    restart(a)
    a.write("g")
    a.flush()


def test_every_session_is_compared_where_the_identity_is_gone(a: Host, store: FlatStore) -> None:
    other = a.root / "other"
    other.mkdir()
    (other / "o").write_text("of o")
    assert a.driven.flush("other").stored
    before = identity(store)
    store.objects.clear()
    a.flush()
    rows = {row.session: row for row in a.driven.engine.service.status().sessions}
    assert rows[S].safe_to_kill
    assert not rows["other"].safe_to_kill
    assert IDENTITY not in store.objects, "not before all that it stands for is compared"
    a.driven.engine.learner.ensure("other")
    a.driven.pump()
    assert files(store, "sessions/other/").keys() >= {"o"}
    assert identity(store) != before, "so that other hosts compare, too"
    assert all(row.safe_to_kill for row in a.driven.engine.service.status().sessions)


def test_a_process_that_dies_before_all_is_compared_begins_again(a: Host, store: FlatStore) -> None:
    other = a.root / "other"
    other.mkdir()
    (other / "o").write_text("of o")
    assert a.driven.flush("other").stored
    store.objects.clear()
    restart(a)
    a.driven.engine.identity.admit()
    a.crash()
    a.driven.engine.identity.admit()
    assert a.driven.engine.identity.doubted == {S, "other"}
    assert not state(a).safe_to_kill


def test_another_store_in_its_place_gets_everything_and_loses_nothing(
    a: Host, make: Callable[..., Host], store: FlatStore
) -> None:
    store.objects.clear()
    b = make("b")
    b.write("f", "of b")
    b.write("b", "of b")
    b.flush()
    restart(a)
    report = a.driven.flush(S)
    assert report.stored
    (conflict,) = report.conflicts
    assert files(store) == {"f": b"of f", conflict.kept_as: b"of b", "d/g": b"of g", "b": b"of b"}
    assert known(a).store_id == identity(store) == known(b).store_id


def test_the_identity_is_asked_for_once_a_life(a: Host, store: FlatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = store.get

    def counted(key: str, **given: Any) -> Any:
        asked.append(key)
        return get(key, **given)

    monkeypatch.setattr(store, "get", counted)
    restart(a)
    a.write("h")
    a.flush()
    a.flush()
    assert asked == [IDENTITY]


def test_an_unreachable_store_is_no_reason_for_doubt(a: Host, store: FlatStore) -> None:
    restart(a)
    store.down = True
    with pytest.raises(StoreUnreachable):
        a.driven.engine.identity.admit()
    assert state(a).safe_to_kill
    store.down = False
    a.flush()
    assert not a.driven.engine.identity.doubted


def test_an_identity_that_makes_no_sense_is_no_reason_for_doubt(a: Host, store: FlatStore) -> None:
    store.foreign_put(IDENTITY, b"<html>")
    restart(a)
    a.flush()
    assert not a.driven.engine.identity.doubted


# -- another address ---------------------------------------------------------------------------------------------------


def moved(
    tmp_path: Path, store: FlatStore, *, url: str | None = "s3://bucket", endpoint: str = "http://localhost:1"
) -> Driven:
    return Driven(tmp_path / "root", store, url=url, endpoint=endpoint)


@pytest.fixture
def served(tmp_path: Path, store: FlatStore) -> None:
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "f").write_text("of f")
    life = moved(tmp_path, store)
    assert life.flush(S).stored
    life.close()


@pytest.mark.usefixtures("served")
def test_the_same_store_at_another_endpoint(tmp_path: Path, store: FlatStore, caplog: pytest.LogCaptureFixture) -> None:
    life = moved(tmp_path, store, endpoint="http://localhost:2")
    assert caplog.messages == ["the store of s3://bucket at http://localhost:1 is now at http://localhost:2"]
    writes = store.writes
    assert life.flush(S).stored
    assert store.writes == writes
    assert life.engine.journal.binding.get().endpoint == "http://localhost:2"  # type: ignore[union-attr]
    life.close()


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("theirs", [None, "ab" * 16])
def test_another_store_at_another_endpoint_is_refused(tmp_path: Path, theirs: str | None) -> None:
    other = FlatStore()
    if theirs is not None:
        other.foreign_put(IDENTITY, json.dumps({"format": 1, "id": theirs}).encode())
    with pytest.raises(ConfigError, match=r"s3://bucket at http://localhost:1 .*cachesync rebind"):
        moved(tmp_path, other, endpoint="http://localhost:2")
    assert other.writes == 0


@pytest.mark.usefixtures("served")
def test_a_store_that_cannot_be_asked_gets_nothing_before_it_can(tmp_path: Path) -> None:
    other = FlatStore()
    other.down = True
    life = moved(tmp_path, other, endpoint="http://localhost:2")
    (tmp_path / "root" / S / "f").write_text("changed")
    other.down = False
    report = life.flush(S)
    assert {failure.path for failure in report.failed} == {"f"}
    assert "cachesync rebind" in report.failed[0].error
    assert other.objects == {}
    life.close()


@pytest.mark.usefixtures("served")
def test_another_bucket_is_refused(tmp_path: Path, store: FlatStore) -> None:
    with pytest.raises(ConfigError, match=r"this root is stored in s3://bucket at .*cachesync rebind"):
        moved(tmp_path, store, url="s3://other")


def test_a_mistyped_bucket_binds_nothing(tmp_path: Path, store: FlatStore) -> None:
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "f").write_text("of f")
    store.down = True
    life = moved(tmp_path, store, url="s3://tpyo")
    assert not life.flush(S, timeout=1.0).stored
    life.close()
    store.down = False
    life = moved(tmp_path, store)
    assert life.flush(S).stored
    life.close()


def test_a_root_moves_from_the_folder_that_nobody_chose(tmp_path: Path, store: FlatStore) -> None:
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "f").write_text("of f")
    life = moved(tmp_path, FlatStore(), url=None)
    assert life.flush(S).stored
    life.close()
    life = moved(tmp_path, store)
    assert life.flush(S).stored
    assert files(store) == {"f": b"of f"}
    life.close()


def test_a_root_does_not_leave_what_only_that_folder_has(tmp_path: Path, store: FlatStore) -> None:
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "f").write_text("of f")
    life = moved(tmp_path, FlatStore(), url=None)
    assert life.flush(S).stored
    life.engine.lifecycle.evict(S)
    life.close()
    with pytest.raises(ConfigError, match="cachesync rebind"):
        moved(tmp_path, store)


def address(path: str) -> Any:
    from cachesync.model.address import Address, Space

    return Address(Space.SESSIONS, S, path)


# -- what a lifecycle rule expired -------------------------------------------------------------------------------------

DAY = 86400.0


@pytest.fixture
def logs(make: Callable[..., Host]) -> Host:
    """A flushed session of two logs and a file."""
    host = make("logs")
    for path in ("logs/a.jsonl", "logs/b.jsonl", "f"):
        host.write(path, path)
    assert host.driven.flush(S).stored
    return host


@pytest.mark.parametrize("again", ["the same life", "another life"])
def test_a_log_that_expired_and_is_only_in_the_store_leaves_the_receipt(
    logs: Host, store: FlatStore, again: str
) -> None:
    assert logs.life.evict(S).evicted == 3
    if again == "another life":
        clock = logs.driven.clock
        restart(logs)
        logs.driven.clock.push(clock() - logs.driven.clock())
    logs.driven.clock.push(31 * DAY)
    store.foreign_delete(PREFIX + "logs/a.jsonl")
    report = logs.driven.flush(S, receipt=True)
    assert (report.stored, report.expired, report.files) == (True, 1, 2)
    assert {line.path for line in report.entries or ()} == {"logs/b.jsonl", "f"} == listed(store)
    assert logs.driven.flush(S).expired == 0


def test_a_log_that_expired_and_stands_here_is_stored_again(logs: Host, store: FlatStore) -> None:
    logs.driven.clock.push(31 * DAY)
    store.foreign_delete(PREFIX + "logs/a.jsonl")
    report = logs.driven.flush(S, receipt=True)
    assert (report.stored, report.expired, report.uploaded) == (True, 0, 1)
    assert files(store)["logs/a.jsonl"] == b"logs/a.jsonl"
    assert {line.path for line in report.entries or ()} == {"logs/a.jsonl", "logs/b.jsonl", "f"}


def test_what_no_rule_expires_is_lost(logs: Host, store: FlatStore) -> None:
    logs.life.evict(S)
    logs.driven.clock.push(31 * DAY)
    store.foreign_delete(PREFIX + "f")
    assert failed(logs.driven.flush(S)) == {"f"}


def test_a_store_that_was_emptied_has_expired_nothing(logs: Host, store: FlatStore) -> None:
    logs.life.evict(S)
    logs.driven.clock.push(31 * DAY)
    store.objects.clear()
    report = logs.driven.flush(S)
    assert failed(report) == {"logs/a.jsonl", "logs/b.jsonl", "f"}
    assert report.expired == 0


def test_a_session_is_listed_once_a_day_and_its_manifest_stays(logs: Host, store: FlatStore) -> None:
    logs.driven.flush(S)
    version = store.objects[MANIFEST].info.version
    for pushed, lists in ((DAY / 2, 0), (DAY / 2 + 1, 1), (DAY / 2, 0), (-DAY, 1)):
        logs.driven.clock.push(pushed)
        asked = count_lists(store)
        assert logs.driven.flush(S).stored
        assert len(asked) == lists
    assert store.objects[MANIFEST].info.version == version


def count_lists(store: FlatStore) -> list[str]:
    real, asked = FlatStore.list, list[str]()

    def list_(prefix: str, *, shallow: bool = False) -> Any:
        asked.append(prefix)
        return real(store, prefix, shallow=shallow)

    store.list = list_  # type: ignore[method-assign]
    return asked
