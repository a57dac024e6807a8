"""Asking S3, from any thread: the short way (``s3_direct``), or by botocore (``s3_library``) where that knows more.

botocore and what comes with it take half a second to import: only who needs it does. Neither way tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from cachesync.model.errors import StoreDenied, StoreError, StorePermanent
from cachesync.model.record import record
from cachesync.store.outage import Silence
from cachesync.store.s3.address import may_follow
from cachesync.store.s3.direct import Direct
from cachesync.store.s3.errors import ForeignAnswer, WrongRegion, has_answer
from cachesync.store.s3.outstanding import Question

if TYPE_CHECKING:
    from cachesync.store.s3.library import Library

_log = logging.getLogger(__name__)

SLOWEST = 64 * 1024
"""Bytes a second: a request may take this much longer than the timeout for each byte that it carries."""

PATIENCE = 10
"""Times as long that the store gets for work of its own: completing and copying can take minutes on AWS."""

ANSWER = 30.0
"""Seconds for the answer to a request that carries no bytes, and between two pieces of what is read, at most."""


@record(frozen=True, slots=True)
class S3Settings:
    """Where the bucket is and how to talk to it.

    ``key``, ``secret`` and ``token`` replace the AWS chain when given, and stay out of the repr. ``connections`` is
    how many requests may be in flight, ``part_concurrency`` how many parts of big objects (over all of them: this
    bounds memory). ``timeout`` is seconds for a request that carries bytes, besides what those take; others get no more
    than ANSWER. ``copy_limit`` is the largest object, in bytes, that the store copies in one request.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    sse: str | None = None
    sse_kms_key_id: str | None = None
    connections: int = 32
    part_concurrency: int = 4
    timeout: float = 30.0
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    copy_limit: int = 5 * 1024**3

    @property
    def answer(self) -> float:
        """Seconds for the answer to a request that carries no bytes."""
        return min(ANSWER, self.timeout)

    @property
    def encryption(self) -> dict[str, Any]:
        """The request parameters that ask for encryption; none means the bucket's default."""
        asked = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key_id}
        return {name: value for name, value in asked.items() if value}


def _is_untold(error: StoreError) -> bool:
    """Whether the error response to a HEAD, which has no body, is ambiguous. S3 sends 400 for expired credentials and
    403 for unknown ones. A 404 without a request id may not come from S3."""
    if isinstance(error, ForeignAnswer):
        return True
    return isinstance(error, StorePermanent) and error.__cause__ is not None and has_answer(error.__cause__)


class S3Client:
    """Calls S3 from any thread. Every method raises the classified error, never the client library's."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.direct = Direct(self)
        self._silence = Silence()
        self._library: Library | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def library(self) -> Library:
        """botocore, imported when it is first asked for."""
        with self._lock:
            self.check_open()
            if self._library is None:
                from cachesync.store.s3.library import Library

                self._library = Library(self)
            return self._library

    def call(self, operation: str, path: str, method: str, *, size: int = 0, patience: float = 1, **args: Any) -> Any:
        """Do one request and return its answer by botocore's names.

        ``operation`` and ``path`` are for the error; for ``size`` and ``patience`` see ``questioning``.
        """
        region = self.settings.region
        try:
            try:
                return self._ask(operation, path, method, args, size=size, patience=patience)
            except WrongRegion as error:
                self.follow(error, region)
                return self._ask(operation, path, method, args, size=size, patience=patience)
        except StoreError as error:
            if method == "head_bucket" and _is_untold(error) and not isinstance(error, StoreDenied):
                return self._ask(operation, path, "list_objects_v2", {"MaxKeys": 1})
            if method == "head_object" and _is_untold(error):
                self._ask_why(args)
            raise

    def follow(self, error: WrongRegion, asked: str | None) -> None:
        """Go on in the region that ``error`` names, which came of a request in the region ``asked``. Raises ``error``
        if that is where we are, or another provider's."""
        with self._lock:
            if self.settings.region != asked:
                return  # another thread was faster
            if error.region == asked or not may_follow(self.settings, error.region):
                raise error
            _log.warning("s3://%s is in the region %s; set region to it", self.settings.bucket, error.region)
            self.settings = replace(self.settings, region=error.region)
            library = self._library
        self.direct.forget()
        if library is not None:
            library.forget()

    def _ask(
        self, operation: str, path: str, method: str, args: Mapping[str, Any], *, size: int = 0, patience: float = 1
    ) -> Any:
        answer = self.direct.call(operation, path, method, args, size=size, patience=patience)
        if answer is not None:
            return answer
        library = self.library
        return library.run(library.request(operation, path, method, size=size, patience=patience, **args))

    def _ask_why(self, args: Mapping[str, Any]) -> None:
        """Repeat a failed HEAD as a GET, whose error response has a body, and raise that error."""
        from cachesync.store.s3.download import download

        _, source, _ = download(self, args["Key"], version_id=args.get("VersionId"))
        source.close()

    def questioning(self, operation: str, path: str, *, size: int = 0, patience: float = 1) -> tuple[float, Question]:
        """Something that the store is to answer, and the seconds that it has for that: who asks keeps to them.

        ``size`` is how many bytes go along; ``patience`` stretches the time for what makes the store work. When the
        time is up the question raises StoreSilent, or StoreTransient where bytes go along.
        """
        sending = size / SLOWEST
        limit = (self.settings.timeout if size else self.settings.answer) * patience + sending
        allowance = sending + (limit if patience > 1 else 0)
        return limit, Question(self._silence, operation, path, sends=bool(size), allowance=allowance)

    @property
    def silent_for(self) -> float | None:
        """See ObjectStore."""
        now = time.monotonic()
        since = self._silence.since(now)
        return None if since is None else now - since

    def check_open(self) -> None:
        """Raise StoreError if it is closed."""
        if self._closed:
            raise StoreError("use the store", f"s3://{self.settings.bucket}", "it is closed")

    def close(self) -> None:
        """Close the connections; calls that come later fail."""
        with self._lock:
            self._closed = True
            library = self._library
        if library is not None:
            library.close()
        self.direct.close()
