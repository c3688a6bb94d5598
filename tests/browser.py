"""A real browser without a window, driven by Playwright.

Playwright's sync API leaves an event loop running in the thread that uses it, and where one runs Django refuses to
speak to a database. So all of it happens in a thread of its own, and tests use what stands in for its pages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import playwright.sync_api

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 30_000  # milliseconds that a page is given to become as expected; nothing waits so long unless it is broken

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="browser")
_OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]


class Driven:
    """Stands in for something of Playwright's: what is asked of it happens in the browser's thread."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return _in_thread(lambda: getattr(self._thing, name))

    def __enter__(self) -> Any:
        return _in_thread(self._thing.__enter__)

    def __exit__(self, *exc: Any) -> None:
        _in_thread(lambda: self._thing.__exit__(*exc))

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _in_thread(lambda: self._thing(*map(_bare, args), **options))


def _in_thread(work: Callable[[], Any]) -> Any:
    result = _THREAD.submit(work).result()
    return [_driven(each) for each in result] if isinstance(result, list) else _driven(result)


def _driven(result: Any) -> Any:
    is_data = result is None or isinstance(result, str | bytes | int | float | dict)
    return result if is_data else Driven(result)


def _bare(argument: Any) -> Any:
    return argument._thing if isinstance(argument, Driven) else argument


playwright.sync_api.expect.set_options(timeout=TIMEOUT)

#: Playwright's `expect`, for pages and locators that are driven from here.
expect = cast("playwright.sync_api.Expect", Driven(playwright.sync_api.expect))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium for the length of the block."""
    driver = Driven(_THREAD.submit(playwright.sync_api.sync_playwright().start).result())
    try:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.stop()
