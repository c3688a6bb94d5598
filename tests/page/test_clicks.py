"""What people do on the operators' page, by clicks, with a real worker behind it."""

from __future__ import annotations

import re

import pytest

from tests.browser import expect
from tests.conftest import eventually
from tests.db.conftest import index_is_valid, query, row_of
from tests.driving import OLD_SNAPSHOT, held, scheduled

from .conftest import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("book", "worker")]

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_title_idx"
# A batch of five rows every half a second: a minute, unless it is tuned.
SLOWLY = (
    "table='book', update='n = n + 1', rollback='noop', count='exact', throttle=False, "
    "batch_size=5, batch_delay_seconds=0.5"
)
# The preflight cannot know what the first statement leaves.
UNIQUE = "UPDATE book SET n = 0; CREATE UNIQUE INDEX CONCURRENTLY book_n_uniq ON book (n)"
NEVER_RELOADED = "window.neverReloaded = true"


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def link(page, name):
    return page.get_by_role("link", name=name, exact=True)


def becomes(page, status):
    """Wait until a page of one migration shows a status."""
    expect(page.locator(".far-along .status")).to_contain_text(status)


def confirm(page, verb, name):
    """Type the name that a dangerous verb asks for."""
    page.get_by_label("Type its name").fill(name)
    button(page, verb).click()


def log_in(page, name, password=PASSWORD):
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    button(page, "Log in").click()


def test_the_whole_life_of_a_migration(deployed, open_page, person) -> None:
    deployed("0001_title_idx_async", f"make_sql_migration({BUILD!r}, {DROP!r}, migration_name=__name__)")
    person("alice", "view", "run", "rollback")
    page = open_page()
    page.goto("/")
    log_in(page, "alice")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()

    link(page, "Migrations").click()
    page.get_by_label("Part of the name").fill("title_idx")
    button(page, "Filter").click()
    expect(page).to_have_url(re.compile("search=title_idx"))
    link(page, "0001_title_idx_async").click()
    becomes(page, "SCHEDULED")
    link(page, "What stands in the way?").click()
    expect(page.get_by_role("heading", name="What stands in the way")).to_be_visible()
    assert not page.locator(".level.error").count()
    link(page, "0001_title_idx_async").click()

    with held(*OLD_SNAPSHOT):
        button(page, "Run").click()
        expect(page.locator(".note.success")).to_be_visible()
        page.evaluate(NEVER_RELOADED)
        expect(page.locator("[data-live]")).to_contain_text("waits for")
        becomes(page, "IN PROGRESS")
        expect(page.get_by_role("progressbar")).to_be_visible()
    becomes(page, "FINISHED")
    assert page.evaluate("window.neverReloaded")
    assert index_is_valid("book_title_idx") is True

    link(page, "Roll back…").click()
    expect(page.locator("pre")).to_contain_text("DROP INDEX")
    confirm(page, "Roll back", "0001_title_idx_async")
    page.evaluate(NEVER_RELOADED)
    becomes(page, "ROLLED BACK")
    assert page.evaluate("window.neverReloaded")
    assert index_is_valid("book_title_idx") is None


def test_a_backfill_is_paused_tuned_and_goes_on(deployed, open_page, person) -> None:
    pk = deployed("0002_n_async", f"make_backfill_migration({SLOWLY}, migration_name=__name__)")
    page = open_page(person("alice", "view", "run", "tune"))
    page.goto(f"/migrations/{pk}")
    button(page, "Run").click()
    becomes(page, "IN PROGRESS")
    expect(page.locator(".far-along")).to_contain_text("of 500 rows")
    button(page, "Pause").click()
    becomes(page, "PAUSED")

    page.get_by_label("Batch size").fill("0")
    button(page, "Set").click()
    assert page.get_by_label("Batch size").evaluate("field => field.validity.rangeUnderflow")
    page.get_by_label("Batch size").fill("500")
    page.get_by_label("Batch delay seconds").fill("0")
    button(page, "Set").click()
    expect(page.locator(".note.success")).to_contain_text("batch_size")
    expect(page.get_by_label("Batch size")).to_have_value("500")
    becomes(page, "PAUSED")
    button(page, "Go on").click()
    becomes(page, "FINISHED")
    assert query("SELECT DISTINCT n FROM book") == [(1,)]


def test_a_running_build_is_cancelled_and_leaves_nothing(open_page, person) -> None:
    pk = scheduled(BUILD, DROP, "books.migrations.0004_idx")
    page = open_page(person("alice", "view", "run", "cancel"), expected="status of 400")
    page.goto(f"/migrations/{pk}")
    with held(*OLD_SNAPSHOT):
        button(page, "Run").click()
        expect(page.locator("[data-live]")).to_contain_text("waits for")
        link(page, "Cancel…").click()
        confirm(page, "Cancel", "0005_idx")
        expect(page.get_by_role("alert").filter(has_text="This is not its name")).to_be_visible()
        confirm(page, "Cancel", "0004_idx")
        expect(page.locator(".far-along")).to_contain_text("asked to stop")
        eventually(lambda: query("SELECT count(*) FROM pg_stat_progress_create_index") == [(0,)])
    becomes(page, "CANCELLED")
    assert index_is_valid("book_title_idx") is None


def test_a_failure_is_understood_and_run_again(open_page, person) -> None:
    pk = scheduled(UNIQUE, "DROP INDEX CONCURRENTLY IF EXISTS book_n_uniq", "books.migrations.0005_uniq")
    page = open_page(person("alice", "view", "run"))
    page.goto(f"/migrations/{pk}")
    button(page, "Run").click()
    becomes(page, "ERROR")
    said = page.locator(".said-loud.bad")
    expect(said).to_contain_text("Key (n)=(0) is duplicated")
    expect(said).to_contain_text("Remove the duplicate rows, then run the migration again")
    assert index_is_valid("book_n_uniq") is None

    query("UPDATE book SET n = id")
    button(page, "Run").click()
    becomes(page, "FINISHED")
    assert index_is_valid("book_n_uniq") is True


def test_what_would_fail_is_run_all_the_same(open_page, person) -> None:
    pk = scheduled("CREATE INDEX CONCURRENTLY nowhere_idx ON nowhere (id)", name="books.migrations.0006_idx")
    page = open_page(person("alice"))
    page.goto(f"/migrations/{pk}")
    button(page, "Run").click()
    expect(page.locator(".findings .error + code + p")).to_contain_text("nowhere")
    link(page, "Run all the same…").click()
    confirm(page, "Run all the same", "0006_idx")
    becomes(page, "ERROR")


def test_several_are_run_at_once(open_page, person) -> None:
    names = [f"books.migrations.000{number}_n" for number in (6, 7, 8)]
    for name in names:
        scheduled("UPDATE book SET n = n + 1", name=name)
    page = open_page(person("alice", "view", "run"))
    page.goto("/migrations")
    page.get_by_label("Choose 0006_n on default").check()
    page.get_by_label("Choose 0008_n on default").check()
    expect(page.locator("[data-chosen]")).to_have_text("2 chosen")
    button(page, "Run…").click()
    expect(page.get_by_role("heading", name="Run 2 migrations?")).to_be_visible()
    assert sorted(page.locator("main .name").all_text_contents()) == [names[0], names[2]]
    button(page, "Run 2").click()
    expect(page.locator(".note.success")).to_have_text("2 accepted.")
    expect(page.locator("tbody .status.finished")).to_have_count(2)
    assert row_of(names[1]).status == "SCHEDULED"
    assert query("SELECT DISTINCT n FROM book") == [(2,)]
