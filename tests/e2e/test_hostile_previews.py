"""P16: what an agent writes is shown, and neither runs nor loads anything, whatever it is or is called."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import OpenPage
from tests.promises.host import Host

pytest.importorskip("playwright") if os.environ.get("PAGE_TESTS") != "required" else None
from playwright.sync_api import expect  # noqa: E402  # after the skip

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that nobody may ask, and what it was asked."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(1000))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    assert heard == []


RUN = "window.hacked = 1; alert(1); fetch('{away}/ran')"
FILES = {
    "page.html": """<script>{run}</script><img src='{away}/i' onerror="{run}"><iframe src='{away}/f'></iframe>
<link rel=stylesheet href='{away}/s'><meta http-equiv=refresh content='0;url={away}/m'>""",
    "drawing.svg": """<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' width='50'
 height='50' onload="{run}"><script>{run}</script><image href='{away}/i' width='9' height='9'/>
<use xlink:href='{away}/u#x'/><foreignObject width='9' height='9'><img xmlns='http://www.w3.org/1999/xhtml'
 src='{away}/x' onerror="{run}"/></foreignObject>
<style>@import url('{away}/c'); rect {{ fill: url('{away}/p') }}</style>
<rect width='9' height='9'/></svg>""",
    "plan.md": """# <script>{run}</script>

<img src='{away}/i' onerror="{run}">

![x]({away}/pic.png)

[a](javascript:{run}) [b](data:text/html,x) [c](JaVaScRiPt:alert(1)) [d]( javascript:alert(1)) [e](//127.0.0.1/x)

<javascript:alert(1)> <a href='{away}'>x</a> [f]({away}/link "onmouseover=alert(1)")

| <b onclick={run}> | x |
|---|---|
| <svg onload={run}> | y |

> <iframe srcdoc='<script>{run}</script>'>
""",
    "data.json": """{{"__proto__": {{"hacked": 1}}, "a": "<img src={away}/i onerror=alert(1)>", "constructor": "x"}}""",
    "fake.png": "<svg xmlns='http://www.w3.org/2000/svg'><script>{run}</script></svg><script>{run}</script>",
    "notes.txt": "<script>{run}</script>\u202egnp.exe\n",
}
NO_SUCH = "iframe, object, embed, .content script, .content style, .content link, .content form, .content meta"
NO_HANDLER = ".content [onclick], .content [onerror], .content [onload], .content [style], .content [srcdoc]"


def wrote(served: Host, away: str) -> None:
    for name, text in FILES.items():
        served.write(name, text.format(run=RUN.format(away=away), away=away))


@pytest.mark.parametrize("name", FILES)
def test_nothing_in_a_file_runs_or_loads(
    served: Host, open_page: OpenPage, elsewhere: tuple[str, list[bytes]], name: str
):
    wrote(served, elsewhere[0])
    served.start()
    page = open_page(f"/s1/{name}")
    content = page.page.locator(".content")
    expect(content.locator("pre, img, .markdown").first).to_be_visible()
    for button in content.get_by_role("button").all():
        button.click()
        page.page.wait_for_timeout(200)
    page.page.wait_for_timeout(500)
    assert page.page.evaluate("[window.hacked, ({}).hacked, document.scripts.length]") == [None, None, 2]
    assert (
        page.page.locator(
            "iframe, object, embed, .content script, .content style, .content link, .content form"
        ).count()
        == 0
    )
    assert page.page.locator(NO_HANDLER).count() == 0
    assert [frame.url for frame in page.page.frames[1:]] == []
    hrefs = page.page.evaluate("[...document.querySelectorAll('.content a')].map((a) => [a.protocol, a.rel, a.target])")
    assert all(row == ["http:", "noopener noreferrer nofollow", "_blank"] for row in hrefs)


HOSTILE_NAMES = [
    "<img src=x onerror=alert(1)>", "<script>alert(1)<script>.md", '"onmouseover="alert(1)', "a'b`${alert(1)}",
    "&lt;b&gt;", "photo\u202egnp.exe", "two\nlines\ttab", "javascript:alert(1)", "%2e%2e%2fx", "a?b#c&d=e",
    "\u200b\u200bhidden", "..x", "__proto__", "constructor", "\ufeffbom", "名前 é e\u0301", "a" * 200,
]  # fmt: skip


def test_names_are_shown_as_they_are_and_open(served: Host, open_page: OpenPage):
    for name in HOSTILE_NAMES:
        served.write(name, f"this is {name!r}")
    served.start()
    page = open_page("/s1/")
    assert len(served.local()) == len(HOSTILE_NAMES)
    listbox = page.page.get_by_role("listbox", name="Artifacts")
    expect(listbox).to_be_visible()
    expect(page.page.locator(".files .small").first).to_have_text(str(len(HOSTILE_NAMES)))
    shown = set()
    content = page.page.locator(".content pre, .content .markdown")
    listbox.focus()
    page.page.keyboard.press("Home")
    for _ in HOSTILE_NAMES:
        page.page.keyboard.press("Enter")
        expect(content).to_contain_text("this is ")
        shown.add(content.text_content())
        page.page.keyboard.press("u")
        expect(page.page.get_by_role("article")).to_be_hidden()
        page.page.keyboard.press("ArrowDown")
    assert shown == {f"this is {name!r}" for name in HOSTILE_NAMES}, "each name leads to its own bytes"
    text = page.page.locator("body").inner_text()
    assert "photo\\u202egnp.exe" in text
    assert "two\\nlines\\ttab" in text
    assert not set(text) & {"\u202e", "\u200b", "\ufeff"}
    assert page.page.evaluate("window.hacked") is None


def test_names_that_are_no_utf8_can_be_read(served: Host, open_page: OpenPage):
    served.write("x")
    served.start()
    (served.root / "s1").joinpath(os.fsdecode(b"caf\xe9.txt")).write_text("still here")
    page = open_page("/s1/")
    row = page.page.get_by_role("listbox", name="Artifacts").get_by_role("option").filter(has_text="caf\\xe9.txt")
    row.click()
    expect(page.page.locator(".content pre")).to_have_text("still here")
    page.page.reload()
    expect(page.page.locator(".content pre")).to_have_text("still here")


def test_errors_and_events_are_text_too(served: Host, open_page: OpenPage):
    """A name that cannot be stored goes through the feed, the list of failures and the receipt."""
    served.write("x")
    served.start()
    page = open_page("/")
    page.expected = ["409"]
    page.answer("Everything is stored")
    evil = b"<img src=x onerror=alert(1)>\xff"
    (served.root / "s1").joinpath(os.fsdecode(evil)).write_text("x")
    shown = "<img src=x onerror=alert(1)>\\xff"
    expect(page.page.locator(".feed")).to_contain_text(shown)
    page.row("s1").click()
    expect(page.page.locator(".waiting")).to_contain_text(shown, timeout=15_000)
    page.page.keyboard.press("f")
    expect(page.page.get_by_role("region", name="Receipt of the flush")).to_contain_text(shown)
    assert page.page.locator("main img").count() == 0


def test_a_hostile_address_opens_nothing(served: Host, open_page: OpenPage):
    served.write("x")
    served.start()
    places = [
        "/../../etc/passwd", "/<script>alert(1)</script>", "/s1/../../x", "/s1/%00", "//evil.example/",
        "/s1/%2e%2e/s2/a", "/constructor", "/%",
    ]  # fmt: skip
    for place in places:
        page = open_page(place)
        page.expected = ["400", "404"]
        page.page.locator(".answer").wait_for()
        page.page.wait_for_timeout(200)
        assert page.page.evaluate("window.hacked") is None
        page.context.close()


SLOW = [
    "*" * 50_000, "[" * 50_000, "`" * 50_000 + "a", "_a" * 30_000, "> " * 20_000, "- " * 20_000, "![" * 30_000,
    "|" * 50_000 + "\n" + "|-" * 20_000, "**a" * 30_000, "<" * 50_000, " " * 100_000, "#" * 50_000, "1. " * 20_000,
    "a  \n" * 50_000, "http://" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("text", SLOW, ids=lambda text: repr(text[:6]))
def test_no_markdown_is_slow(served: Host, open_page: OpenPage, text: str):
    served.write("x.md", text)
    served.start()
    page = open_page("/s1/x.md")
    expect(page.page.locator(".content .markdown")).to_be_attached(timeout=8_000)
