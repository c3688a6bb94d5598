"""Nothing keeps people out of a page: axe-core finds no violation, in light and dark, and 375 pixels are enough.

A new page cannot be forgotten: every address that shows one has to be in PAGES.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.contrib.auth.models import User
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.dashboard.urls import urlpatterns
from async_migrations.models import AsyncMigrationBadRow, AsyncMigrationStatus
from async_migrations.states import Status
from tests.browser import expect

from .conftest import SOMEBODY

pytestmark = pytest.mark.e2e

#: Every page by the name of its address, each as what it shows differently; `{pk}` and such are those of `rows`.
PAGES = {
    "overview": ("/",),
    "list": ("/migrations", "/migrations?search=nothing", "/migrations?status=NONSENSE&ordering=-name"),
    "detail": ("/migrations/{scheduled}", "/migrations/{going}", "/migrations/{error}", "/migrations/{finished}"),
    "preflight": ("/migrations/{scheduled}/preflight", "/migrations/{error}/preflight"),
    "set_aside": ("/migrations/{finished}/set-aside", "/migrations/{error}/set-aside"),
    "gates": ("/gates", "/gates?prefix=app", "/gates?name=nothing.like.this"),
    "janitor": ("/janitor",),
    "hold": ("/hold",),
    "later": ("/migrations/{scheduled}/later",),
    "ask": ("/migrations/{finished}/rollback", "/migrations/{scheduled}/force", "/migrations/{going}/dance"),
}
#: A page with a test of its own: nobody who is logged in sees it.
OTHERS = {"login"}

_AXE = """async () => (await axe.run({resultTypes: ["violations"]})).violations.map(
    found => [found.help, ...found.nodes.map(node => `${node.html}\\n${node.failureSummary}`)].join("\\n")
)"""
_TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(
    element => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest("pre, .unseen, .skip")
).map(element => element.outerHTML.slice(0, 200))"""


def assert_open_to_all(page) -> None:
    """Look at what a page shows: wide and light, then narrow and dark."""
    page.evaluate(AXE_SCRIPT)
    for scheme, width in (("light", 1280), ("dark", 375)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        where = f"{page.url}, {scheme}, {width} pixels"
        assert page.evaluate(_AXE) == [], where
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (where, page.evaluate(_TOO_WIDE))


@pytest.fixture
def rows(control, migration):
    """One of each kind of what a page can show, and a hold."""
    long_name = "an_application_of_a_project.migrations.0012_an_index_whose_name_has_quite_a_number_of_words_async"
    made = {
        "scheduled": migration(sql_forwards="CREATE INDEX CONCURRENTLY nowhere_idx ON nowhere (id) -- 'text'"),
        "error": migration(Status.ERROR, name=long_name),
        "finished": migration(Status.FINISHED),
        "paused": migration(Status.PAUSED),
        "cancelled": migration(Status.CANCELLED),
        "rolled_back": migration(Status.ROLLED_BACK),
        "going": migration(Status.IN_PROGRESS),  # and so no other on this database
        "waiting": migration(Status.STARTED),
    }
    keys = {name: row.pk for name, row in made.items()}
    change = AsyncMigrationStatus.objects.filter
    session = {
        "pid": 4711,
        "state": "idle in transaction",
        "application_name": "report",
        "usename": "bob",
        "seconds": 61,
    }
    change(pk=keys["going"]).update(
        kind="backfill",
        progress_done=123_456,
        progress_total=1_000_000,
        progress_unit="rows",
        progress_rate=4321,
        phase="changing rows",
        queued_behind=[session],
    )
    change(pk=keys["paused"]).update(progress_done=1, progress_total=3, progress_unit="rows")
    change(pk=keys["finished"]).update(kind="backfill", quarantined=1)
    change(pk=keys["waiting"]).update(requested_at=timezone.now() - timedelta(hours=1))
    AsyncMigrationBadRow.objects.create(
        name=made["finished"].name,
        migration_id=keys["finished"],
        key=["4711"],
        error={"message": "numeric field overflow", "hint": "Correct the row."},
    )
    lifecycle.set_hold("second", "vacuum", SOMEBODY)
    return keys


@pytest.mark.parametrize("name", PAGES)
def test_it_works(open_page, person, rows, name) -> None:
    page = open_page(person("alice"), expected="status of 40[0-4]")
    for path in PAGES[name]:
        page.goto(path.format(**rows))
        assert_open_to_all(page)


def test_login(open_page, person) -> None:
    page = open_page()
    page.goto("/login")
    page.get_by_label("User name").fill("mallory")
    page.get_by_label("Password").fill("guess")
    page.get_by_label("Password").press("Enter")
    expect(page.get_by_role("alert").filter(has_text="do not fit together")).to_be_visible()
    assert_open_to_all(page)


def test_an_empty_list_and_an_overview_of_nothing(open_page, person) -> None:
    page = open_page(person("alice"))
    for path in ("/migrations", "/"):
        page.goto(path)
        assert_open_to_all(page)


def test_several_and_a_name_that_is_wrong(open_page, person, rows) -> None:
    page = open_page(person("alice"), expected="status of 400")
    page.goto("/migrations")
    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name="Roll back…").click()
    expect(page.get_by_role("heading", name="Not among them")).to_be_visible()
    assert_open_to_all(page)
    page.goto(f"/migrations/{rows['finished']}/rollback")
    page.get_by_label("Type its name").fill("another")
    page.get_by_label("Type its name").press("Enter")
    expect(page.get_by_text("This is not its name")).to_be_visible()
    assert_open_to_all(page)


def test_what_is_refused_and_what_is_not_there(open_page, person, rows) -> None:
    page = open_page(person("victor", "view"), expected="status of 40[34]")
    for path in (f"/migrations/{rows['error']}/rollback", "/migrations/4711"):
        page.goto(path)
        assert_open_to_all(page)


def test_no_page_is_forgotten(rows) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("alice"))
    values = {"pk": rows["error"], "verb": "run"}
    shown = set()
    for pattern in urlpatterns:
        try:
            path = reverse(
                f"dashboard:{pattern.name}", kwargs={name: values[name] for name in pattern.pattern.converters}
            )
        except (KeyError, NoReverseMatch):
            pytest.fail(f"{pattern} needs a value that this test does not know")
        answer = client.get(path, follow=True)
        if answer.status_code != 405 and answer.headers["Content-Type"].startswith("text/html"):
            shown.add(pattern.name)
    assert shown - OTHERS == set(PAGES)
