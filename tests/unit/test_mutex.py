"""The journal's lock: quick for one, fair for many."""

import threading
import time

from cachesync.journal.mutex import Mutex


def test_one_thread_at_a_time():
    mutex, inside, most = Mutex(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with mutex:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert inside == 0


def test_p24_who_has_waited_comes_ahead_of_one_who_takes_it_again_and_again():
    """With ``threading.Lock``, who gives it back and asks at once has it again before anyone else wakes."""
    mutex, asked, order = Mutex(), threading.Event(), list[str]()

    def wait() -> None:
        asked.set()
        with mutex:
            order.append("waited")

    waiting = threading.Thread(target=wait)
    with mutex:
        waiting.start()
        asked.wait(60)
        time.sleep(1)  # fifty times as long as it waits beside newcomers
    for _ in range(3):
        with mutex:
            order.append("again")
    waiting.join(60)
    assert order == ["waited", "again", "again", "again"]


def test_an_error_within_gives_it_back():
    mutex = Mutex()
    try:
        with mutex:
            raise KeyError
    except KeyError:
        pass
    with mutex:
        pass
