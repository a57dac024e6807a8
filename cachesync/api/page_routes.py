"""The page for people: a few files of the package, without any data in them, so they are served to everybody.

They are read once and known by name: nothing that a request says becomes a path on the disk.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from aiohttp import web

from cachesync.api.guard import PAGE_POLICY
from cachesync.api.http_io import query

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


class PageRoutes:
    """``/`` is the page, ``/page/NAME`` what it is made of."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for file in files("cachesync.api").joinpath("page").iterdir():
            kind = _TYPES.get(file.name.rpartition(".")[2])
            if kind is not None:
                data = file.read_bytes()
                place = "/" if file.name == "index.html" else f"/page/{file.name}"
                self._files[place] = (data, kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    @property
    def paths(self) -> set[str]:
        """Every path that is served."""
        return set(self._files)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [web.get(path, self.show) for path in sorted(self._files)]

    async def show(self, request: web.Request) -> web.Response:
        """One file; 304 if the browser has it."""
        query(request)
        data, kind, etag = self._files[request.path]
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache", "ETag": etag}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=web.HTTPNotModified.status_code, headers=headers)
        return web.Response(body=data, content_type=kind, charset="utf-8", headers=headers)
