"""What there is to migrate: the source's files by the rules of a scan, without a journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cachesync.model.errors import FileUnreadable
from cachesync.model.ignore import IgnoreRules
from cachesync.model.keys import RESERVED, is_reserved
from cachesync.model.reports import Failure
from cachesync.model.values import FileStat, Kind, Skipped
from cachesync.root.tree import Tree


@dataclass(slots=True)
class Survey:
    """A walk through the sessions of a source. Fills the lists as it goes; their paths start with the session."""

    tree: Tree
    failed: list[Failure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def files(self, session: str) -> Iterator[tuple[str, FileStat]]:
        """The regular files of a session that are to be stored."""
        return ((path, stat) for path, stat in self.entries(session) if stat.kind is Kind.FILE)

    def entries(self, session: str) -> Iterator[tuple[str, FileStat]]:
        """The same, and the links and directories, which the manifest lists; a directory's path ends in "/"."""
        rules = IgnoreRules(session, self.tree.ignore_text(None), self.tree.ignore_text(session))
        directories = [""]
        while directories:
            directory = directories.pop()
            try:
                listing = self.tree.listing(session, directory)
            except FileUnreadable as error:
                self.failed.append(Failure(f"{session}/{directory or '.'}", error.reason))
                continue
            if listing is None:
                continue
            self.skipped += [Skipped(f"{session}/{special.path}", special.reason) for special in listing.special]
            for name, stat in sorted(listing.found.items()):
                path, is_dir = directory + name, stat.kind is Kind.DIRECTORY
                if is_reserved(path):
                    self.failed.append(Failure(f"{session}/{path}", f"{RESERVED} is cachesync's own name"))
                elif reason := rules.reason(path, is_dir):
                    self.skipped.append(Skipped(f"{session}/{path}", reason))
                elif is_dir:
                    directories.append(path + "/")
                    yield path + "/", stat
                else:
                    yield path, stat
