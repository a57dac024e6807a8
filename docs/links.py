"""A hook of mkdocs: a link to a file of the repository that is no page becomes the file's name.

On the repository's own pages such links lead there; the site has nothing to lead to.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, with those links as words."""
    depth = len(PurePosixPath(page.file.src_uri).parts) - 1

    def told(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        climbed = target.count("../")
        if climbed <= depth:
            return found[0]
        name = target.replace("../", "")
        return f"`{name}`" if words.strip("`") in (name, PurePosixPath(name).name) else f"{words} (`{name}`)"

    return _LINK.sub(told, markdown)
