"""The operators' page: who sees what, what each button asks for, and what a page that is open costs."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationAudit, AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import begin

pytestmark = pytest.mark.django_db(databases=["default", "second"])

PAGES = ("/", "/migrations", "/migrations/{pk}", "/migrations/{pk}/preflight", "/migrations/{pk}/set-aside")
RUN, CANCEL, ROLLBACK = ("run", "cancel", "rollback")


def user(*verbs: str) -> User:
    made = User.objects.create_user(f"user-{'-'.join(verbs)}", password="correct horse")
    made.user_permissions.set(
        Permission.objects.filter(codename__in=[f"{verb}_asyncmigrationstatus" for verb in verbs])
    )
    return made


@pytest.fixture
def browser():
    def make(*verbs: str, checks: bool = False) -> Client:
        client = Client(enforce_csrf_checks=checks)
        client.force_login(user("view", *verbs))
        return client

    return make


def told(response):
    return [str(message) for message in get_messages(response.wsgi_request)]


def poll(client, path, tag=""):
    return client.get(path, headers={"HX-Request": "true", "If-None-Match": tag})


def asked():
    entries = AsyncMigrationAudit.objects.filter(channel="dashboard")
    return list(entries.values_list("by", "action", "outcome", "code"))


def buttons(page):
    return set(re.findall(r'(?:action|href)="/migrations/\d+/(run|pause|resume|cancel|rollback|tune)"', page.text))


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
    assert client.get("/logout").status_code == 405
    assert client.post("/logout").headers["Location"] == "/login"
    assert client.get(there).headers["Location"] == f"/login?next={there}"


@pytest.mark.parametrize("page", PAGES)
def test_nobody_sees_anything_without_logging_in(client, migration, page):
    path = page.format(pk=migration().pk)
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Location"], answer.content) == (302, f"/login?next={path}", b"")
    answer = poll(client, path)
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.content) == (204, f"/login?next={path}", b"")


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


@pytest.mark.parametrize("verb", ["run", "pause", "resume", "cancel", "rollback", "tune", "force"])
def test_what_is_not_allowed_is_refused_and_entered(browser, migration, verb):
    row = migration(Status.ERROR)
    answer = browser().post(f"/migrations/{row.pk}/{verb}", {"name": row.name})
    assert (answer.status_code, "lacks the permission" in answer.text) == (403, True)
    assert asked() == [("user-view", verb, "refused", "permission_denied")]


def test_a_form_of_somebody_else_is_refused(browser, migration):
    row = migration()
    assert browser("run", checks=True).post(f"/migrations/{row.pk}/run").status_code == 403
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_what_is_not_there(browser):
    client = browser("run")
    assert client.get("/migrations/4711").status_code == 404
    assert client.post("/migrations/4711/run").status_code == 404
    assert client.get("/migrations/4711/dance").status_code == 404


# --- one migration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verb", "becomes"),
    [
        (Status.SCHEDULED, "run", Status.STARTED),
        (Status.STARTED, "pause", Status.PAUSED),
        (Status.PAUSED, "resume", Status.STARTED),
        (Status.SCHEDULED, "cancel", Status.CANCELLED),
    ],
)
def test_each_button_does_what_it_says(browser, migration, status, verb, becomes):
    row = migration(status)
    client = browser("run", "cancel", "rollback")
    assert verb in buttons(client.get(f"/migrations/{row.pk}"))
    answer = client.post(f"/migrations/{row.pk}/{verb}")
    row.refresh_from_db()
    assert row.status == becomes, told(answer)
    assert asked()[-1] == ("user-view-run-cancel-rollback", verb, "accepted", "")


def test_a_dangerous_one_asks_for_the_name(browser, migration):
    row = migration(Status.FINISHED, name="app.migrations.0007_drop_async")
    client, path = browser("rollback"), f"/migrations/{row.pk}/rollback"
    assert "SELECT</b> 2" in client.get(path).text
    assert "Type its name" in client.post(path).text
    wrong = client.post(path, {"name": "0008"})
    assert (wrong.status_code, "This is not its name" in wrong.text) == (400, True)
    assert AsyncMigrationStatus.objects.get().status == Status.FINISHED
    assert client.post(path, {"name": "0007_drop_async"}).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.direction) == (Status.STARTED, "backwards")


def test_what_goes_on_is_cancelled_by_its_name_only(browser, migration):
    row = migration(Status.IN_PROGRESS)
    client, path = browser("cancel"), f"/migrations/{row.pk}/cancel"
    client.post(path)
    row.refresh_from_db()
    assert row.stop_requested is None
    client.post(path, {"name": row.name})
    row.refresh_from_db()
    assert row.stop_requested == "cancel"


def test_a_move_that_is_not_there_is_told(browser, migration):
    row = migration(Status.FINISHED)
    (said,) = told(browser("run").post(f"/migrations/{row.pk}/pause"))
    assert "FINISHED" in said
    assert asked()[-1][1:] == ("pause", "refused", "invalid_transition")


def test_what_stands_in_the_way_leads_to_the_findings(browser, migration):
    row = migration(sql_forwards="CREATE INDEX CONCURRENTLY nowhere_idx ON nowhere (id)")
    client = browser("run")
    answer = client.post(f"/migrations/{row.pk}/run")
    assert answer.headers["Location"] == f"/migrations/{row.pk}/preflight"
    page = client.get(answer.headers["Location"]).text
    assert ("nowhere" in page, "Run all the same" in page) == (True, False)
    client.force_login(user("view", "run", "force"))
    assert "Run all the same" in client.get(answer.headers["Location"]).text
    client.post(f"/migrations/{row.pk}/force", {"name": row.name})
    row.refresh_from_db()
    assert row.status == Status.STARTED


def test_a_backfill_is_tuned(browser, migration):
    row = migration(Status.STARTED)
    AsyncMigrationStatus.objects.update(kind="backfill")
    client, path = browser("tune"), f"/migrations/{row.pk}/tune"
    client.post(path, {"batch_size": "500", "batch_delay_seconds": "0.2", "priority": ""})
    row.refresh_from_db()
    assert row.tuning == {"batch_size": 500, "batch_delay_seconds": 0.2}
    assert 'name="batch_size" step="1" min="1" max="1000000" value="500"' in client.get(f"/migrations/{row.pk}").text
    client.post(path, {"batch_size": "", "batch_delay_seconds": "0.2"})
    (*_, said) = told(client.post(path, {"batch_delay_seconds": "soon"}))
    assert "batch_delay_seconds: This is not a number from 0 to 3,600" in said
    row.refresh_from_db()
    assert row.tuning == {"batch_delay_seconds": 0.2}


def test_a_failure_is_understood(browser, migration):
    row = migration(Status.ERROR)
    page = browser().get(f"/migrations/{row.pk}").text
    for said in ("could not create unique index", "unique_violation", "A worker began, attempt 1", "Asked to run"):
        assert said in page


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


@pytest.mark.parametrize(
    ("verb", "status", "becomes"),
    [
        (RUN, Status.SCHEDULED, Status.STARTED),
        (CANCEL, Status.SCHEDULED, Status.CANCELLED),
        (ROLLBACK, Status.FINISHED, Status.STARTED),
    ],
)
def test_several_are_asked_for_at_once(browser, migration, verb, status, becomes):
    rows = [migration(status), migration(status)]
    other = migration(Status.ROLLED_BACK if verb == ROLLBACK else Status.FINISHED)
    client, chosen = browser(verb), {"verb": verb, "pk": [row.pk for row in (*rows, other)]}
    page = client.post("/migrations/many", chosen).text
    listed = re.findall(r'name="pk" value="(\d+)"', page)
    assert set(listed) == {str(row.pk) for row in rows}
    assert other.name in page
    assert set(AsyncMigrationStatus.objects.values_list("status", flat=True)) == {status, other.status}
    assert told(client.post("/migrations/many", {"verb": verb, "pk": listed, "confirmed": "yes"})) == ["2 accepted."]
    found = lifecycle.rows().filter(pk__in=listed).values_list("status", flat=True)
    assert set(found) == {becomes}


def test_of_several_each_is_refused_by_itself(browser, migration):
    rows = [migration(), migration(Status.FINISHED)]
    wanted = {"verb": "cancel", "pk": [row.pk for row in rows], "confirmed": "yes"}
    first, *others = told(browser("cancel").post("/migrations/many", wanted))
    assert (first, len(others)) == ("1 accepted, 1 refused.", 1)
    assert rows[1].name in others[0]


def test_nothing_chosen_and_nothing_asked(browser):
    client = browser("run")
    assert "Tick the boxes" in told(client.post("/migrations/many", {"verb": "run"}))[0]
    assert client.post("/migrations/many", {"verb": "dance"}).status_code == 400
    assert client.post("/migrations/many", {"verb": "rollback"}).status_code == 403


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


def test_a_hold_is_seen_everywhere_and_lifted(browser, migration):
    row = migration()
    lifecycle.set_hold("", "Black Friday", Origin("carol"))
    client = browser("hold")
    for path in ("/", "/migrations", f"/migrations/{row.pk}"):
        assert "Black Friday" in client.get(path).text
    assert told(client.post("/lift", {"database": ""})) == ["Lifted: all databases. What was held goes on."]
    assert lifecycle.held("default") is None
    assert browser().post("/lift").status_code == 403


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
