"""Waiting for a call no longer than there is time: for what may hang in somebody else's code."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class StillRunning(Exception):
    """The call has not ended in time. It goes on in its thread, which does not keep the process alive."""


def within(seconds: float | None, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, if it does so within ``seconds`` (None: ever); StillRunning otherwise.

    Ctrl-C ends the waiting too, whatever the call hangs in.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, name="patience", daemon=True)
    thread.start()
    thread.join(None if seconds is None else max(0.0, seconds))
    if errors:
        raise errors[0]
    if not answers:
        raise StillRunning
    return answers[0]
