"""The documents as a site: built strictly, whole, and without anything from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.promises.documents import TOP

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LOADED = re.compile(r"<(?:link|script|img|iframe|source|video|audio)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(TOP / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "mkdocs.yml", folder)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=150,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_document_is_a_page(site: Path):
    pages = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert {path.relative_to(TOP / "docs").with_suffix("") for path in (TOP / "docs").rglob("*.md")} <= pages
    assert not list(site.rglob("*.py"))


def test_nothing_comes_from_elsewhere(site: Path):
    for path in site.rglob("*.html"):
        loaded = LOADED.findall(path.read_text("utf-8"))
        assert loaded
        # A canonical link or a preload of another host would be one too.
        assert not [target for target in loaded if re.match(r"(?:https?:)?//", target)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", path.read_text("utf-8")), path


def test_the_search_works_from_a_folder(site: Path, browser: Browser):
    with browser.new_context() as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{site}/index.html")
        page.keyboard.press("/")
        page.keyboard.type("max_dirty_age")
        found = page.locator(".md-search-result__link").first
        found.wait_for(timeout=20_000)
        found.click()
        page.wait_for_url("**/*.html?h=*")
        assert "max_dirty_age" in page.content()
        assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_links_are_those_of_files(site: Path):
    """Opened from a folder, a link to a directory would show its listing."""
    home = (site / "index.html").read_text("utf-8")
    assert 'href="tutorial.html"' in home
