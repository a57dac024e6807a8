"""The page, as a person uses it: is everything stored, what is not and why, the flush, the files."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import OpenPage
from tests.e2e.watched import Served, Watched
from tests.promises.host import Host, eventually
from tests.promises.line import Line

pytest.importorskip("playwright") if os.environ.get("PAGE_TESTS") != "required" else None
from playwright.sync_api import expect  # noqa: E402  # after the skip

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

TOO_LONG = "/".join(["a-folder-with-a-very-long-name-" * 6] * 7)


def lit(page: Watched) -> str:
    return str(page.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


# -- the token ---------------------------------------------------------------------------------------------------------


def test_the_page_asks_for_the_token_once(served: Host, open_page: OpenPage):
    served.write("a")
    served.start()
    page = open_page(token=None)
    page.expected = ["401"]
    gate = page.page.get_by_role("heading", name="What is the token?")
    expect(gate).to_be_visible()
    expect(page.page.get_by_label("Token")).to_be_focused()
    page.page.keyboard.type("not the token")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("alert")).to_contain_text("one word")
    page.page.keyboard.type("wrong")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("alert")).to_contain_text("not the right one")
    expect(gate).to_be_visible()
    page.page.keyboard.type(Served.token)
    page.page.keyboard.press("Enter")
    expect(gate).to_be_hidden()
    page.answer(r"Everything is stored\.")
    page.page.reload()
    page.answer(r"Everything is stored\.")
    assert page.page.evaluate("JSON.stringify(localStorage)") == "{}"
    assert page.context.cookies() == []
    page.page.keyboard.press("?")
    page.button("Forget the token").click()
    expect(gate).to_be_visible()
    expect(page.page.locator("#link")).to_have_text("")
    assert page.page.evaluate("sessionStorage.length") == 0
    assert not [url for url in page.asked if Served.token in url], "no server ever sees it in an address"


def test_a_link_with_the_token_leaves_no_trace_of_it(served: Host, open_page: OpenPage):
    served.start()
    page = open_page()
    assert "token" not in page.page.url
    page.page.go_back()
    assert "token" not in page.page.url
    assert not [url for url in page.asked if Served.token in url]


# -- is everything stored? ---------------------------------------------------------------------------------------------


def test_the_answer_changes_as_files_are_written_and_stored(served: Host, open_page: OpenPage, line: Line):
    served.write("a")
    served.start()
    page = open_page()
    page.answer(r"Everything is stored\.")
    loads = len([url for url in page.asked if url.endswith("/page/app.js")])
    line.cut()
    for number in range(60):
        served.write(f"burst/{number}", "x" * 1000)
    page.answer(r"^(5\d|60) files are not stored yet\.")
    expect(page.page.locator(".hero")).to_have_attribute("data-mood", "waiting")
    expect(page.row("s1")).to_contain_text("60 not stored")
    expect(page.page.locator(".sub")).to_contain_text("The store has not answered", timeout=20_000)
    assert int(page.page.get_by_role("progressbar").get_attribute("aria-valuenow") or 100) < 50
    line.mend()
    page.answer(r"Everything is stored\.", 40)
    expect(page.row("s1")).to_contain_text("61 files")
    expect(page.page.locator(".feed")).to_contain_text("s1/burst/")
    expect(page.page.get_by_role("img", name=re.compile(r"Stored, last 15 minutes: 6\d files"))).to_be_visible()
    expect(page.page.get_by_role("img", name=re.compile(r"Close to stored.*slowest"))).to_be_visible()
    assert page.page.locator(".bar-stored").count() >= 1
    assert page.page.locator(".p50").count() >= 1
    assert len([url for url in page.asked if url.endswith("/page/app.js")]) == loads, "it was never loaded again"


def test_what_cannot_be_stored_is_shown_with_its_cause(served: Host, open_page: OpenPage, line: Line):
    served.write("fine")
    served.write(f"{TOO_LONG}/x")
    served.start()
    (served.root / "s1").joinpath(os.fsdecode(b"caf\xe9")).write_text("x")
    page = open_page()
    page.answer(r"2 files cannot be stored\.")
    expect(page.page.locator(".sub")).to_have_text("Everything else is stored.")
    line.cut()
    served.write("later")
    expect(page.page.locator(".sub")).to_contain_text("1 more file is waiting for the store", timeout=20_000)
    line.mend()
    expect(page.page.locator(".sub")).to_have_text("Everything else is stored.", timeout=20_000)
    page.row("s1").click()
    page.answer(r"2 files cannot be stored\.")
    left = page.page.get_by_role("listbox", name="Not stored yet").get_by_role("option")
    expect(left.filter(has_text="caf\\xe9")).to_contain_text("the name is not UTF-8")
    expect(left.filter(has_text="a-folder-with")).to_contain_text("1024 is the limit")
    left.filter(has_text="caf\\xe9").click()
    expect(page.page.locator(".story")).to_contain_text("the name is not UTF-8")
    page.button("Try failed again").click()
    expect(page.page.get_by_text("2 files tried again.")).to_be_visible()
    os.unlink(os.fsencode(served.root / "s1") + b"/caf\xe9")
    served.path(TOO_LONG).joinpath("x").unlink()
    page.answer(r"Everything in s1 is stored\.", 30)
    expect(page.page.locator(".waiting")).to_be_hidden()


def test_a_daemon_that_goes_and_comes_back(served: Host, open_page: OpenPage):
    served.write("a")
    served.start()
    page = open_page()
    page.expected = ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"]
    page.answer(r"Everything is stored\.")
    assert served.stop() == 0
    page.answer(r"The daemon does not answer\.")
    expect(page.page.locator("#link")).to_have_text("no answer")
    served.write("b", session="s2")
    served.start()
    page.answer(r"Everything is stored\.", 40)
    expect(page.row("s2")).to_be_visible()


def test_events_that_were_lost_are_made_up_for(served: Host, open_page: OpenPage):
    """After a ``lost`` the status and the plots are asked for again."""
    served.write("a")
    served.start()
    page = open_page(token=None)
    body = 'event: lost\ndata: {"count": 7}\n\n'
    page.context.route(
        "**/v1/events", lambda route: route.fulfill(body=body, content_type="text/event-stream"), times=1
    )
    page.open("/", Served.token)
    expect(page.page.locator(".feed")).to_contain_text("events were lost")
    page.answer(r"Everything is stored\.")
    eventually(lambda: len([url for url in page.asked if url.endswith("/v1/activity")]) > 1)


# -- the flush ---------------------------------------------------------------------------------------------------------


def test_a_flush_by_the_button_shows_its_receipt(served: Host, open_page: OpenPage, tmp_path: Path):
    for number in range(3):
        served.write(f"f{number}", "x" * number)
    (served.root / "s1" / "pipe").unlink(missing_ok=True)
    os.mkfifo(served.root / "s1" / "pipe")
    served.start()
    page = open_page("/s1")
    page.button("^Flush").click()
    receipt = page.page.get_by_role("region", name="Receipt of the flush")
    expect(receipt.get_by_role("heading", name="Stored.")).to_be_visible()
    expect(receipt).to_contain_text("3 files, 3 B")
    expect(receipt).to_contain_text("sessions/s1/.cachesync/manifest.json")
    expect(receipt.get_by_text("pipe", exact=True)).to_be_visible()
    expect(receipt.get_by_role("option")).to_have_count(3)
    with page.page.expect_download() as saved:
        page.button("Save the receipt").click()
    saved.value.save_as(tmp_path / "receipt.json")
    report = json.loads((tmp_path / "receipt.json").read_text())
    assert report["stored"] is True
    assert {line["path"] for line in report["entries"]} == served.keys() == {"f0", "f1", "f2"}
    assert served.manifest() is not None
    page.button("Close").click()
    expect(receipt).to_be_hidden()
    expect(page.button("^Flush")).to_be_focused()


HEARD = """
(() => {
  const answer = document.querySelector(".answer");
  window.heard = new Set([answer.textContent]);
  new MutationObserver(() => window.heard.add(answer.textContent)).observe(answer, { childList: true, subtree: true });
})()
"""


def test_a_flush_by_the_keyboard_says_what_is_left(served: Host, open_page: OpenPage):
    served.write("fine")
    served.start()
    (served.root / "s1").joinpath(os.fsdecode(b"caf\xe9")).write_text("x")
    page = open_page("/s1")
    page.expected = ["409"]  # what a flush answers that is not all of it; the browser writes it down
    page.answer("1 file cannot be stored")
    page.page.reload()  # so that it knows of the failure by the status, not by an event
    page.answer("1 file cannot be stored")
    page.page.evaluate(HEARD)
    asked = page.asked.count(f"{page.origin}/v1/status")
    page.page.keyboard.press("f")
    receipt = page.page.get_by_role("region", name="Receipt of the flush")
    expect(receipt.get_by_role("heading", name="Something cannot be stored.")).to_be_visible()
    expect(receipt).to_contain_text("the name is not UTF-8")
    eventually(lambda: page.button("^Flush").is_enabled() and page.asked.count(f"{page.origin}/v1/status") > asked)
    assert page.page.evaluate("[...window.heard]") == ["1 file cannot be stored."], "the same file is not counted twice"
    expect(page.page.locator(".waiting .row")).to_have_count(1)
    page.page.keyboard.press("Escape")
    expect(receipt).to_be_hidden()


# -- artifacts ---------------------------------------------------------------------------------------------------------

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c6360f8ff1f0003030200eedd5d3d"
    "0000000049454e44ae426082"
)


@pytest.fixture
def gallery(served: Host) -> Host:
    """One file of each kind."""
    served.write("notes.txt", "a plain text\nwith <b>two</b> lines\n")
    served.write("data.json", '{"a": [1, true, null], "b": "text"}')
    served.write("broken.json", "{")
    served.write(
        "plan.md", "# Plan\n\nSome *text* and `code`.\n\n- [x] one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    served.write("dot.png", PNG)
    served.write(
        "drawing.svg",
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="9" height="9"/></svg>',
    )
    served.write("site.html", "<h1>Hello</h1>")
    served.write("raw.bin", bytes(range(256)) * 4)
    served.write("empty", "")
    served.write("big.log", "".join(f"line {number}\n" for number in range(60_000)))
    served.write("deep/er/est.txt", "down here")
    served.path("link").symlink_to("notes.txt")
    served.start()
    served.stored()
    return served


def test_previews_of_each_kind(gallery: Host, open_page: OpenPage):
    page = open_page("/s1")
    preview = page.page.get_by_role("article", name="Preview")

    def shown(name: str) -> None:
        page.file(name).click()
        expect(preview.get_by_role("heading", name=name, exact=True)).to_be_visible()

    shown("notes.txt")
    expect(preview.locator("pre")).to_have_text("a plain text\nwith <b>two</b> lines\n")
    shown("data.json")
    expect(preview.locator("pre")).to_contain_text('"a": [\n    1,\n    true,\n    null\n  ]')
    expect(preview.locator(".key").first).to_have_text('"a"')
    preview.get_by_role("button", name="Source").click()
    expect(preview.locator("pre")).to_have_text('{"a": [1, true, null], "b": "text"}')
    shown("broken.json")
    expect(preview.locator("pre")).to_have_text("{")
    shown("plan.md")
    expect(preview.get_by_role("heading", name="Plan", exact=True)).to_be_visible()
    expect(preview.locator("em")).to_have_text("text")
    expect(preview.get_by_role("listitem")).to_have_count(2)
    expect(preview.get_by_role("cell", name="2")).to_be_visible()
    shown("dot.png")
    image = preview.get_by_role("img", name="dot.png")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 1
    shown("drawing.svg")
    eventually(lambda: preview.get_by_role("img", name="drawing.svg").evaluate("image => image.naturalWidth") == 40)
    shown("site.html")
    expect(preview.locator("pre")).to_have_text("<h1>Hello</h1>")
    shown("raw.bin")
    expect(preview).to_contain_text("Not text")
    expect(preview.locator("pre")).to_contain_text("000010  10 11 12")
    shown("empty")
    expect(preview).to_contain_text("An empty file.")
    shown("big.log")
    expect(preview).to_contain_text("The first 256 KiB of 6")
    assert len(preview.locator("pre").text_content() or "") == 256 * 1024
    shown("link")
    expect(preview).to_contain_text("never followed")


def test_folders_open_and_names_lead_back(gallery: Host, open_page: OpenPage):
    page = open_page("/s1")
    page.row("deep/").click()
    page.row("er/").click()
    page.row("est.txt").click()
    expect(page.page.locator(".content pre")).to_have_text("down here")
    assert page.page.url.endswith("#/s1/deep/er/est.txt")
    page.page.reload()
    expect(page.page.locator(".content pre")).to_have_text("down here")
    for expected in ("#/s1/deep/er/", "#/s1/deep/", "#/s1/", "#/"):
        page.page.keyboard.press("u")
        page.page.wait_for_url(f"**/{expected}")
    page.page.go_back()
    expect(page.file("notes.txt")).to_be_visible()


def test_a_press_opens_what_it_was_on_however_long_it_takes(gallery: Host, open_page: OpenPage):
    page = open_page()
    page.row("s1").click(delay=1300)  # the list is drawn anew each second
    page.file("deep").click(delay=150)  # and when it gets the focus
    page.file("er").wait_for()
    page.go("/s1")
    page.file("notes.txt").hover()
    page.page.mouse.down()
    for name in ("big.log", "broken.json", "data.json", "dot.png", "drawing.svg", "empty", "link", "site.html"):
        gallery.path(name).unlink()
    gallery.write("a-first.txt")
    count = page.page.locator(".files .head .small")
    expect(count).to_have_text("5")
    expect(page.file("big.log")).to_be_visible()
    page.page.mouse.up()
    page.page.wait_for_url("**/#/s1/notes.txt")
    expect(page.file("a-first.txt")).to_be_visible()
    expect(page.file("big.log")).to_have_count(0)
    expect(page.page.get_by_role("option", selected=True)).to_contain_text("notes.txt")


def test_a_press_that_is_given_up_keeps_no_rows(served: Host, open_page: OpenPage):
    for number in range(200):
        served.write(f"f{number:03}.txt", "x")
    served.start()
    page = open_page("/s1")
    expect(page.page.locator(".files .head .small")).to_have_text("200")
    page.file("f001.txt").hover()
    page.page.mouse.down()
    page.page.mouse.wheel(0, 100_000)
    expect(page.file("f199.txt")).to_be_in_viewport()
    page.page.mouse.up()
    page.file("f198.txt").hover()
    page.page.mouse.down()
    page.page.keyboard.press("Home")
    expect(page.file("f000.txt")).to_be_in_viewport()
    page.page.keyboard.press("Enter")
    page.page.wait_for_url("**/#/s1/f000.txt")
    page.page.mouse.up()


def test_history_and_a_link_that_anybody_can_read(served: Host, open_page: OpenPage):
    served.keep_versions()
    served.start()
    for text in ("one", "two!", "three"):
        served.write("a.txt", text)
        served.stored()
    page = open_page("/s1/a.txt", permissions=["clipboard-read", "clipboard-write"])
    expect(page.page.locator(".content pre")).to_have_text("three")
    page.button("History").click()
    expect(page.page.get_by_role("heading", name="3 versions")).to_be_visible()
    expect(page.page.locator(".versions li").first).to_contain_text("newest")
    page.button("Copy a link").click()
    expect(page.page.get_by_text("Copied. It works for an hour.")).to_be_visible()
    link = page.page.evaluate("navigator.clipboard.readText()")
    assert link == page.page.get_by_label("The link").input_value()
    with urllib.request.urlopen(link, timeout=10) as answer:
        assert answer.read() == b"three"


def test_a_file_that_changes_while_it_is_shown(served: Host, open_page: OpenPage):
    served.write("a.txt", "one")
    served.start()
    page = open_page("/s1/a.txt")
    expect(page.page.locator(".content pre")).to_have_text("one")
    served.write("a.txt", "two")
    page.button("Show it anew").click()
    expect(page.page.locator(".content pre")).to_have_text("two")


def test_an_evicted_file_is_read_from_the_store(served: Host, open_page: OpenPage):
    served.write("a.txt", "far away")
    served.start()
    served.stored()
    assert served.run("evict", "s1").code == 0
    page = open_page("/s1/a.txt")
    expect(page.page.locator(".content pre")).to_have_text("far away")
    expect(page.page.get_by_role("article")).to_contain_text("in the store only")
    expect(page.page.get_by_role("article")).to_contain_text("read from the store")


# -- light, dark, small, by keyboard -----------------------------------------------------------------------------------


def test_light_and_dark(served: Host, open_page: OpenPage):
    served.start()
    assert lit(open_page(color_scheme="light")) == "rgb(250, 249, 247)"
    page = open_page(color_scheme="dark")
    dark = "rgb(20, 20, 19)"
    assert lit(page) == dark
    page.button("Colours: as the system").click()
    assert lit(page) == "rgb(250, 249, 247)"
    page.page.reload()
    assert lit(page) == "rgb(250, 249, 247)"
    page.page.keyboard.press("t")
    assert lit(page) == dark
    page.page.keyboard.press("t")
    expect(page.button("Colours: as the system")).to_be_visible()


SMALL = """
[...document.querySelectorAll("button, input, a.mark")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 30)
  .map((one) => one.outerHTML)
"""


@pytest.mark.parametrize(
    "place", ["/", "/s1", "/s1/plan.md", "/s1/data.json", "/s1/notes.txt", "/s1/raw.bin", "/s1/big.log"]
)
def test_a_phone_needs_no_scrolling_sideways(gallery: Host, open_page: OpenPage, place: str):
    gallery.write("a-very-long-name-without-any-space-in-it-" * 5 + ".md", "# " + "x" * 300, "s1")
    page = open_page(place, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.page.locator(".list:visible, .preview:visible").first.wait_for()
    if place.count("/") > 1:
        expect(page.page.locator(".content pre, .content .markdown").first).to_be_visible()
    elif place == "/s1":
        page.button("^Flush").click()
        expect(page.page.get_by_role("heading", name=re.compile("Stored|Something"))).to_be_visible()
    assert page.wide() <= 0
    assert page.page.evaluate(SMALL) == [], "a finger can hit everything"


def test_the_keyboard_reaches_everything(gallery: Host, open_page: OpenPage):
    gallery.write("x", session="other")
    page = open_page()
    keyboard = page.page.keyboard
    page.row("other").wait_for()
    keyboard.press("?")
    expect(page.page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    expect(page.button("^Close$")).to_be_focused()
    keyboard.press("Escape")
    expect(page.page.get_by_role("dialog")).to_be_hidden()
    keyboard.press("/")
    keyboard.type("oth")
    expect(page.page.get_by_role("option")).to_have_count(1)
    keyboard.press("Escape")
    expect(page.page.get_by_label("Filter the sessions")).to_have_value("")
    expect(page.page.get_by_role("option")).to_have_count(2)
    keyboard.press("j")
    sessions = page.page.get_by_role("listbox", name="Sessions")
    expect(sessions).to_be_focused()
    expect(page.row("other")).to_have_attribute("aria-selected", "true")
    keyboard.press("ArrowDown")
    expect(page.row("s1")).to_have_attribute("aria-selected", "true")
    chosen = sessions.get_attribute("aria-activedescendant")
    assert chosen == page.row("s1").get_attribute("id")
    keyboard.press("Enter")
    page.answer(r"in s1 is stored")
    expect(page.page.locator("main")).to_be_focused()
    page.file("notes.txt").wait_for()
    keyboard.press("j")
    keyboard.press("End")
    keyboard.press("Enter")
    expect(page.page.get_by_role("article")).to_be_visible()
    keyboard.press("u")
    expect(page.page.get_by_role("article")).to_be_hidden()
    keyboard.press("u")
    page.answer(r"Everything is stored")


FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"


def test_the_focus_is_seen_and_goes_in_order(served: Host, open_page: OpenPage):
    served.write("a")
    served.start()
    page = open_page()
    page.row("s1").wait_for()
    names = []
    for _ in range(8):
        page.page.keyboard.press("Tab")
        names.append(
            page.page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
            )
        )
        outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "2px", names[-1]
    expected = [
        "Skip to",
        "cachesync",
        "Colours",
        "Keyboard",
        "Stored,",
        "Close to stored",
        "Filter the sessions",
        "Sessions",
    ]
    assert [name for name, start in zip(names, expected, strict=False) if not name.startswith(start)] == []


UNNAMED = """
[...document.querySelectorAll(
  "button, a, input, [role=listbox], [role=img], [role=progressbar], dialog, section, article, nav, img"
)]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.textContent.trim()
    || one.alt || (one.id && document.querySelector(`label[for="${one.id}"]`))))
  .map((one) => one.outerHTML)
"""


@pytest.mark.parametrize("place", ["/", "/s1", "/s1/plan.md", "/s1/dot.png"])
def test_everything_has_a_name(gallery: Host, open_page: OpenPage, place: str):
    page = open_page(place)
    page.page.get_by_role("option").first.wait_for()
    assert page.page.evaluate(UNNAMED) == []
    assert page.page.locator("h1:visible").count() == 1
    assert page.page.evaluate("document.documentElement.lang") == "en"


CONTRAST = """
(() => {
  const bright = (name) => {
    document.body.style.color = `var(${name})`;
    const [r, g, b] = getComputedStyle(document.body).color.match(/[0-9]+/g).map((part) => Number(part) / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = bright("--ink") === bright("--paper") ? ["no colours were read"] : [];
  for (const front of ["--ink", "--soft", "--good", "--wait", "--bad", "--cold"]) {
    for (const back of ["--paper", "--sheet", "--well"]) {
      const [a, b] = [bright(front), bright(back)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < 4.5) found.push(`${front} on ${back}: ${ratio.toFixed(2)}`);
    }
  }
  return found;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(served: Host, open_page: OpenPage, scheme: str):
    """WCAG 2.2 AA, of every colour that text has on every ground."""
    served.start()
    assert open_page(color_scheme=scheme).page.evaluate(CONTRAST) == []


MOVING = """
[...document.querySelectorAll("*")]
  .filter((one) => getComputedStyle(one).transitionDuration.split(",").some((time) => parseFloat(time) > 0)).length
"""


def test_who_wants_no_motion_gets_none(served: Host, open_page: OpenPage):
    served.start()
    assert open_page(reduced_motion="reduce").page.evaluate(MOVING) == 0
    assert open_page(reduced_motion="no-preference").page.evaluate(MOVING) > 0


# -- many --------------------------------------------------------------------------------------------------------------


LONGEST_FRAME = """
async () => {
  let [most, last] = [0, performance.now()];
  for (let frame = 0; frame < 90; frame += 1) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    most = Math.max(most, now - last);
    last = now;
  }
  return most;
}
"""


@pytest.mark.slow
def test_thousands_of_sessions_and_paths_do_not_freeze_it(served: Host, open_page: OpenPage, line: Line):
    for number in range(1500):
        (served.root / f"session-{number:04}").mkdir()
    served.start()
    line.cut()
    folder = served.path("many", "big")
    folder.mkdir(parents=True)
    for number in range(12_000):
        folder.joinpath(f"file-{number:05}.txt").write_bytes(b"x")
    page = open_page()
    page.answer(r"^12,000 files are not stored yet\.", 60)
    expect(page.page.locator(".sessions .small")).to_have_text("1,501", timeout=60_000)
    assert page.page.get_by_role("option").count() < 60, "only what is in sight is in the document"
    page.page.get_by_role("listbox", name="Sessions").focus()
    page.page.keyboard.press("End")
    expect(page.row("session-1499")).to_be_visible()
    page.go("/big/many/")
    expect(page.page.get_by_role("listbox", name="Artifacts").get_by_role("option").first).to_be_visible(timeout=30_000)
    expect(page.page.locator(".files .small").first).to_have_text("12,000", timeout=30_000)
    expect(page.page.locator(".waiting .small")).to_have_text(re.compile("of 12,000"))
    page.page.get_by_role("listbox", name="Not stored yet").focus()
    for _ in range(4):
        page.page.keyboard.press("End")
        page.page.wait_for_timeout(300)
    expect(page.page.locator(".waiting .small")).not_to_have_text(re.compile("^200 of"))
    assert page.page.get_by_role("option").count() < 120
    assert page.page.evaluate(LONGEST_FRAME) < 1000, "in the middle of it all"
