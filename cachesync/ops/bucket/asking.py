"""Asking a bucket for its settings, and setting them: one request at a time, with the client that the store has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from cachesync.model.errors import (
    CacheSyncError,
    NoSuchBucket,
    ObjectNotFound,
    StoreCredentials,
    StoreDenied,
    StoreTransient,
)
from cachesync.ops.bucket.desired import Setting, State, Wanted
from cachesync.ops.bucket.rules import Answer, Aspect, aspects
from cachesync.store.s3.client import S3Client
from cachesync.store.s3.errors import NotSupported

MEND = "cachesync bucket init --apply"

_NO_LOCATION = frozenset({None, "", "us-east-1", "aws-global"})
"""Regions that are not named when a bucket is made,
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html"""

_TAKEN_FOR_ANOTHER = ("MethodNotAllowed", "BucketAlreadyOwnedByYou", "BucketAlreadyExists")
"""What servers answer that do not know a setting. SeaweedFS takes a PUT of the logging for the making of a bucket."""


class Bucket:
    """One bucket, compared with what is wanted of it. What the store says of one setting stops no other; that it cannot
    be reached, or knows no such credentials, is raised."""

    def __init__(self, client: S3Client, wanted: Wanted) -> None:
        self._client = client
        self._wanted = wanted
        self._answers: dict[str, Answer] = {}

    def check(self) -> Iterator[Setting]:
        """Every setting. Raises NoSuchBucket if there is no bucket."""
        if not self._exists():
            raise NoSuchBucket("check", self._url, "there is no such bucket", f"{MEND} makes it")
        for aspect in aspects(self._wanted):
            yield self._compare(aspect)

    def init(self, *, apply: bool) -> Iterator[Setting]:
        """The bucket itself, then every setting. With ``apply`` what differs is made and set, else nothing is."""
        there = self._exists()
        state = State.OK if there else State.SET if apply else State.DIFFERS
        if not there and apply:
            self._create()
        yield Setting("bucket", state, "there" if there else "none", "there", "where everything is stored")
        for aspect in aspects(self._wanted):
            if not there and not apply:
                state = State.LEFT_OUT if aspect.left_out else State.DIFFERS
                yield Setting(aspect.name, state, "no bucket yet", aspect.wanted, aspect.why, aspect.left_out)
                continue
            setting = self._compare(aspect)
            yield self._set(aspect, setting) if apply and setting.state is State.DIFFERS else setting

    def _exists(self) -> bool:
        try:
            self._call("ask for", "head_bucket")
        except (ObjectNotFound, NoSuchBucket):
            return False
        except StoreDenied as error:
            error.hint = "is it somebody else's? else give these credentials s3:ListBucket on it"
            raise
        return True

    def _create(self) -> None:
        async def region() -> str | None:
            async with self._client.library.using("create", self._url) as fs:
                found = fs._s3.meta.region_name  # noqa: SLF001
                return None if found is None else str(found)

        named = self._client.library.run(region())
        place = {} if named in _NO_LOCATION else {"CreateBucketConfiguration": {"LocationConstraint": named}}
        self._call("create", "create_bucket", **place)

    def _compare(self, aspect: Aspect) -> Setting:
        try:
            answer = self._ask(aspect)
            right, found = aspect.is_right(answer), aspect.show(answer)
        except CacheSyncError as error:
            return _judged(aspect, "unknown", error, aspect.rights[0])
        if right and not aspect.left_out:
            found = aspect.wanted if aspect.name == "TLS only" else found
            return Setting(aspect.name, State.OK, found, aspect.wanted, aspect.why)
        if aspect.left_out:
            return Setting(aspect.name, State.LEFT_OUT, found, aspect.wanted, aspect.why, aspect.left_out)
        return Setting(aspect.name, State.DIFFERS, found, aspect.wanted, aspect.why, f"{MEND}, with the same options")

    def _set(self, aspect: Aspect, setting: Setting) -> Setting:
        changed = aspect.change(self._answers[aspect.read])
        method, args = aspect.request(changed)
        try:
            self._call(f"set {aspect.name} of", method, **args)
        except CacheSyncError as error:
            return _judged(aspect, setting.found, error, aspect.rights[1])
        # Not asked for again: for a while AWS may answer what was before.
        self._answers[aspect.read] = changed
        return Setting(aspect.name, State.SET, setting.found, aspect.wanted, aspect.why)

    def _ask(self, aspect: Aspect) -> Answer:
        if aspect.read not in self._answers:
            answer: dict[str, Any] = {}
            with contextlib.suppress(ObjectNotFound):  # S3's word for a setting that nobody made
                answer = dict(self._call(f"ask for {aspect.name} of", aspect.read))
            answer.pop("ResponseMetadata", None)
            self._answers[aspect.read] = answer
        return self._answers[aspect.read]

    def _call(self, operation: str, method: str, **args: Any) -> Any:
        return self._client.call(operation, self._url, method, **args)

    @property
    def _url(self) -> str:
        return f"s3://{self._wanted.bucket}"


def _judged(aspect: Aspect, found: str, error: CacheSyncError, right: str) -> Setting:
    """The row for a setting that could not be asked for or set. Raises ``error`` if it is not about this setting."""
    cause = str(error.cause)
    if isinstance(error, NotSupported) or any(word in cause for word in _TAKEN_FOR_ANOTHER):
        note = f"this store does not support it: {cause}"
        return Setting(aspect.name, State.UNSUPPORTED, found, aspect.wanted, aspect.why, note)
    if isinstance(error, StoreTransient | StoreCredentials | NoSuchBucket):
        raise error
    mend = f"; give these credentials {right}" if isinstance(error, StoreDenied) else ""
    if "InvalidTargetBucketForLogging" in cause:
        mend = "; the log bucket has to let logging.s3.amazonaws.com write, see docs/bucket.md"
    return Setting(aspect.name, State.REFUSED, found, aspect.wanted, aspect.why, f"{cause}{mend}")
