"""Big objects, in parts: sent, resumed after a restart, or copied inside the store; put in place conditionally.

Each confirmed part is remembered by the caller's ``Resume`` before the next step, so a restart sends it no second time.
Sessions share the parts in flight, which bounds memory: one alone has ``part_concurrency`` parts of 16 MiB, all of them
three quarters more. A larger part counts as several.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any

from cachesync.model.errors import CacheSyncError, FileChanging, PreconditionFailed
from cachesync.model.gate import Gate
from cachesync.model.policy import PART_SIZE
from cachesync.model.shares import Limit
from cachesync.model.values import Attributes, Multipart, ObjectInfo, Tail, Version
from cachesync.store.base import Body, Resume
from cachesync.store.s3 import fields
from cachesync.store.s3.client import PATIENCE, S3Client
from cachesync.store.s3.errors import PartsRefused, UploadGone, WriteConflict

SMALLEST_PART = 5 * 1024**2
"""Bytes that a part must have if it is not the last."""

COPY_PART = 1024**3
"""Bytes of a part that is copied inside the store; S3 takes up to 5 GiB and 10,000 parts."""

Check = Callable[[], object]
"""Raises PreconditionFailed if what is to be replaced is not what was expected."""


class Uploads:
    """Multipart uploads over one client."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        parts = max(1, client.settings.part_concurrency)
        self._parts = Gate(Limit(parts, parts * 3 // 4))

    def put(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        *,
        expect: Version | None,
        resume: Resume | None,
        check: Check,
    ) -> Version:
        """Store ``body`` in parts and return its version.

        An upload that ``resume`` knows is continued if it is for these bytes and given up otherwise. A failure that may
        pass leaves the upload for the next call, unless there is no ``resume`` to find it again.
        Raises UploadGone if the store has forgotten the upload just when it was to be completed.
        """
        upload = self._known(key, body, resume)
        if upload is not None:
            try:
                return self._send(upload, body, expect, resume, check)
            except UploadGone:
                if resume is not None:
                    resume.finished()
                if len(upload.parts) == len(body.part_sha256):
                    raise
        upload = self._create(key, body.sha256, body.part_size, fields.described(attributes))
        if resume is not None:
            try:
                resume.started(upload)
            except BaseException:
                self.abort(upload)
                raise
        return self._send(upload, body, expect, resume, check)

    def copy(
        self,
        source: str,
        version: Version,
        size: int,
        target: str,
        described: dict[str, Any],
        *,
        expect: Version | None,
        check: Check,
        source_id: str | None = None,
    ) -> Version:
        """Copy an object of ``size`` bytes that is too big for one request; ``source_id`` names a past version."""
        copied = {"Bucket": self._client.settings.bucket, "Key": source}
        if source_id is not None:
            copied["VersionId"] = source_id
        upload = self._create(target, "", COPY_PART, described, checksums=False)
        try:
            parts = self._copied(upload, copied, version, size)
            check()
            return self._complete(upload, parts, expect)
        except BaseException:
            self.abort(upload)
            raise

    def append(
        self, key: str, body: Body, tail: Tail, described: dict[str, Any], *, expect: Version, check: Check
    ) -> Version:
        """Make ``key`` what ``expect`` holds and the tail of ``body`` after it: the first is copied inside the store.

        That the copy was of ``expect`` is sure because the key still holds it afterwards (``check``).
        """
        upload = self._create(key, body.sha256, tail.part_size, described)
        try:
            copied = {"Bucket": self._client.settings.bucket, "Key": key}
            parts = self._copied(upload, copied, expect, tail.start)
            for index, digest in enumerate(tail.sha256):
                start = tail.start + index * tail.part_size
                data = body.read(start, min(tail.part_size, body.size - start))
                if hashlib.sha256(data).hexdigest() != digest:
                    raise FileChanging("send", key, "it was changed while it was being sent")
                number = len(parts) + 1
                etag = self._send_bytes(upload, number, data, digest)
                parts.append({"PartNumber": number, "ETag": etag, "ChecksumSHA256": fields.checksum(digest)})
            check()
            return self._complete(upload, parts, expect)
        except BaseException:
            with contextlib.suppress(CacheSyncError):
                self.abort(upload)
            raise

    def _copied(self, upload: Multipart, source: dict[str, str], version: Version, size: int) -> list[dict[str, Any]]:
        """Parts that are the ``size`` bytes of an object, copied inside the store: as few, and as even, as can be."""
        count = min(-(-size // min(COPY_PART, self._client.settings.copy_limit)), size // SMALLEST_PART)
        parts: list[dict[str, Any]] = []
        for index in range(count):
            start, end = size * index // count, size * (index + 1) // count
            answer = self._client.call(
                "copy", upload.key, "upload_part_copy", patience=PATIENCE, Key=upload.key, UploadId=upload.upload_id,
                PartNumber=index + 1, CopySource=source,
                CopySourceRange=f"bytes={start}-{end - 1}", CopySourceIfMatch=fields.quoted(version.etag),
            )  # fmt: skip
            told = answer["CopyPartResult"]
            checksum = {"ChecksumSHA256": told["ChecksumSHA256"]} if told.get("ChecksumSHA256") else {}
            parts.append({"PartNumber": index + 1, "ETag": told["ETag"]} | checksum)
        return parts

    def attributes(self, found: ObjectInfo, version_id: str | None = None) -> Attributes:
        """What a copy in parts must carry over by hand."""
        named: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
        answer = self._client.call("read the tags of", found.key, "get_object_tagging", Key=found.key, **named)
        tags = {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())}
        return Attributes(found.content_type or "application/octet-stream", found.metadata, tags)

    def abort(self, upload: Multipart) -> None:
        """Give an upload up and free its parts; one that is gone is fine."""
        with contextlib.suppress(UploadGone):
            self._client.call("abort", upload.key, "abort_multipart_upload", Key=upload.key, UploadId=upload.upload_id)

    def _known(self, key: str, body: Body, resume: Resume | None) -> Multipart | None:
        """The upload to go on with. One for other bytes is given up here."""
        upload = resume.load() if resume is not None else None
        if upload is None or resume is None:
            return None
        if (upload.key, upload.sha256, upload.part_size) == (key, body.sha256, body.part_size):
            return upload
        self.abort(upload)
        resume.finished()
        return None

    def _create(
        self, key: str, sha256: str, part_size: int, described: dict[str, Any], *, checksums: bool = True
    ) -> Multipart:
        if checksums:
            described = described | {"ChecksumAlgorithm": "SHA256"}
        answer = self._client.call(
            "store", key, "create_multipart_upload", Key=key, **described, **self._client.settings.encryption
        )
        return Multipart(key=key, upload_id=answer["UploadId"], sha256=sha256, part_size=part_size)

    def _send(
        self, upload: Multipart, body: Body, expect: Version | None, resume: Resume | None, check: Check
    ) -> Version:
        """Send what is missing and complete. What can never succeed is aborted here."""
        try:
            etags = self._send_parts(upload, body, resume)
            parts = [
                {"PartNumber": number, "ETag": etags[number], "ChecksumSHA256": fields.checksum(digest)}
                for number, digest in enumerate(body.part_sha256, 1)
            ]
            check()
            done = self._complete(upload, parts, expect)
        except (PreconditionFailed, FileChanging, PartsRefused, WriteConflict):
            self._give_up(upload, resume)
            raise
        except UploadGone:
            raise
        except BaseException:
            if resume is None:
                self._give_up(upload, resume)
            raise
        if resume is not None:
            resume.finished()
        return done

    def _give_up(self, upload: Multipart, resume: Resume | None) -> None:
        """Abort because of an error that is on its way up, and that an error of aborting must not hide."""
        try:
            self.abort(upload)
        except CacheSyncError:
            # The bucket's lifecycle rule collects what could not be aborted; resume still knows it, too.
            return
        if resume is not None:
            resume.finished()

    def _send_parts(self, upload: Multipart, body: Body, resume: Resume | None) -> dict[int, str]:
        """Send the parts that are not confirmed; returns the ETags of all by number."""
        etags = dict(upload.parts)
        session = upload.key if resume is None else resume.session
        flying: dict[Future[str], int] = {}
        try:
            for number, digest in enumerate(body.part_sha256, 1):
                if number in etags:
                    # Not sent, but read: what a body's bytes were held against must be all of them.
                    self._read(body, number)
                    continue
                amount = -(-body.part_size // PART_SIZE)
                self._parts.enter(session, amount)
                leave = partial(self._parts.leave, session, amount)
                flying[self._start(upload, body, number, digest, leave)] = number
                self._collect(flying, etags, resume, [future for future in flying if future.done()])
            while flying:
                self._collect(flying, etags, resume, list(wait(flying, return_when=FIRST_COMPLETED).done))
        except BaseException:
            self._land(flying, etags, resume)
            raise
        return etags

    def _start(self, upload: Multipart, body: Body, number: int, digest: str, leave: Callable[[], None]) -> Future[str]:
        """Read one part and send it off, in a thread that ends with the process, so that a hung one never holds it up.
        ``leave`` is called when the part is through."""
        future: Future[str] = Future()

        def work() -> None:
            try:
                future.set_result(self._send_part(upload, body, number, digest))
            except BaseException as error:  # noqa: BLE001 -- who waits for the future judges
                future.set_exception(error)
            finally:
                leave()

        try:
            threading.Thread(target=work, name=f"part-{number}", daemon=True).start()
        except BaseException:
            leave()
            raise
        return future

    def _send_part(self, upload: Multipart, body: Body, number: int, digest: str) -> str:
        return self._send_bytes(upload, number, self._read(body, number), digest)

    def _read(self, body: Body, number: int) -> bytes:
        start = (number - 1) * body.part_size
        return body.read(start, min(body.part_size, body.size - start))

    def _send_bytes(self, upload: Multipart, number: int, data: bytes, digest: str) -> str:
        answer = self._client.call(
            "store", upload.key, "upload_part", size=len(data) * self._client.settings.part_concurrency,
            Key=upload.key, UploadId=upload.upload_id, PartNumber=number, Body=data,
            ChecksumSHA256=fields.checksum(digest),
        )  # fmt: skip
        return str(answer["ETag"])

    def _collect(
        self, flying: dict[Future[str], int], etags: dict[int, str], resume: Resume | None, done: list[Future[str]]
    ) -> None:
        for future in done:
            number = flying.pop(future)
            etags[number] = future.result()
            if resume is not None:
                resume.part(number, etags[number])

    def _land(self, flying: dict[Future[str], int], etags: dict[int, str], resume: Resume | None) -> None:
        """After a failure: let the other parts end, and remember those that the store confirmed."""
        wait(flying)
        for future, number in flying.items():
            if resume is not None and not future.cancelled() and future.exception() is None:
                etags[number] = future.result()
                resume.part(number, etags[number])

    def _complete(self, upload: Multipart, parts: list[dict[str, Any]], expect: Version | None) -> Version:
        answer = self._client.call(
            "store", upload.key, "complete_multipart_upload", patience=PATIENCE, Key=upload.key,
            UploadId=upload.upload_id, MultipartUpload={"Parts": parts}, **fields.condition(expect),
        )  # fmt: skip
        return fields.version(answer)
