"""Who comes in to the operators' page and what they see; what is done on an open page outlives what is renewed."""

from __future__ import annotations

import re

import pytest

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.browser import expect
from tests.http.conftest import begin

from .conftest import SOMEBODY
from .test_clicks import NEVER_RELOADED, button, link, log_in

pytestmark = pytest.mark.e2e


def test_login_leads_back_and_logout_ends_it(open_page, person, migration) -> None:
    row = migration()
    person("alice", "view")
    page = open_page()
    page.goto(f"/migrations/{row.pk}")
    expect(page).to_have_url(re.compile(rf"/login\?next=/migrations/{row.pk}$"))
    expect(page.get_by_label("User name")).to_be_focused()
    log_in(page, "alice", "wrong")
    expect(page.get_by_role("alert").filter(has_text="do not fit together")).to_be_visible()
    log_in(page, "alice")
    expect(page).to_have_url(re.compile(rf"/migrations/{row.pk}$"))
    button(page, "Log out").click()
    expect(page).to_have_url(re.compile("/login$"))
    page.goto("/")
    expect(page).to_have_url(re.compile("/login"))


def test_a_page_that_is_open_when_the_login_ends_asks_for_it(open_page, person, migration) -> None:
    migration()
    page = open_page(person("alice", "view"))
    page.goto("/migrations")
    page.context.clear_cookies()
    expect(page).to_have_url(re.compile(r"/login\?ended=1&next=/migrations$"))
    expect(page.get_by_role("status").filter(has_text="You are not logged in any more")).to_be_visible()
    log_in(page, "alice")
    expect(page.get_by_role("heading", name="Migrations")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/migrations", "/migrations/{pk}"])
def test_a_viewer_has_no_button(open_page, person, migration, path) -> None:
    row = migration(Status.ERROR)
    lifecycle.set_hold("", "vacuum", SOMEBODY)
    page = open_page(person("victor", "view"), expected="status of 403")
    page.goto(path.format(pk=row.pk))
    expect(page.get_by_role("button")).to_have_text(
        [re.compile("Filter|Log out|copy|Exact times")] * page.get_by_role("button").count()
    )
    assert not page.get_by_role("checkbox").count()
    page.goto(f"/migrations/{row.pk}/rollback")
    expect(page.get_by_role("heading", name="This is not for you")).to_be_visible()
    expect(page.locator("main")).to_contain_text("rollback_asyncmigrationstatus")


def test_a_form_that_is_out_of_date_says_so_and_leads_back(open_page, person) -> None:
    person("alice", "view")
    page = open_page(expected="status of 403")
    page.goto("/login")
    other = page.context.new_page()
    other.goto("/login")
    log_in(other, "alice")
    expect(other.get_by_role("heading", name="Overview")).to_be_visible()
    log_in(page, "alice")
    expect(page.get_by_role("heading", name="Nothing was done")).to_be_visible()
    link(page, "Load the page again").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_a_web_process_that_is_killed_and_started_again(open_page, person, migration, start_api) -> None:
    chosen, other, *_ = [migration() for _ in range(12)]
    web = start_api()
    # What the browser, and htmx, say of each poll while nobody answers.
    expected = "net::ERR_(CONNECTION|EMPTY|SOCKET)_|^htmx:(afterRequest|sendError)"
    page = open_page(person("alice"), at=web, expected=expected, viewport={"width": 900, "height": 420})
    page.goto("/migrations")
    page.evaluate(NEVER_RELOADED)
    away = page.get_by_role("alert").filter(has_text="The service does not answer")
    typed, box = page.get_by_label("Part of the name"), page.locator(f"#pick-{chosen.pk}")
    typed.fill("half a wo")
    box.check()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    page.evaluate("scrollTo(0, 150)")

    web.kill()
    expect(away).to_be_visible()
    lifecycle.run(other.pk, SOMEBODY)
    start_api(port=int(web.url.rpartition(":")[2]))

    expect(page.locator("tbody .status.started")).to_be_visible()
    expect(away).to_be_hidden()
    assert page.evaluate("window.neverReloaded")
    assert page.evaluate("scrollY") == 150
    assert page.evaluate("getSelection().toString()") == "Migrations"
    expect(typed).to_have_value("half a wo")
    expect(box).to_be_checked()
    page.close()


def test_what_is_being_done_outlives_what_is_renewed(open_page, person, migration) -> None:
    row = migration(Status.STARTED, sql_forwards="SELECT 1;\n" * 40)
    page = open_page(person("alice"), viewport={"width": 900, "height": 420})
    page.clock.install()
    page.goto(f"/migrations/{row.pk}")
    page.get_by_label("Priority").fill("7")
    details = page.locator("details").last
    details.locator("summary").click()
    page.evaluate("scrollTo(0, 150)")
    lifecycle.cancel(row.pk, Origin("bob"))
    lifecycle.run(row.pk, Origin("bob"))
    expect(page.locator(".timeline")).to_contain_text("bob")
    assert page.evaluate("scrollY") == 150
    assert details.get_attribute("open") is not None
    expect(page.get_by_label("Priority")).to_have_value("7")
    expect(page.get_by_label("Priority")).to_be_visible()

    page.evaluate("getSelection().selectAllChildren(document.querySelector('.timeline'))")
    with page.expect_response(lambda answer: answer.status == 200 and answer.url.endswith(f"/{row.pk}")):
        begin(row.pk)
    assert "bob" in page.evaluate("getSelection().toString()")
    expect(page.locator(".far-along .status")).to_contain_text("STARTED")
    withheld = page.get_by_role("status").filter(has_text="as soon as no text is selected")
    expect(withheld).to_be_hidden()
    page.clock.fast_forward(10_000)
    expect(withheld).to_be_visible()
    page.evaluate("getSelection().empty()")
    expect(page.locator(".far-along .status")).to_contain_text("IN PROGRESS")
    expect(withheld).to_be_hidden()
    expect(page.locator("#announcer")).to_have_text(f"{row.name.rpartition('.')[2]} is IN PROGRESS")


def test_what_is_chosen_outlives_what_is_renewed(open_page, person, migration) -> None:
    chosen, other = migration(), migration()
    lifecycle.set_hold("second", "vacuum", SOMEBODY)  # its form must not break that of the list
    page = open_page(person("alice"))
    page.goto("/migrations")
    box = page.locator(f"#pick-{chosen.pk}")
    box.check()
    lifecycle.cancel(other.pk, SOMEBODY)
    expect(page.locator(".status.cancelled")).to_be_visible()
    expect(box).to_be_checked()
    expect(page.locator("[data-chosen]")).to_have_text("1 chosen")
    button(page, "Cancel…").click()
    expect(page.locator("main .name")).to_have_text([chosen.name])


# --- keyboard only ---

_FOCUS_IS_SEEN = """() => [document.activeElement].every(
    element => element === document.body || getComputedStyle(element).outlineStyle !== "none"
)"""


def tab_to(page, target) -> None:
    """Press Tab until something has the focus; each stop on the way is to be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        assert page.evaluate(_FOCUS_IS_SEEN), page.evaluate("document.activeElement.outerHTML")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"Tab does not lead to {target}")


def test_the_first_tab_offers_to_skip_the_navigation(open_page, person, migration) -> None:
    migration()
    page = open_page(person("alice"))
    page.goto("/migrations")
    page.keyboard.press("Tab")
    skip = link(page, "To the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Part of the name")).to_be_focused()


def test_the_keyboard_is_enough(open_page, person, migration) -> None:
    rows = [migration(), migration()]
    person("alice")
    page = open_page()
    page.goto("/migrations")
    page.keyboard.type("alice")
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Migrations")).to_be_visible()
    box = page.locator(f"#pick-{rows[0].pk}")
    tab_to(page, box)
    page.keyboard.press("Space")
    expect(page.locator("[data-chosen]")).to_have_text("1 chosen")

    lifecycle.cancel(rows[1].pk, SOMEBODY)
    expect(page.locator(".status.cancelled")).to_be_visible()
    expect(box).to_be_focused()
    tab_to(page, button(page, "Run…"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Run 1 migration?")).to_be_visible()
    tab_to(page, button(page, "Run 1"))
    page.keyboard.press("Enter")
    expect(page.locator(".note.success")).to_have_text("1 accepted.")
    opened_name = rows[0].name.rpartition(".")[2]
    opened = link(page, opened_name)
    tab_to(page, opened)
    AsyncMigrationStatus.objects.filter(pk=rows[1].pk).update(
        name="app.migrations.0009_renamed", updated_at="2026-01-01T00:00Z"
    )
    expect(page.locator("tbody")).to_contain_text("0009_renamed")
    expect(opened).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=opened_name)).to_be_visible()
    tab_to(page, button(page, "Pause"))
    page.keyboard.press("Space")
    expect(page.locator(".far-along .status")).to_contain_text("PAUSED")
