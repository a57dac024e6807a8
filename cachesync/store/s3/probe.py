"""Probes where an S3 server may differ from AWS: conditional writes, and names with a backslash."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable

from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StoreDenied, Unstorable
from cachesync.store.s3 import fields
from cachesync.store.s3.client import S3Client
from cachesync.store.s3.errors import NotSupported

NO_SUCH_ETAG = "00000000000000000000000000000000"

PROBE_RIGHTS = "allow s3:PutObject and s3:DeleteObject on the keys */.cachesync/*"

AGAIN = 300.0
"""Seconds until a denied probe is repeated."""


class Probe:
    """The probes of one bucket, and their results.

    ``place`` returns the key prefix for a probe that concerns a key. A policy that allows the key also allows keys with
    that prefix. A random name follows it, so that hosts that start at the same time use different keys.
    """

    def __init__(self, client: S3Client, place: Callable[[str], str]) -> None:
        self._client = client
        self._place = place
        self._name = f"probe-{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self.answer: bool | None = None
        self.denied = ""
        self._keeps_names: bool | None = None

    def ask(self, key: str) -> bool | None:
        """Whether the store supports conditional writes; None if it denies the probe (``denied`` says why).

        The first call probes the store and leaves no object there. Raises StoreTransient and similar errors.
        """
        if self._is_open:
            with self._lock:
                if self._is_open:
                    self._try(self._place(key) + self._name)
        return self.answer

    @property
    def _is_open(self) -> bool:
        return self.answer is None and (not self.denied or time.monotonic() - self._asked_at > AGAIN)

    def _try(self, name: str) -> None:
        condition = fields.quoted(NO_SUCH_ETAG)
        denied = ""
        try:
            self._client.call("try a condition on", name, "put_object", Key=name, Body=b"", IfMatch=condition)
        except (PreconditionFailed, ObjectNotFound):
            self.answer = True
        except NotSupported:
            self.answer = False
        except StoreDenied as error:
            denied = f"denied, {error.reason}; {PROBE_RIGHTS}"
        else:
            self.answer = False
            with contextlib.suppress(StoreDenied):
                self._client.call("remove", name, "delete_object", Key=name)
        self._asked_at, self.denied = time.monotonic(), denied

    def check_name(self, key: str) -> None:
        """Raise Unstorable for a key that this store would turn into another: SeaweedFS takes a backslash for a slash.

        The first key with a backslash costs three requests, all others none.
        """
        if "\\" not in key:
            return
        if self._keeps_names is None:
            with self._lock:
                if self._keeps_names is None:
                    self._keeps_names = self._try_name(self._place(key) + self._name)
        if not self._keeps_names:
            raise Unstorable("store", key, "this store takes a backslash for a slash")

    def _try_name(self, start: str) -> bool:
        name = start + "\\name"
        try:
            self._client.call("try the name", name, "put_object", Key=name, Body=b"")
        except StoreDenied:
            return True
        listed = self._client.call("list", name, "list_objects_v2", Prefix=start)
        self._client.call("remove", name, "delete_object", Key=name)
        return any(found["Key"] == name for found in listed.get("Contents", ()))
