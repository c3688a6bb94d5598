"""Nothing keeps people out of a page: axe-core finds no violation, in light and dark, wide and at 375 pixels, and the
keyboard reaches every control.

A new page cannot be forgotten: every address that shows one has to be in PAGES.
"""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import product

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
from tests.db.conftest import book  # noqa: F401 - a fixture
from tests.http.test_chart import curve  # noqa: F401 - a fixture
from tests.http.test_chart import rows as points
from tests.http.test_dashboard_janitor import BUILD, leave

from .conftest import SOMEBODY

pytestmark = pytest.mark.e2e

#: Every page by the name of its address, each as what it shows differently; `{pk}` and such are those of `rows`.
PAGES = {
    "overview": ("/",),
    "list": ("/migrations", "/migrations?search=nothing", "/migrations?status=NONSENSE&ordering=-name"),
    "detail": (
        "/migrations/{scheduled}",
        "/migrations/{going}",
        "/migrations/{error}",
        "/migrations/{finished}",
        "/migrations/{building}",
    ),
    "events": ("/migrations/{error}/events",),
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
    """Look at what a page shows: wide and narrow, each light and dark."""
    page.evaluate(AXE_SCRIPT)
    for width, scheme in product((1280, 375), ("light", "dark")):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        where = f"{page.url}, {scheme}, {width} pixels"
        assert page.evaluate(_AXE) == [], where
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (where, page.evaluate(_TOO_WIDE))


#: Notes where each press of Tab leads, and what is wrong with it there.
_FOLLOW_FOCUS = """() => {
    window.reached = new Set();
    window.wrong = [];
    document.addEventListener("keyup", () => {
        const element = document.activeElement;
        const { left, top, width, height } = element.getBoundingClientRect();
        const seen = document.elementFromPoint(left + width / 2, top + height / 2);
        const without = getComputedStyle(element).outlineStyle === "none";
        if (element !== document.body && (without || !element.contains(seen) && !seen?.contains(element))) {
            wrong.push(`${without ? "no outline" : "covered"}: ${element.outerHTML.slice(0, 200)}`);
        }
        reached.add(element);
    });
}"""
_CONTROLS = "a, button, input, select, textarea, summary, [tabindex='0']"
_NOT_REACHED = f"""() => [...document.querySelectorAll("{_CONTROLS}")].filter(
    element => element.checkVisibility() && !element.disabled && !reached.has(element)
).map(element => element.outerHTML.slice(0, 200))"""


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
        "building": migration(Status.IN_PROGRESS, database="second", sql_forwards=BUILD.format("book_n_idx")),
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
    change(pk=keys["building"]).update(
        phase="waiting for writers before build", progress_percent=12.5, waiting_on=[session]
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


def refused(*paths) -> str:
    """Return what a browser says of a page at one of these addresses whose own answer is a refusal."""
    return rf"status of 40[0-4] .*\(http://[^/]*({'|'.join(map(re.escape, paths))})\)$"


def test_it_works(open_page, person, rows) -> None:
    paths = [path.format(**rows) for shown in PAGES.values() for path in shown]
    page = open_page(person("alice"), expected=refused(*paths))
    for path in paths:
        page.goto(path)
        assert_open_to_all(page)


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(open_page, person, rows) -> None:
    page = open_page(person("alice"), viewport={"width": 1280, "height": 500})
    for path in (
        "/",
        "/migrations",
        "/migrations/{going}",
        "/migrations/{finished}/rollback",
        "/gates",
        "/janitor",
        "/hold",
        "/migrations/{scheduled}/later",
    ):
        page.goto(path.format(**rows))
        page.evaluate(_FOLLOW_FOCUS)
        for _ in range(20):
            for _ in range(10):
                page.keyboard.press("Tab")
            if not page.evaluate(_NOT_REACHED):
                break
        assert (page.evaluate("wrong"), page.evaluate(_NOT_REACHED)) == ([], []), path


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
    asked = f"/migrations/{rows['finished']}/rollback"
    page = open_page(person("alice"), expected=refused(asked))
    page.goto("/migrations")
    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name="Roll back…").click()
    expect(page.get_by_role("heading", name="Not among them")).to_be_visible()
    assert_open_to_all(page)
    page.goto(asked)
    page.get_by_label("Type its name").fill("another")
    page.get_by_label("Type its name").press("Enter")
    expect(page.get_by_text("This is not its name")).to_be_visible()
    assert_open_to_all(page)


def test_a_chart_and_its_table(open_page, person, curve) -> None:  # noqa: F811
    waits = {"throttled": "lock_waiters"}
    row = curve(points(0, 0), points(2, 2000), points(4, 2000, **waits), points(6, 3000), kind="backfill")
    page = open_page(person("alice"))
    page.goto(f"/migrations/{row.pk}")
    expect(page.locator("#chart-plot canvas")).to_be_visible()
    page.locator("#chart-points summary").click()
    assert_open_to_all(page)


def test_what_is_left_over_and_its_removal(open_page, person, migration, book) -> None:  # noqa: F811
    migration(sql_forwards=BUILD.format("book_n_idx"))
    leave()
    page = open_page(person("alice"), expected=refused("/janitor/drop"))
    page.goto("/janitor")
    page.get_by_text("Definition").click()
    page.get_by_label("Choose book_n_idx on default").check()
    assert_open_to_all(page)
    page.get_by_role("button", name="Drop…").click()
    expect(page.get_by_role("heading", name="Drop 1 index?")).to_be_visible()
    page.get_by_label("Type its name").fill("another")
    page.get_by_label("Type its name").press("Enter")
    expect(page.get_by_text("This is not its name")).to_be_visible()
    assert_open_to_all(page)


def test_forms_with_errors(open_page, person, migration) -> None:
    later = f"/migrations/{migration().pk}/later"
    page = open_page(person("alice"), expected=refused("/hold", later))
    for path, typed in (("/hold", "lasts"), (later, "priority")):
        page.goto(path)
        form = page.locator("main form")
        form.evaluate("form => { form.noValidate = true }")  # as a browser that checks nothing
        form.locator(f"[name={typed}]").fill("-99999")
        form.locator("button").click()
        expect(form.locator(".wrong").first).to_be_visible()
        assert_open_to_all(page)


def test_tuning_with_errors(open_page, person, rows) -> None:
    page = open_page(person("alice"), expected=refused(f"/migrations/{rows['going']}/tune"))
    page.goto(f"/migrations/{rows['going']}")
    page.get_by_text("Throttle", exact=True).click()
    page.get_by_label("Turn off: Wraparound vacuum").check()
    signal = page.get_by_label("Lock waiters", exact=True)
    signal.evaluate("field => { field.form.noValidate = true }")
    signal.fill("-1")
    assert_open_to_all(page)
    signal.press("Enter")
    expect(page.get_by_text("This is not a number from 0")).to_be_visible()
    expect(signal).to_have_value("-1")
    expect(page.get_by_label("Turn off: Wraparound vacuum")).to_be_checked()
    assert_open_to_all(page)


def test_what_is_refused_and_what_is_not_there(open_page, person, rows) -> None:
    paths = f"/migrations/{rows['error']}/rollback", "/migrations/4711", "/nowhere"
    page = open_page(person("victor", "view"), expected=refused(*paths))
    for path in paths:
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
