"""What an S3 server does otherwise than AWS, asked once each: does it keep to conditions, and to names?"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable

from cachesync.errors import ObjectNotFound, PreconditionFailed, StoreDenied, Unstorable
from cachesync.store import s3_fields as fields
from cachesync.store.s3_client import S3Client
from cachesync.store.s3_errors import NotSupported

NO_SUCH_ETAG = "00000000000000000000000000000000"

PROBE_RIGHTS = "allow s3:PutObject and s3:DeleteObject on the keys */.cachesync/*"

AGAIN = 300.0
"""Seconds until a question that was denied is asked again."""


class Probe:
    """The questions, and the answers once they are known.

    ``place`` is where to try what concerns a key: the start of keys of ours that anyone who may write that key may
    write too. The name that follows is random: hosts that start together do not write one key.
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
        """Whether the store keeps to conditions; None if it denies the question (``denied`` says why). Asks the store
        the first time. Nothing stays at the probe's key.

        Raises StoreTransient and the like if the store cannot be asked.
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
