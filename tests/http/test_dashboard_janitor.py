"""The operators' page: what is left over in the targets, and its removal."""

from __future__ import annotations

import html
import json
import re

import pytest
from django.db import connections

from async_migrations import tasks
from async_migrations.models import AsyncMigrationAudit
from async_migrations.states import Status
from tests.browser import expect
from tests.db.conftest import book, index_is_valid, query  # noqa: F401 - a fixture

from .conftest import asked, begin, poll, told, user

pytestmark = pytest.mark.usefixtures("control", "book")

BUILD = "CREATE UNIQUE INDEX CONCURRENTLY {} ON book (n)"
INDEX = ["default", "public", "book_n_idx"]


def leave(name="book_n_idx", using="default"):
    """Leave an INVALID index behind."""
    with pytest.raises(Exception, match="could not create unique index"):
        query(BUILD.format(name), using)


@pytest.fixture
def sent(monkeypatch):
    """The messages to `drop_leftover`, instead of sending them."""
    messages: list[tuple[str, ...]] = []
    monkeypatch.setattr(tasks.drop_leftover, "send", lambda *arguments: messages.append(arguments))
    return messages


def listed(page):
    """Return the indexes that can be chosen, or that a confirmation lists."""
    return [json.loads(html.unescape(found)) for found in re.findall(r'name="index" value="([^"]+)"', page.text)]


def drop(client, *indexes, **fields):
    return client.post("/janitor/drop", {"index": [json.dumps(index) for index in indexes], **fields})


def test_it_works(browser, migration, sent):
    row = migration(sql_forwards=BUILD.format("book_n_idx"))
    leave()
    client = browser("run")
    page = client.get("/janitor")
    assert listed(page) == [INDEX]
    for said in ("on public.book, database default", "0 bytes", f'href="/migrations/{row.pk}"', "</b> INDEX"):
        assert said in page.text.replace("INDEX</b>", "</b> INDEX"), said
    confirm = drop(client, *listed(page))
    assert (confirm.status_code, listed(confirm), "Type its name" in confirm.text) == (200, [INDEX], True)
    assert sent == []
    answer = drop(client, *listed(confirm), name="book_n_idx")
    assert told(answer) == ["A worker has been asked to drop it: public.book_n_idx on default."]
    assert asked() == [("user-view-run", "drop_leftover", "accepted", "")]
    ((*index, by, _),) = sent
    assert (index, by) == (INDEX, "user-view-run")
    tag = poll(client, "/janitor").headers["ETag"]
    assert poll(client, "/janitor", tag).status_code == 304
    tasks.drop_leftover(*sent[0])
    assert "Nothing is left over" in poll(client, "/janitor", tag).text
    assert row.events.last().by == "user-view-run"


def test_a_wrong_name_drops_nothing(browser, sent):
    leave()
    answer = drop(browser("run"), INDEX, name="book")
    assert (answer.status_code, "This is not its name" in answer.text, sent) == (400, True, [])


def test_several_are_dropped_by_a_word_without_a_broker_at_once(browser, monkeypatch):
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)
    leave()
    leave("book_n2_idx", "second")
    indexes = [INDEX, ["second", "public", "book_n2_idx"]]
    client = browser("run")
    assert listed(client.get("/janitor")) == indexes
    assert "the word <code>drop</code>" in drop(client, *indexes).text
    assert drop(client, *indexes, name="book_n_idx").status_code == 400
    said = told(drop(client, *indexes, name="drop"))
    assert said == ["It is gone: public.book_n_idx on default.", "It is gone: public.book_n2_idx on second."]
    assert index_is_valid("book_n_idx") is None is index_is_valid("book_n2_idx", "second")


def test_what_its_migration_looks_after_cannot_be_chosen(browser, migration, sent):
    row = migration(Status.STARTED, sql_forwards=BUILD.format("book_n_idx"))
    leave()
    begin(row.pk)
    client = browser("run")
    page = client.get("/janitor")
    assert (listed(page), "repairs or removes it by itself" in page.text) == ([], True)
    assert "Nothing to drop" in drop(client, INDEX).text
    (said,) = told(drop(client, INDEX, name="book_n_idx"))
    assert (f"migration {row.pk}" in said, sent) == (True, [])
    assert asked() == [("user-view-run", "drop_leftover", "refused", "not_a_leftover")]


def test_what_is_valid_by_now_stays(browser, sent):
    leave()
    query("UPDATE book SET n = id")
    query("REINDEX INDEX book_n_idx")
    (said,) = told(drop(browser("run"), INDEX, name="book_n_idx"))
    assert ("is no leftover" in said, index_is_valid("book_n_idx"), sent) == (True, True, [])


def test_a_viewer_may_look_and_not_drop(browser, sent):
    leave()
    client = browser()
    page = client.get("/janitor")
    assert ("book_n_idx" in page.text, listed(page), "Drop…" in page.text) == (True, [], False)
    answer = drop(client, INDEX, name="book_n_idx")
    assert (answer.status_code, "run_asyncmigrationstatus" in answer.text, sent) == (403, True, [])
    assert asked() == [("user-view", "drop_leftover", "refused", "permission_denied")]


def test_a_target_that_is_away_hides_no_other(browser, monkeypatch, sent):
    leave()
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    client = browser("run")
    page = client.get("/janitor")
    assert (listed(page), "second cannot be looked at now" in page.text) == ([INDEX], True)
    (said,) = told(drop(client, ["second", "public", "x"], name="x"))
    assert said.startswith("Not dropped: public.x on second: ")
    assert asked() == [("user-view-run", "drop_leftover", "failed", "connection_lost")]
    query("DROP INDEX book_n_idx")
    assert "on the databases that answer" in client.get("/janitor").text


def test_a_broker_that_is_away_is_told_once(browser, monkeypatch):
    def away(*arguments):
        raise ConnectionError("secret")

    monkeypatch.setattr(tasks.drop_leftover, "send", away)
    leave()
    leave("book_n2_idx")
    (said,) = told(drop(browser("run"), INDEX, ["default", "public", "book_n2_idx"], name="drop"))
    assert ("The broker does not answer" in said, "secret" in said) == (True, False)
    assert AsyncMigrationAudit.objects.get(outcome="failed").code == "broker_unavailable"


@pytest.mark.parametrize(
    "text", ["", "book_n_idx", "[1]", "null", '["nowhere", "public", "x"]', '["default", 1, "x"]', '["default", "x"]']
)
def test_nonsense_is_nothing_chosen(browser, sent, text):
    answer = browser("run").post("/janitor/drop", {"index": text, "name": "x"})
    assert ("Tick the boxes" in told(answer)[0], sent) == (True, [])


def test_in_a_browser(open_page):
    leave()
    leave("book_n2_idx")
    page = open_page(user("view", "run"))
    page.goto("/janitor")
    box = page.locator("#pick-default-public-book_n_idx")
    box.check()
    expect(page.locator("[data-chosen]")).to_have_text("1 chosen")
    query("DROP INDEX book_n2_idx")
    page.evaluate("htmx.trigger('[data-live]', 'look')")
    expect(page.locator("[data-announce='1 left over']")).to_be_attached()
    expect(box).to_be_checked()
    page.locator("#ask-drop").click()
    expect(page.locator("main li .name")).to_have_text("book_n_idx")
    page.locator("main [name=name]").fill("book_n_idx")
    page.locator("main .danger").click()
    expect(page.locator("main")).to_contain_text("A worker has been asked to drop it")
