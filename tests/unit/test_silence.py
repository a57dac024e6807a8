"""Whether a store answers, as the questions that are asked of it tell."""

from __future__ import annotations

from cachesync.store.outage import PATIENCE, Silence


def test_a_question_that_waits_too_long_is_silence_since_it_was_asked():
    silence = Silence()
    assert silence.since(0) is None
    silence.asked("a", 100)
    silence.asked("b", 101)
    assert silence.since(100 + PATIENCE - 0.1) is None
    assert silence.since(100 + PATIENCE) == 100
    assert silence.since(200) == 100


def test_any_answer_is_a_sign_of_life_and_the_others_wait_from_then_on():
    silence = Silence()
    silence.asked("a", 100)
    silence.asked("b", 100)
    silence.answered("b", 110)
    assert silence.since(110 + PATIENCE - 0.1) is None
    assert silence.since(110 + PATIENCE) == 110


def test_what_carries_bytes_may_take_longer():
    silence = Silence()
    silence.asked("large", 100, allowance=60)
    assert silence.since(100 + PATIENCE + 59) is None
    silence.asked("small", 150)
    assert silence.since(100 + PATIENCE + 59) == 150
    assert silence.since(100 + PATIENCE + 60) == 100


def test_a_question_that_was_in_vain_counts_until_the_next_answer():
    silence = Silence()
    silence.answered("before", 90)
    silence.asked("large", 95, allowance=60)
    silence.asked("small", 100)
    silence.unanswered("small")
    assert silence.since(101) == 100
    silence.unanswered("large")
    assert silence.since(500) == 95
    silence.asked("again", 500)
    silence.answered("again", 501)
    assert silence.since(600) is None


def test_what_nobody_waits_for_any_more_says_nothing():
    silence = Silence()
    silence.asked("a", 100)
    silence.withdrawn("a")
    assert silence.since(500) is None
    silence.asked("b", 500)
    silence.answered("b", 501)
    silence.withdrawn("b")
    assert silence.since(600) is None
