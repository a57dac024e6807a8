"""Doing one thing to many, a few at a time, with memory for a few."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_parallel(items: Iterator[T], do: Callable[[T, threading.Event], None], threads: int) -> None:
    """Call ``do`` for each item, in at most ``threads`` threads; items are taken one by one as threads get free.

    The event is set when it is no use to go on: an error, which is raised here, or Ctrl-C, which is not waited for.
    """
    ended, taking = threading.Event(), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not ended.is_set():
                with taking:
                    item = next(items, None)
                if item is None:
                    return
                do(item, ended)
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits
            errors.append(error)
            ended.set()

    # Daemon threads: the process may end while one hangs in a file system or in the network.
    crew = [threading.Thread(target=work, name=f"parallel-{number}", daemon=True) for number in range(threads)]
    try:
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    finally:
        ended.set()
    if errors:
        raise errors[0]
