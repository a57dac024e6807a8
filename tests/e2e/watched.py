"""A page that is watched: what it asks for, what it complains of, what its policy had to stop."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Dialog, Locator

_REPORT = """
addEventListener("securitypolicyviolation", (event) =>
  window.reportBroken(`${event.violatedDirective} ${event.blockedURI}`));
"""


class Served:
    """What every daemon of these tests has."""

    token = "MARKED-token-of-the-page"


class Watched:
    """One page in a context of its own. ``expected`` are patterns of complaints that belong to the test."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.context = context
        self.origin = origin
        self.expected: list[str] = []
        self.complaints: list[str] = []
        self.asked: list[str] = []
        context.set_default_timeout(15_000)
        context.expose_function("reportBroken", lambda what: self.complaints.append(f"policy: {what}"))
        context.add_init_script(_REPORT)
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        context.on("request", lambda request: self.asked.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, place: str = "/", token: str | None = None) -> None:
        """Go to a place of the page, with the token as a link would bring it."""
        if token is not None:
            self.page.goto(f"{self.origin}/#token={token}")
            self.page.locator(".answer").wait_for()
        self.go(place)

    def go(self, place: str) -> None:
        self.page.goto(f"{self.origin}/#{place}")

    def wrong(self) -> list[str]:
        """Everything that should not have been."""
        ours = (f"{self.origin}/", f"blob:{self.origin}/")
        away = [f"asked {url}" for url in self.asked if not url.startswith(ours)]
        return away + [
            said for said in self.complaints if not any(re.search(pattern, said) for pattern in self.expected)
        ]

    def answer(self, text: str, timeout: float = 20) -> None:
        """Wait until the large sentence says ``text``, a pattern."""
        from playwright.sync_api import expect

        expect(self.page.locator(".answer")).to_have_text(re.compile(text), timeout=timeout * 1000)

    def row(self, text: str) -> Locator:
        """A row of a list, by what is in it."""
        return self.page.get_by_role("option").filter(has_text=text)

    def file(self, name: str) -> Locator:
        """The row of a file or folder in the list of artifacts, by its whole name."""
        rows = self.page.get_by_role("listbox", name="Artifacts").get_by_role("option")
        return rows.filter(has=self.page.locator("bdi").get_by_text(name, exact=True))

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=re.compile(name))

    def wide(self) -> int:
        """How many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))
