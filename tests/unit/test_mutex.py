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


def test_p24_nobody_waits_long_beside_threads_that_take_it_again_and_again():
    """Eight do. A fair lock is taken eight times before it is ours, ``threading.Lock`` some forty times."""
    mutex, stop, turns, waited = Mutex(), threading.Event(), 0, 0

    def hog() -> None:
        nonlocal turns
        while not stop.is_set():
            with mutex:
                turns += 1
                time.sleep(0.002)

    threads = [threading.Thread(target=hog) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        before = turns
        with mutex:
            waited += turns - before
        time.sleep(0.003)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert waited / 40 <= 16


def test_an_error_within_gives_it_back():
    mutex = Mutex()
    try:
        with mutex:
            raise KeyError
    except KeyError:
        pass
    with mutex:
        pass
