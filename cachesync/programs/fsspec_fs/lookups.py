"""What there is, as fsspec asks for it: every answer is one listing, and none is kept."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractFileSystem
from fsspec.utils import tokenize

from cachesync.model.address import Address, Space, parse_whole
from cachesync.model.errors import NoSuchSession, ObjectNotFound
from cachesync.model.outcomes import Artifact
from cachesync.model.values import Kind
from cachesync.programs.fsspec_fs.answers import Info, directory, file_address, info, os_errors

if TYPE_CHECKING:
    from cachesync.model.verbs import Artifacts


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class Lookups(AbstractFileSystem):  # type: ignore[misc] # fsspec ships no types
    """The half of the file system that changes nothing. A directory is there while something is in it."""

    @property
    def artifacts(self) -> Artifacts:
        """The verbs. Raises CacheSyncError."""
        raise NotImplementedError

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    def info(self, path: str, **_kwargs: Any) -> Info:
        """What is at ``path``: name, size, type, and mtime, version, state... of a file."""
        path = self._strip_protocol(path)
        if not path:
            return directory("")
        with os_errors(path):
            address = parse_whole(path)
            for artifact in self.artifacts.list(address):
                if artifact.kind == Kind.DIRECTORY:
                    continue
                if artifact.address == path:
                    return info(artifact)
                if artifact.address.startswith(f"{path}/"):
                    return directory(path)
            if address.session and not address.path:  # a session that is there and empty
                return directory(path)
        raise FileNotFoundError(errno.ENOENT, "no such artifact", path)

    def ls(self, path: str, detail: bool = True, **_kwargs: Any) -> list[Any]:  # noqa: FBT001, FBT002 - fsspec's signature
        """What lies directly in a directory; of a file itself. Raises FileNotFoundError if there is neither."""
        path = self._strip_protocol(path)
        found = self._spaces() if not path else self._children(path)
        if not found and path and (own := self.info(path))["type"] != "directory":
            found = [own]
        return found if detail else [each["name"] for each in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,  # noqa: FBT001, FBT002
        detail: bool = False,  # noqa: FBT001, FBT002
        **_kwargs: Any,
    ) -> Any:
        """All files below ``path``, by one listing; of a file itself. Nothing if there is nothing."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        found: dict[str, Info] = {}
        above = path.count("/") + 1 if path else 0
        deepest = None if maxdepth is None else above + maxdepth
        for top in [path] if path else [each["name"] for each in self._spaces()]:
            if withdirs and self.isdir(top):
                found[top] = directory(top)
            for artifact in self._below(top):
                parts = artifact.address.split("/")
                if deepest is None or len(parts) <= deepest:
                    found[artifact.address] = info(artifact)
                for end in range(max(above, 1) + 1, len(parts)) if withdirs else ():
                    if deepest is None or end <= deepest:
                        found.setdefault("/".join(parts[:end]), directory("/".join(parts[:end])))
        if not found and path and self.isfile(path):
            found[path] = self.info(path)
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    def walk(self, path: str, *args: Any, on_error: Any = _raise_unless_missing, **kwargs: Any) -> Any:
        """As os.walk. A store that cannot be asked is an error here too, unless ``on_error`` says otherwise."""
        return super().walk(path, *args, on_error=on_error, **kwargs)

    def exists(self, path: str, **_kwargs: Any) -> bool:
        """Whether something is there. Raises OSError if that cannot be told."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether it is a file. Raises OSError if that cannot be told."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether something lies below it. Raises OSError if that cannot be told."""
        return self._type(path) == "directory"

    def ukey(self, path: str) -> str:
        """Another one whenever the content is another: made from the version, where the store has one."""
        found = self._file_info(path)
        if found["version"] is None or found["state"] in ("dirty", "failed"):
            return str(tokenize(found["name"], found["size"], found["mtime"], found["state"]))
        return str(tokenize(found["name"], found["version"], found["version_id"]))

    def checksum(self, path: str) -> int:
        """``ukey`` as a number."""
        return int(self.ukey(path), 16)

    def modified(self, path: str) -> datetime:
        """When this version was written."""
        return datetime.fromtimestamp(self._file_info(path)["mtime"] or 0.0, UTC)

    def created(self, path: str) -> datetime:
        """As ``modified``: an object is never changed, only replaced."""
        return self.modified(path)

    def sign(self, path: str, expiration: float = 100, **_kwargs: Any) -> str:
        """A link by which anybody can read the file for ``expiration`` seconds."""
        path = self._strip_protocol(path)
        with os_errors(path):
            return self.artifacts.url(file_address(path), expires=expiration)

    def _type(self, path: str) -> str | None:
        """What is at ``path``; None for nothing, and for a name that nothing can have."""
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise

    def _file_info(self, path: str) -> Info:
        found = self.info(path)
        if found["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory has neither version nor time", path)
        return found

    def _below(self, path: str, *, shallow: bool = False) -> Iterator[Artifact]:
        """The files and links below a path, by one listing; none if there is nothing. ``shallow`` are those that lie
        directly in it, and the directories with files in them."""
        with os_errors(path), contextlib.suppress(ObjectNotFound, NoSuchSession):
            for artifact in self.artifacts.list(parse_whole(f"{path}/"), shallow=shallow):
                empty = artifact.kind == Kind.DIRECTORY and artifact.key is None
                if not empty and artifact.address.startswith(f"{path}/"):
                    yield artifact

    def _children(self, path: str) -> list[Info]:
        below = self._below(path, shallow=True)
        return [directory(one.address) if one.kind == Kind.DIRECTORY else info(one) for one in below]

    def _spaces(self) -> list[Info]:
        """The sessions, and projects and templates where something is in them."""
        with os_errors(""):
            names = {artifact.address.rstrip("/") for artifact in self.artifacts.list(Address(Space.SESSIONS))}
        others = {str(Space.PROJECTS), str(Space.TEMPLATES)}
        names = (names - others) | {name for name in others if next(self._below(name), None) is not None}
        return [directory(name) for name in sorted(names)]
