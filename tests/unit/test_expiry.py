"""Credentials that end and are not renewed are seen in time, and said once."""

import logging

import pytest

from cachesync.daemon.expiry import Expiry
from cachesync.model.errors import StoreCredentials
from cachesync.store.s3.credentials import Found

NOW = 1_764_043_200.0


class Chain:
    """Answers what it is told to; renewing gives what ``renewed`` is, or raises it."""

    def __init__(self, found, renewed=None):
        self.found = found
        self.renewed = renewed
        self.asked = []

    def __call__(self, renew):
        self.asked.append(renew)
        if renew and self.renewed is not None:
            if isinstance(self.renewed, Exception):
                raise self.renewed
            self.found = self.renewed
        return self.found


def looked(chain, caplog=None, times=1, now=NOW):
    expiry = Expiry(chain, lambda: now)
    for _ in range(times):
        expiry.look()
    return expiry


def ends(method, minutes):
    return Found(method, NOW + 60 * minutes, temporary=True)


@pytest.mark.parametrize("found", [None, Found("env"), ends("env", 16), ends("sso", 600)])
def test_what_lasts_is_not_spoken_of(found, caplog):
    chain = Chain(found)
    assert looked(chain, times=3).notes() == []
    assert chain.asked == [False] * 3, "nothing is renewed before its time"
    assert not caplog.records


def test_what_ends_is_said_once_and_shown_as_long_as_it_is_so(caplog):
    expiry = looked(Chain(ends("env", 14)), times=5)
    note = (
        "the store's credentials (from env) expire in 14 min, at 2025-11-25T04:14:00Z, and they are not being renewed"
    )
    assert expiry.notes() == [note]
    assert [record.getMessage() for record in caplog.records] == [note]
    assert expiry.expire_at() == NOW + 14 * 60


def test_what_renews_itself_when_asked_is_fine_though_the_daemon_is_idle(caplog):
    chain = Chain(ends("assume-role-with-web-identity", 5), renewed=ends("assume-role-with-web-identity", 60))
    expiry = looked(chain)
    assert expiry.notes() == []
    assert expiry.expire_at() == NOW + 3600
    assert chain.asked == [False, True]
    assert not caplog.records


@pytest.mark.parametrize(("minutes", "said"), [(14, 0), (4.5, 0), (3.5, 1)])
def test_a_machines_role_gets_new_ones_late(minutes, said, caplog):
    """EC2 has the next credentials five minutes before the last ones end, and not earlier."""
    assert len(looked(Chain(ends("iam-role", minutes))).notes()) == said


def test_what_cannot_be_renewed_says_why(caplog):
    trouble = StoreCredentials("look for", "credentials", "the role is gone")
    expiry = looked(Chain(ends("custom-process", 9), renewed=trouble), times=2)
    assert expiry.notes()[0].endswith("and they cannot be renewed: the role is gone")
    assert len(caplog.records) == 1


def test_what_has_ended_is_said_as_such():
    assert "expired at 2025-11-25T03:59:00Z" in looked(Chain(ends("env", -1))).notes()[0]


def test_the_next_ones_are_spoken_of_anew(caplog):
    chain = Chain(ends("env", 10))
    expiry = looked(chain)
    chain.found = ends("env", 60)
    expiry.look()
    assert expiry.notes() == []
    chain.found = ends("env", 12)
    expiry.look()
    assert len(caplog.records) == 2


def test_a_chain_that_is_broken_is_the_uploads_matter(caplog):
    """Nothing is known of when they end: the entries fail with their cause, and that is seen."""

    def broken(_renew):
        raise StoreCredentials("look for", "credentials", "no network")

    assert looked(broken, times=3).notes() == []
    assert not caplog.records


def test_a_store_without_credentials_starts_no_thread():
    expiry = Expiry(None, lambda: NOW)
    expiry.start()
    assert not expiry._thread.is_alive()
    expiry.look()
    assert expiry.notes() == []
    assert expiry.expire_at() is None


def test_the_thread_looks_again_and_again_and_ends(caplog):
    caplog.set_level(logging.INFO)
    chain = Chain(ends("env", 60))
    expiry = Expiry(chain, lambda: NOW, look=0.01)
    expiry.start()
    for _ in range(500):
        if len(chain.asked) > 2:
            break
        expiry._thread.join(0.01)
    expiry.stop()
    expiry._thread.join(5)
    assert not expiry._thread.is_alive()
    assert len(chain.asked) > 2
