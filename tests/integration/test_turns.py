"""Whose turn it is to change a session's names: two sides of one file, as two processes have them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync.journal.session_lock import SharedTurns, Turns
from tests.promises.host import eventually


@pytest.fixture
def turns(tmp_path: Path) -> Turns:
    return Turns(tmp_path / "journal.db")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedTurns]:
    shared = SharedTurns(tmp_path / "journal.db")
    yield shared
    shared.close()


def test_one_side_at_a_time_in_each_session(turns: Turns, shared: SharedTurns) -> None:
    with turns.alone("s"):
        assert not shared.take(b"s")
        assert shared.take(b"t")
        shared.give_back(b"t")
    assert shared.take(b"s")
    shared.give_back(b"s")


def begun(call: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread


def test_the_daemon_waits_for_who_has_begun(turns: Turns, shared: SharedTurns) -> None:
    order: list[str] = []

    def alone(name: str) -> None:
        with turns.alone("s"):
            order.append(name)

    assert shared.take(b"s")
    waiting = begun(alone, "daemon")
    with turns.alone("t"):  # which does not wait
        order.append("program")
    shared.give_back(b"s")
    waiting.join(10)
    assert order == ["program", "daemon"]


def test_two_threads_of_the_daemon_exclude_each_other(turns: Turns) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns.alone("s"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [begun(work) for _ in range(4)]
    for thread in threads:
        thread.join(30)
    assert most == 1


def test_who_looks_at_what_changed_lets_the_turn_end_first(turns: Turns) -> None:
    order: list[str] = []

    def look() -> None:
        turns.let_end("s", 1.0)
        order.append("looked")

    with turns.alone("s"):
        looking = begun(look)
        turns.let_end("t", 1.0)
        order.append("written down")
    looking.join(10)
    assert order == ["written down", "looked"]
    turns.let_end("s", 1.0)  # nobody is at it


def test_who_waited_has_a_turn_until_it_is_dropped(turns: Turns, shared: SharedTurns) -> None:
    held = []
    with turns.alone("s"):
        waiting = begun(lambda: held.append(shared.wait(b"s")))
    waiting.join(10)
    second = begun(lambda: turns.alone("s").__enter__())
    assert held
    assert shared.take(b"s")  # the program's side is shared
    shared.give_back(b"s")
    assert second.is_alive()
    held.clear()
    eventually(lambda: not second.is_alive(), 10, "the daemon has its turn")


def test_a_file_that_a_program_writes_to(turns: Turns, shared: SharedTurns) -> None:
    shared.written(7)
    with turns.alone("s") as turn:
        assert turn.is_written(7)
        assert not turn.is_written(8)
        shared.not_written(7)
        assert not turn.is_written(7)


def test_another_file_in_the_place_of_the_first_is_taken(turns: Turns, shared: SharedTurns, tmp_path: Path) -> None:
    assert shared.take(b"s")
    shared.give_back(b"s")
    (tmp_path / "journal.db.turns").unlink()
    with turns.alone("s"):
        shared.refresh()
        assert not shared.take(b"s")


def test_where_the_state_folder_is_gone_nobody_waits(tmp_path: Path) -> None:
    shared = SharedTurns(tmp_path / "gone" / "journal.db")
    assert shared.take(b"s")
    shared.give_back(b"s")
    shared.written(7)
    shared.not_written(7)
