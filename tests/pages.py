"""Pages in a headless Chromium: each visit in a fresh profile, and nothing may go wrong in it unseen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where there is none. While it lasts, this thread has a running event loop."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visits:
    """Opened pages, and what went wrong in them: console errors, dialogs, requests to another place."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.contexts: list[Any] = []
        self.wrong: list[str] = []

    def open(
        self,
        address: str,
        path: str = "/",
        *,
        also: tuple[str, ...] = (),
        permissions: tuple[str, ...] = (),
        **settings: Any,
    ) -> Any:
        """The page at an address without a slash at its end. also: beginnings of other addresses it may ask."""
        context = self.browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **settings})
        context.grant_permissions(list(permissions))
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        own, wrong = (f"{address}/", *also), self.wrong
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
        page.goto(address + path)
        return page


@contextmanager
def visits(browser: Any) -> Iterator[Visits]:
    """At the end nothing may have gone wrong; a test that means it to happen takes it out of `wrong`."""
    found = Visits(browser)
    yield found
    for context in found.contexts:
        context.close()
    assert found.wrong == []
