"""What an S3 server does otherwise than AWS, asked once each: does it keep to conditions, and to names?"""

from __future__ import annotations

import threading

from cachesync.errors import ObjectNotFound, PreconditionFailed, StoreDenied, Unstorable
from cachesync.store import s3_fields as fields
from cachesync.store.s3_client import S3Client
from cachesync.store.s3_errors import NotSupported

NO_SUCH_ETAG = "00000000000000000000000000000000"


class Probe:
    """The question, and the answer once it is known."""

    def __init__(self, client: S3Client, key: str) -> None:
        self._client = client
        self._key = key
        self._lock = threading.Lock()
        self.answer: bool | None = None
        self._keeps_names: bool | None = None

    def ask(self) -> bool:
        """The answer; asks the store the first time. Nothing stays at the probe's key.

        Not being allowed to write there counts as yes. Raises StoreTransient and the like if the store cannot be asked.
        """
        if self.answer is None:
            with self._lock:
                if self.answer is None:
                    self.answer = self._try()
        return self.answer

    def _try(self) -> bool:
        condition = fields.quoted(NO_SUCH_ETAG)
        try:
            self._client.call("try a condition on", self._key, "put_object", Key=self._key, Body=b"", IfMatch=condition)
        except (PreconditionFailed, ObjectNotFound, StoreDenied):
            return True
        except NotSupported:
            return False
        self._client.call("remove", self._key, "delete_object", Key=self._key)
        return False

    def check_name(self, key: str) -> None:
        """Raise Unstorable for a key that this store would turn into another: SeaweedFS takes a backslash for a slash.

        The first key with a backslash costs three requests, all others none.
        """
        if "\\" not in key:
            return
        if self._keeps_names is None:
            with self._lock:
                if self._keeps_names is None:
                    self._keeps_names = self._try_name()
        if not self._keeps_names:
            raise Unstorable("store", key, "this store takes a backslash for a slash")

    def _try_name(self) -> bool:
        name = self._key + "\\name"
        try:
            self._client.call("try the name", name, "put_object", Key=name, Body=b"")
        except StoreDenied:
            return True
        listed = self._client.call("list", name, "list_objects_v2", Prefix=self._key)
        self._client.call("remove", name, "delete_object", Key=name)
        return any(found["Key"] == name for found in listed.get("Contents", ()))
