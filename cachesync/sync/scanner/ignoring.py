"""Applies the ignore rules of the root and of each session. The objects of ignored paths stay in the store."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from cachesync.journal.journal import Journal
from cachesync.journal.rows import Known
from cachesync.model.ignore import IgnoreRules
from cachesync.model.keys import RESERVED
from cachesync.model.reports import Failure
from cachesync.model.values import Skipped
from cachesync.root.listing import Listing
from cachesync.root.tree import Tree
from cachesync.sync.scanner.batch import ScanResult

logger = logging.getLogger(__name__)


class Ignoring:
    """The ignore rules, read once for each session until they are forgotten."""

    def __init__(self, tree: Tree, journal: Journal) -> None:
        self._tree = tree
        self._journal = journal
        self._rules: dict[str, IgnoreRules] = {}

    def rules(self, session: str) -> IgnoreRules:
        """Return the rules for a session. Logs patterns that are not valid."""
        rules = self._rules.get(session)
        if rules is None:
            rules = IgnoreRules(session, self._tree.ignore_text(None), self._tree.ignore_text(session))
            for sentence in rules.broken:
                logger.warning("%s", sentence, extra={"session": session})
            self._rules[session] = rules
        return rules

    def forget(self, session: str | None) -> None:
        """Discard the cached ignore rules of one session, or of all (None)."""
        if session is None:
            self._rules.clear()
        else:
            self._rules.pop(session, None)

    def leave_out(
        self, session: str, directory: str, listing: Listing, known: Mapping[bytes, Known], result: ScanResult
    ) -> set[str]:
        """Return the ignored names of a listing. Their objects stay in the store."""
        left_out = set[str]()
        if not directory and listing.found.pop(RESERVED, None) is not None:
            result.failures.append(Failure(RESERVED, f"the name {RESERVED} is reserved for cachesync"))
        rules = self.rules(session)
        for names, is_dir in ((listing.files(), False), (listing.directories(), True)):
            for name, reason in rules.ignored(directory, names, is_dir=is_dir).items():
                left_out.add(name)
                result.skipped.append(Skipped(directory + name, reason))
                row = known.get(os.fsencode(name))
                if is_dir or name not in listing.found or (row is not None and row.resident):
                    self._journal.entries.let_go(session, directory + name, is_dir=is_dir)
        return left_out

    def rest(self, session: str, missing: Sequence[str]) -> list[str]:
        """Return the missing paths that are not ignored. The objects of ignored paths stay in the store."""
        rules, left = self.rules(session), []
        for path in missing:
            if rules.reason(path, path.endswith("/")):
                self._journal.entries.let_go(session, path.rstrip("/"), is_dir=path.endswith("/"))
            else:
                left.append(path)
        return left
