"""`make screenshots`: the operators' page with the demo on it, as pictures in docs/pictures/."""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import sync_playwright

from api.processes import ROOT, manage_command

from .demo import showroom
from .demo.__main__ import told_in_one_line
from .demo.control_plane import ControlPlane, control_plane
from .demo.errors import CannotGoOn
from .demo.service import Door, Place, place, web_and_worker

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

ASKER = "ci"
PICTURES = ROOT / "docs" / "pictures"
A_WHILE = 15  # seconds that the backfill keeps a pace for, so that its progress over time is worth a look
SESSIONS = 4  # that are at work in the meantime, one more than the backfill is told to bear

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDE: ViewportSize = {"width": 1280, "height": 860}
NARROW: ViewportSize = {"width": 375, "height": 812}


def take() -> bool:
    """Bring the demo up, take the pictures, and leave nothing behind."""
    with place("screenshots", disk=0, **showroom.VARIABLES) as where:
        where.migrate_service()
        where.migrate_project(showroom.SETTINGS)
        password = _superuser(where)
        with (
            _chromium() as browser,
            web_and_worker(where) as door,
            control_plane(_as_ci(where, door)) as control,
            showroom.on_show(where.database_url, control, ASKER),
        ):
            _pass_time(where, control)
            _take_all(browser, door.url, password, _pages(control))
    return True


def _as_ci(where: Place, door: Door) -> Door:
    """Return the door for somebody whose name looks well in a picture."""
    token = where.command(manage_command("create_api_token", ASKER, "--role", "operator")).strip()
    return replace(door, token=token)


def _pass_time(where: Place, control: ControlPlane) -> None:
    """Let the backfill go on faster and slower, and wait while others are at work."""
    pk = control.find(showroom.CHECKSUM)["id"]
    time.sleep(A_WHILE)
    control.tune(pk, {"max_rows_per_second": 400, "throttle": {"active_sessions": SESSIONS - 1}})
    time.sleep(A_WHILE)
    with ThreadPoolExecutor(SESSIONS) as others:
        list(others.map(lambda _: _be_at_work(where), range(SESSIONS)))
    control.tune(pk, {"max_rows_per_second": 250})
    time.sleep(A_WHILE)


def _be_at_work(where: Place) -> None:
    with closing(where.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", (A_WHILE,))


def _superuser(where: Place) -> str:
    """Make the user `admin`; return the password."""
    password = secrets.token_urlsafe()
    command = manage_command("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@localhost")
    where.command(command, where.env | {"DJANGO_SUPERUSER_PASSWORD": password})
    return password


def _pages(control: ControlPlane) -> dict[str, str]:
    """Return the addresses of what is taken, by the name of the picture."""
    going = control.find(showroom.CHECKSUM)["id"]
    return {"overview": "/", "list": "/migrations", "detail": f"/migrations/{going}"}


@contextmanager
def _chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise CannotGoOn("no Chromium is installed, and it is what takes the pictures: install it (Debian: chromium).")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


def _take_all(browser: Browser, url: str, password: str, pages: dict[str, str]) -> None:
    PICTURES.mkdir(exist_ok=True)
    context = browser.new_context(base_url=url, viewport=WIDE, reduced_motion="reduce")
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_label("Password").press("Enter")
    page.wait_for_url(f"{url}/")
    for name, path in pages.items():
        page.goto(path)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            _take(page, f"{name}-{scheme}")
    # A telephone has twice the pixels.
    narrow = browser.new_context(
        base_url=url, viewport=NARROW, device_scale_factor=2, storage_state=context.storage_state()
    ).new_page()
    for name, path in pages.items():
        narrow.goto(path)
        _take(narrow, f"{name}-375")


def _take(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.png")
    print(f"docs/pictures/{name}.png", flush=True)


if __name__ == "__main__":
    sys.exit(told_in_one_line("screenshots", take))
