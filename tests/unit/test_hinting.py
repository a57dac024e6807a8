"""Hints of each session in turn."""

import threading
from collections.abc import Collection, Iterator, Mapping

import pytest

from cachesync.watch.hinting import HintTurns
from cachesync.watch.hints import Hint, Hints


class Bench:
    """A watcher that has what a test puts into ``waiting``, and a scanner that takes two steps for each session."""

    def __init__(self) -> None:
        self.waiting: dict[str, Hint] = {}
        self.looked: list[str] = []
        self.turns = HintTurns(self.take, self.notice)

    def take(self, besides: Collection[str]) -> Hints:
        taken = {path: hint for path, hint in self.waiting.items() if path.partition("/")[0] not in besides}
        for path in taken:
            del self.waiting[path]
        return Hints(taken, frozenset({"why"} if taken else ()))

    def notice(self, session: str, hints: Mapping[str, Hint]) -> Iterator[None]:
        for path in hints:
            if path == "bad":
                raise ValueError(path)
            self.looked.append(f"{session}/{path}")
            yield

    def hint(self, *paths: str) -> None:
        self.waiting |= dict.fromkeys(paths, Hint.CHANGED)

    def go(self) -> None:
        while not self.turns.is_idle:
            self.turns.refill()
            self.turns.step()


def test_each_session_has_a_step_in_turn_and_its_later_hints_come_later():
    bench = Bench()
    bench.hint("a/1", "a/2", "b/1")
    assert bench.turns.refill() == {"why"}
    bench.turns.step()
    bench.hint("a/3", "c/1")
    bench.go()
    assert bench.looked == ["a/1", "b/1", "a/2", "c/1", "a/3"]
    assert bench.turns.refill() == frozenset()
    bench.turns.step()


def test_an_error_costs_the_session_its_other_hints_and_no_other_session():
    bench = Bench()
    bench.hint("a/bad", "a/1", "b/1")
    bench.turns.refill()
    with pytest.raises(ValueError, match="bad"):
        bench.turns.step()
    bench.go()
    assert bench.looked == ["b/1"]


def test_who_waits_for_a_session_waits_for_what_the_watcher_has_of_it_and_for_no_other():
    bench = Bench()
    bench.hint("a/1", "b/1", "b/2", "b/3", "b/4")
    bench.turns.refill()
    bench.turns.step()
    bench.hint("a/2")
    asked, answers = threading.Event(), []

    def wait() -> None:
        answers.append(bench.turns.wait("a", asked.set, 20))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asked.wait(20)
    while waiting.is_alive():
        assert "a/2" not in bench.looked or bench.looked.count("a/2") == 1
        bench.turns.refill()
        if len(bench.turns._turns) > 1 or "a/2" not in bench.looked:
            bench.turns.step()
        if "a/2" in bench.looked:
            bench.go()
            waiting.join(20)
    assert answers == [True]
    assert not bench.turns.wait("a", lambda: None, 0.01), "nothing is taken any more"
