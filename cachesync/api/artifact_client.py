"""Artifacts, asked of the daemon over its control socket (verbs.Artifacts)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Self

from cachesync.api import wire
from cachesync.api.http_client import STORE_TIMEOUT, Asker, Options, quoted, with_options
from cachesync.model.address import Address, Space
from cachesync.model.errors import DaemonUnavailable, IntegrityError
from cachesync.model.limits import DEFAULT_EXPIRES
from cachesync.model.outcomes import Artifact, PastVersion


class RemoteReading:
    """A version that the daemon reads for us: each call of ``chunks`` asks for those bytes of that very version."""

    def __init__(self, asker: Asker, address: Address, version_id: str | None, told: Mapping[str, Any]) -> None:
        self._asker = asker
        self._target = _target("artifacts", address, [("version_id", version_id)])
        self._etag = str(told["etag"])
        self.artifact = wire.to_artifact(told["artifact"])
        self.source = str(told["source"])
        self.unverified = bool(told["unverified"])

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See Reading. A connection that breaks on the way is made again, as long as that brings something.

        So an error in the middle is heard in full: it is the answer to the second request.
        """
        artifact = self.artifact
        end = artifact.size if length is None else min(artifact.size, start + length)
        # The daemon checks what it reads in one go. Where we put it together from pieces, only we see the whole.
        whole = (start, end) == (0, artifact.size) and self.source != "local" and artifact.sha256 is not None
        digest = hashlib.sha256() if whole else None
        at = start
        while at < end:
            before = at
            headers = {"If-Match": f'"{self._etag}"', "Range": f"bytes={at}-{end - 1}"}
            if (at, end) == (0, artifact.size):
                del headers["Range"]
            try:
                for piece in self._asker.bytes(self._target, headers, end - at):
                    at += len(piece)
                    if digest is not None:
                        digest.update(piece)
                    yield piece
            except DaemonUnavailable:
                if at == before:
                    raise
        if digest is not None and digest.hexdigest() != artifact.sha256:
            raise IntegrityError("read", artifact.address, "its SHA-256 is not the one it was stored with")

    def close(self) -> None:
        """Nothing is held between two calls."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ArtifactClient:
    """Each verb is one request, a read one for each call of ``chunks`` and one before."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def list(self, address: Address, *, shallow: bool = False) -> Iterator[Artifact]:
        """See Artifacts."""
        target = _target("list", address, [("shallow", 1 if shallow else None)])
        for told in self._asker.lines("GET", target, STORE_TIMEOUT):
            yield self._asker.built(wire.to_artifact, told)

    def read(self, address: Address, *, version_id: str | None = None) -> RemoteReading:
        """See Artifacts."""
        target = _target("artifacts", address, [("version_id", version_id), ("describe", 1)])
        return self._asker.ask(
            "GET", target, lambda told: RemoteReading(self._asker, address, version_id, told), STORE_TIMEOUT
        )

    def put(
        self,
        address: Address,
        source: BinaryIO,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> Artifact:
        """See Artifacts."""
        headers = {} if content_type is None else {"Content-Type": content_type}
        if not overwrite:
            headers["If-None-Match"] = "*"
        target = _target("artifacts", address, [(f"meta-{name}", value) for name, value in (metadata or {}).items()])
        return self._asker.send(target, source, headers, wire.to_artifact)

    def remove(self, address: Address) -> None:
        """See Artifacts."""
        self._asker.ask("DELETE", _target("artifacts", address), lambda told: told["removed"], STORE_TIMEOUT)

    def url(self, address: Address, *, expires: float = DEFAULT_EXPIRES, version_id: str | None = None) -> str:
        """See Artifacts."""
        target = _target("url", address, [("expires", repr(float(expires))), ("version_id", version_id)])
        return self._asker.ask("POST", target, lambda told: str(told["url"]), STORE_TIMEOUT)

    def history(self, address: Address) -> Sequence[PastVersion]:
        """See Artifacts."""
        return self._asker.ask(
            "GET",
            _target("history", address),
            lambda told: [wire.to_past_version(item) for item in told["versions"]],
            STORE_TIMEOUT,
        )

    def restore(self, address: Address, *, version_id: str | None = None) -> Artifact:
        """See Artifacts."""
        target = _target("restore", address, [("version_id", version_id)])
        return self._asker.ask("POST", target, wire.to_artifact, STORE_TIMEOUT)


def _target(verb: str, address: Address, options: Options = ()) -> str:
    """Not ``str(address)``, which does not show whether the end of a path is a folder."""
    head = [address.name] if address.space is Space.SESSIONS else [str(address.space), address.name]
    path = "/".join([*filter(None, head), address.path])
    return with_options(f"/v1/{verb}/{quoted(path, '/')}", options)
