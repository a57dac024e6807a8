"""The page in a real browser: headless Chromium, driven by Playwright. Nothing is downloaded for it: Debian's will do.

Skipped only where one of the two is not there, unless PAGE_TESTS=required, as CI sets.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MakeHost
from tests.e2e.watched import Served, Watched
from tests.promises.host import Host
from tests.promises.line import Line
from tests.servers import free_address

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REQUIRED = os.environ.get("PAGE_TESTS") == "required"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
]  # fmt: skip
"""As root in a container, and without looking for its maker's servers."""

OpenPage = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module; each page has a context of its own. No longer: while Playwright runs, its event loop is
    that of the thread, and no test that comes after has one of its own."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not REQUIRED:
        pytest.importorskip("playwright")
        if program is None:
            pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    assert program is not None, "PAGE_TESTS=required, and there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def served(make_host: MakeHost, line: Line) -> Host:
    """A host whose daemon serves the page, and whose way to the store can be cut; it is not started yet."""
    host = make_host()
    host.env |= {
        "S3_ENDPOINT": line.endpoint,
        "CACHESYNC_HTTP": free_address(),
        "CACHESYNC_HTTP_TOKEN": Served.token,
    }
    return host


@pytest.fixture
def open_page(browser: Browser, served: Host) -> Iterator[OpenPage]:
    """Opens the page at a place, as ``open_page("/s1/a.txt", color_scheme="dark")``; at the end it has to be clean:
    no error, nothing that its policy had to stop, no word to any other place."""
    pages: list[Watched] = []

    def make(place: str = "/", *, token: str | None = Served.token, **context: object) -> Watched:
        given = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | context
        page = Watched(browser.new_context(**given), f"http://{served.env['CACHESYNC_HTTP']}")  # type: ignore[arg-type]
        pages.append(page)
        page.open(place, token)
        return page

    yield make
    for page in pages:
        page.context.close()
    for page in pages:
        assert page.wrong() == []
