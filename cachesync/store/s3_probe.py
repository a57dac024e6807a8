"""Whether an S3 server keeps to the conditions of writes: asked with one write that must fail."""

from __future__ import annotations

import threading

from cachesync.errors import ObjectNotFound, PreconditionFailed, StoreDenied
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
