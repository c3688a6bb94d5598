"""The operators' page: who comes in, who sees what, and what a page that is open costs."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.dashboard import watch
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationBadRow, AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import asked, begin, buttons, poll, user

pytestmark = pytest.mark.django_db(databases=["default", "second"])

PAGES = (
    "/", "/migrations", "/migrations/{pk}", "/migrations/{pk}/preflight", "/migrations/{pk}/set-aside", "/gates",
    "/janitor", "/hold",
)  # fmt: skip


# --- who comes in ----------------------------------------------------------------------------------------------------


def test_it_works(client, migration):
    row = migration()
    user("view", "run")
    assert client.get("/").headers["Location"] == "/login?next=/"
    name = {"username": "user-view-run", "password": "wrong", "next": f"/migrations/{row.pk}"}
    assert "do not fit together" in client.post("/login", name).text
    there = client.post("/login", {**name, "password": "correct horse"}).headers["Location"]
    page = client.get(there)
    assert (row.name in page.text, "SELECT</b> 1" in page.text, buttons(page)) == (True, True, {"run"})
    answer = client.post(f"/migrations/{row.pk}/run")
    assert answer.headers["Location"] == there
    row.refresh_from_db()
    assert row.status == Status.STARTED
    assert asked() == [("user-view-run", "run", "accepted", "")]
    assert client.post("/logout").headers["Location"] == "/login"
    assert client.get(there).headers["Location"] == f"/login?next={there}"


@pytest.mark.parametrize("page", PAGES)
def test_nobody_sees_anything_without_logging_in(client, migration, page):
    path = page.format(pk=migration().pk)
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Location"], answer.content) == (302, f"/login?next={path}", b"")
    answer = poll(client, path)
    there = f"/login?ended=1&next={path}"
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.content) == (204, there, b"")
    assert "You are not logged in any more" in client.get(there).text


def test_a_button_that_is_pressed_after_the_login_has_ended_says_that_nothing_was_done(client, migration):
    row = migration()
    page = client.post(f"/migrations/{row.pk}/run", follow=True)
    assert "If you have just pressed a button, nothing was done" in page.text
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_an_address_that_only_does_something_says_so(client):
    user("view")
    for path in ("/logout", "/migrations/many", "/lift"):
        page = client.get(path)
        assert (page.status_code, page.headers["Allow"]) == (405, "POST")
        assert "Press it where it is" in page.text


def test_login_leads_nowhere_else(client):
    user("view")
    name = {"username": "user-view", "password": "correct horse", "next": "https://evil.example/"}
    assert client.post("/login", name).headers["Location"] == "/"


@pytest.mark.parametrize("page", PAGES)
def test_who_may_not_look_is_told_what_is_missing(client, migration, page):
    row = migration()
    client.force_login(user())
    answer = client.get(page.format(pk=row.pk))
    assert answer.status_code == 403
    assert "async_migrations.view_asyncmigrationstatus" in answer.text
    assert row.name not in answer.text


@pytest.mark.parametrize("page", PAGES)
def test_a_viewer_sees_all_and_no_button(browser, migration, page):
    row = migration(Status.ERROR)
    lifecycle.set_hold("", "vacuum", Origin("bob"))
    answer = browser().get(page.format(pk=row.pk))
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "private, no-store")
    assert buttons(answer) == set()
    assert not {"Lift", "Run…", 'type="checkbox"'} & set(re.findall(r'Lift|Run…|type="checkbox"', answer.text))


def test_a_failure_is_understood(browser, migration):
    row = migration(Status.ERROR)
    page = browser().get(f"/migrations/{row.pk}").text
    for said in ("could not create unique index", "unique_violation", "A worker began, attempt 1", "Asked to run"):
        assert said in page


def test_all_that_keeps_it_waiting_is_said(browser, migration):
    row = migration(Status.IN_PROGRESS)
    holder = {"pid": 4711, "application_name": "report", "state": "idle in transaction", "seconds": 412}
    throttled = {"reason": "lock_waiters", "value": 12, "limit": 5}
    lifecycle.rows().filter(pk=row.pk).update(
        phase="waiting for writers", waiting_on=[{**holder, "query": "SELECT '<b>'"}, {"pid": 7}], throttled=throttled
    )
    page = browser().get(f"/migrations/{row.pk}").text
    blocker = "pid 4711 (report) idle in transaction for 6 min 52 s"
    assert f"waiting for writers; waits for {blocker}; pid 7; throttled by lock_waiters: 12, limit 5" in page
    shown = page.partition("Sessions that it waits for")[2].partition("</div>")[0]
    code = "<code>SELECT &#x27;&lt;b&gt;&#x27;</code>"
    assert re.findall(r"<li>(.*?)</li>", shown) == [f"{blocker}: {code}", "pid 7"]


def test_what_stands_in_the_way_of_a_rollback(browser, migration):
    row = migration(Status.FINISHED, sql_backwards="CREATE INDEX nowhere_idx ON nowhere (id)")
    path = f"/migrations/{row.pk}/preflight?direction=backwards"
    client = browser("rollback")
    for page in (f"/migrations/{row.pk}", f"/migrations/{row.pk}/rollback"):
        assert f'href="{path}"' in client.get(page).text
    assert path not in browser("run").get(f"/migrations/{row.pk}").text
    there = client.get(path).text
    assert ("of a rollback</h1>" in there, "nowhere" in there) == (True, True)
    assert "nowhere" not in client.get(f"/migrations/{row.pk}/preflight?direction=forwards").text
    assert client.get(f"/migrations/{row.pk}/preflight?direction=sideways").status_code == 400


def test_rows_set_aside_in_many_and_in_a_database_that_is_not_there(browser, migration):
    row = migration(Status.FINISHED, kind="backfill")
    lifecycle.rows().filter(pk=row.pk).update(quarantined=1234567)
    bad = {"name": row.name, "migration_id": row.pk, "error": {"message": "value too long"}}
    AsyncMigrationBadRow.objects.bulk_create(AsyncMigrationBadRow(key=[number], **bad) for number in range(1001))
    client = browser()
    assert "1,234,567 rows set aside" in client.get(f"/migrations/{row.pk}").text
    assert "951–1,000 of 1,001" in client.get(f"/migrations/{row.pk}/set-aside?page=20").text
    lifecycle.rows().filter(pk=row.pk).update(database="gone")
    answer = client.get(f"/migrations/{row.pk}/set-aside")
    assert (answer.status_code, "&#x27;gone&#x27; is not in DATABASES here" in answer.text) == (200, True)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_is_narrowed_by_its_address(browser, migration):
    old = migration(Status.ERROR, name="shop.migrations.0001_old")
    new = migration(name="tasks.migrations.0002_new", database="second")
    AsyncMigrationStatus.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=9))
    client = browser()

    def shown(query):
        return set(re.findall(r"000\d_(\w+)</a>", client.get(f"/migrations?{query}").text))

    for query in ("search=OLD", "status=ERROR", "database=default", "age=30&search=old"):
        assert shown(query) == {"old"}, query
    assert shown("age=7") == shown("database=second&status=&kind=sql") == {"new"}
    assert shown("") == shown("kind=sql") == {"old", "new"}
    assert "No migration is like this" in client.get("/migrations?search=nothing").text
    assert "NONSENSE is not one of" in client.get("/migrations?status=NONSENSE").text
    ordered = client.get("/migrations?ordering=-name").text
    assert ordered.index("0002_new") < ordered.index("0001_old")
    assert 'aria-sort="descending"' in ordered
    assert new.name.rpartition(".")[2] in ordered


@pytest.mark.parametrize("verb", ["tune", "hold", "run"])
def test_boxes_are_for_those_who_have_a_button_for_them(browser, migration, verb):
    migration()
    page = browser(verb).get("/migrations").text
    assert [found in page for found in ('type="checkbox"', "many-run", "many-cancel")] == [verb == "run"] * 2 + [False]


def test_an_empty_list_says_how_to_begin(browser):
    assert "make_sql_migration" in browser().get("/migrations").text


def test_pages_of_the_list(browser, migration):
    for _ in range(51):
        migration()
    first, second = (
        browser(verb).get(f"/migrations?ordering=id&page={n}").text for n, verb in ((1, "run"), (2, "tune"))
    )
    assert "1–50 of 51" in first
    assert "ordering=id&amp;page=2" in first
    assert re.findall(r"(\d+_async)</a>", second) == ["0051_async"]


# --- the overview, and what is open ----------------------------------------------------------------------------------


def test_the_overview_says_what_wants_a_person(browser, migration):
    failed, going = migration(Status.ERROR), migration(Status.IN_PROGRESS)
    late, waits = migration(Status.STARTED), migration(Status.STARTED)
    AsyncMigrationStatus.objects.filter(pk=late.pk).update(requested_at=timezone.now() - timedelta(hours=1))
    page = browser().get("/").text
    parts = {name: page.index(f'id="{name}"') for name in ("troubled", "going", "waiting")}

    def places(row):
        return [found.start() for found in re.finditer(re.escape(f'href="/migrations/{row.pk}"'), page)]

    assert all(parts["troubled"] < at < parts["going"] for at in (*places(failed), places(late)[0]))
    assert all(parts["going"] < at < parts["waiting"] for at in places(going))
    assert places(waits)[0] > parts["waiting"]


def on_top(page):
    part = page.text.partition('id="troubled"')[2].partition("</section>")[0]
    return [int(pk) for pk in re.findall(r'href="/migrations/(\d+)"', part)], part


def test_what_somebody_has_blocked_for_long_wants_a_person(browser, migration):
    stuck, fine = migration(Status.IN_PROGRESS), migration(Status.IN_PROGRESS, database="second")
    change, client = lifecycle.rows().filter, browser()
    change(pk=stuck.pk).update(waiting_on=[{"pid": 1}, {"pid": 4711, "application_name": "report", "seconds": 300}])
    change(pk=fine.pk).update(waiting_on=[{"pid": 4712, "seconds": 299}])
    shown, part = on_top(client.get("/"))
    assert (shown, "pid 4711 (report) for 5 min 0 s" in part) == ([stuck.pk], True)
    change(pk=stuck.pk).update(waiting_on=[])
    assert on_top(client.get("/"))[0] == []


def test_what_the_overview_has_no_room_for_is_said_and_leads_there(browser, migration, monkeypatch):
    monkeypatch.setattr(watch, "FEW", 2)
    watch._sql.cache_clear()
    aside = migration(Status.FINISHED, kind="backfill")
    lifecycle.rows().filter(pk=aside.pk).update(quarantined=1)
    for status in (Status.ERROR, Status.ERROR, Status.ERROR, Status.STARTED, Status.STARTED, Status.STARTED):
        migration(status)
    page = browser().get("/")
    watch._sql.cache_clear()
    more = re.findall(r'href="/migrations\?([^"]*)">([^<]* ?more [^<]*)', page.text)
    assert [(unescape(query), text) for query, text in more] == [
        ("status=ERROR", "1 more that ended with an error"),
        ("status=FINISHED&set_aside=yes", "1 more with rows set aside"),
        ("status=STARTED", "1 more in line"),
    ]


def test_a_time_in_a_sentence_is_one_that_the_page_can_tell(browser, migration):
    row, client = migration(Status.STARTED), browser("hold")
    lifecycle.rows().filter(pk=row.pk).update(run_at="2030-05-17T08:00:00Z")
    for path in ("/", "/migrations", f"/migrations/{row.pk}"):
        said = re.search(r'in line for a worker(.*?)<time datetime="([^"]*)"', client.get(path).text)
        assert said.groups() == (", due ", "2030-05-17T08:00:00+00:00"), path
    page = client.post("/hold", {"reason": "<b>", "lasts": "2", "unit": "hours"}, follow=True).text
    assert re.search(r"ends by itself at <time datetime=\"[^\"]+\" data-exact>", page)
    assert "<b>" not in page.partition('class="note')[2].partition("</div>")[0]


@pytest.mark.parametrize("path", ["/", "/migrations", "/migrations/{pk}"])
def test_what_has_not_changed_is_not_sent_again(browser, migration, path, django_assert_max_num_queries):
    row = migration(Status.STARTED)
    client, path = browser(), path.format(pk=row.pk)
    page = client.get(path)
    tag = page.headers["ETag"]
    assert f"data-etag='{tag}'".replace('"', "&quot;") in page.text
    with django_assert_max_num_queries(10):
        same = poll(client, path, tag)
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert poll(client, path, f"W/{tag}").status_code == 304
    begin(row.pk)
    news = poll(client, path, tag)
    assert (news.status_code, "<html" in news.text, "IN PROGRESS" in news.text) == (200, False, True)
    assert poll(client, path, news.headers["ETag"]).status_code == 304
    lifecycle.set_hold("", "vacuum", Origin("bob"))
    assert "vacuum" in poll(client, path, news.headers["ETag"]).text
