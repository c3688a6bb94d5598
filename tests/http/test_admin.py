"""The admin, as a person with a browser uses it: pages, filters, actions, and who may do what."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from async_migrations import lifecycle
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Lease, Origin, Request
from async_migrations.models import AsyncMigrationEvent, AsyncMigrationStatus
from async_migrations.states import Status

pytestmark = pytest.mark.django_db(databases=["default", "second"])

LIST = reverse("admin:async_migrations_asyncmigrationstatus_changelist")
EVENTS = reverse("admin:async_migrations_asyncmigrationevent_changelist")
BACKWARDS = "DROP INDEX CONCURRENTLY IF EXISTS task_idx"


def detail(row: AsyncMigrationStatus) -> str:
    return reverse("admin:async_migrations_asyncmigrationstatus_change", args=[row.pk])


@pytest.fixture
def migration():
    def make(name="0001_index_async", *, status=Status.SCHEDULED, database="default", sql="SELECT 1"):
        request = Request(
            operation="schedule",
            name=f"tasks.migrations.{name}",
            database=database,
            sql_forwards=sql,
            sql_backwards=BACKWARDS,
        )
        pk = lifecycle.take_over(request).pk
        if status != Status.SCHEDULED:
            lifecycle.run(pk, Origin("ci"))
        if status in {Status.FINISHED, Status.ERROR}:
            lease = lifecycle.claim(pk, "worker-1:7")
            end(lease, status)
        return lifecycle.get(pk)

    def end(lease: Lease | None, status: Status) -> None:
        assert lease is not None
        if status == Status.FINISHED:
            lifecycle.succeed(lease)
        else:
            lifecycle.fail(
                lease,
                ExecutionError(
                    code="unique_violation",
                    message="could not create unique index",
                    sqlstate="23505",
                    detail="Key (email)=(<b>x</b>) is duplicated.",
                    hint="Remove the duplicates.",
                    statement=2,
                ),
            )

    return make


@pytest.fixture
def browser():
    def make(*verbs, superuser=False):
        user = User.objects.create_user(f"user-{'-'.join(verbs)}", is_staff=True, is_superuser=superuser)
        names = [f"{verb}_asyncmigrationstatus" for verb in ("view", *verbs)] + ["view_asyncmigrationevent"]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    return make


def act(client: Client, action: str, *rows: AsyncMigrationStatus, **fields: str) -> tuple[Any, list[tuple[str, str]]]:
    data = {"action": f"{action}_selected", "_selected_action": [row.pk for row in rows], "index": "0", **fields}
    response = client.post(LIST, data)
    return response, [(message.level_tag, str(message)) for message in get_messages(response.wsgi_request)]


def status(row: AsyncMigrationStatus) -> str:
    return lifecycle.get(row.pk).status


def test_the_list_says_each_status_in_words(browser, migration):
    migration("0001_waits")
    migration("0002_done", status=Status.FINISHED)
    migration("0003_broken", status=Status.ERROR)
    page = browser().get(LIST).content.decode()
    for name, word in (("0001_waits", "SCHEDULED"), ("0002_done", "FINISHED"), ("0003_broken", "ERROR")):
        assert re.search(rf"{name}.*?am-badge[^>]*>{word}<", page, re.DOTALL)
    assert "100.0 %" in page


def test_nothing_on_the_pages_needs_an_inline_style_or_script_of_ours(browser, migration):
    row = migration(status=Status.ERROR)
    client = browser("run", "cancel", "rollback")
    confirmation = act(client, "rollback", row)[0].content
    for page in (client.get(LIST).content, client.get(detail(row)).content, confirmation):
        assert b"style=" not in page
        assert b"async_migrations/admin.css" in page
        assert not re.search(rb"<script(?![^>]*\bsrc=)[^>]*>", page)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"status__exact": "FINISHED"}, {"0002_done"}),
        ({"database": "second"}, {"0003_second"}),
        ({"kind__exact": "sql"}, {"0001_waits", "0002_done", "0003_second"}),
        ({"created_at__year": "1999"}, set()),
        ({"q": "migrations.0001"}, {"0001_waits"}),
    ],
)
def test_the_list_is_filtered_and_searched(browser, migration, query, shown):
    migration("0001_waits")
    migration("0002_done", status=Status.FINISHED)
    migration("0003_second", database="second")
    page = browser().get(LIST, query).content.decode()
    assert {name for name in ("0001_waits", "0002_done", "0003_second") if name in page} == shown


def test_the_detail_says_at_the_top_what_went_wrong_and_what_to_do(browser, migration):
    page = browser().get(detail(migration(status=Status.ERROR))).content.decode()
    top = page[: page.index("field-short_name") if "field-short_name" in page else page.index("field-name")]
    for text in ("could not create unique index", "Remove the duplicates.", "unique_violation", "23505", "<dd>2</dd>"):
        assert text in top
    assert "Key (email)=(&lt;b&gt;x&lt;/b&gt;) is duplicated." in top


def test_the_detail_shows_the_sql_as_text(browser, migration):
    row = migration(sql="UPDATE task SET x = '<script>alert(1)</script>'\n WHERE y;")
    page = browser().get(detail(row)).content.decode()
    assert "UPDATE task SET x = &#x27;&lt;script&gt;alert(1)&lt;/script&gt;&#x27;\n WHERE y;</pre>" in page
    assert BACKWARDS in page


def test_the_detail_tells_the_history_oldest_first_up_to_a_limit(browser, migration, monkeypatch):
    row = migration(status=Status.FINISHED)
    monkeypatch.setattr("async_migrations.admin.EVENTS_SHOWN", 3)
    page = browser().get(detail(row)).content.decode()
    history = page[page.index("am-history") :]
    assert history.index("<td>schedule</td>") < history.index("<td>run</td>") < history.index("<td>claim</td>")
    assert "<td>succeed</td>" not in history
    assert "1 later ones are not shown here" in history


def test_an_unknown_id_leads_back_and_says_so(browser):
    response = browser().get(reverse("admin:async_migrations_asyncmigrationstatus_change", args=[4711]), follow=True)
    assert "doesn’t exist" in response.content.decode()


def test_the_history_button_leads_to_the_events(browser, migration):
    row, other = migration("0001_one"), migration("0002_other")
    url = reverse("admin:async_migrations_asyncmigrationstatus_history", args=[row.pk])
    page = browser().get(url, follow=True).content.decode()
    assert row.name in page
    assert other.name not in page


def test_the_detail_of_an_event_is_readable(browser, migration):
    event = migration(status=Status.ERROR).events.get(kind="fail")
    page = browser().get(reverse("admin:async_migrations_asyncmigrationevent_change", args=[event.pk]))
    assert "unique_violation" in page.content.decode()


@pytest.mark.parametrize("superuser", [False, True])
def test_nobody_adds_changes_or_deletes(browser, migration, superuser):
    row = migration()
    client = browser("add", "change", "delete", superuser=superuser)
    for model, pk in (("status", row.pk), ("event", row.events.get().pk)):
        url = f"admin:async_migrations_asyncmigration{model}"
        assert client.get(reverse(f"{url}_add")).status_code == 403
        assert client.post(reverse(f"{url}_change", args=[pk]), {"name": "x"}).status_code == 403
        assert client.post(reverse(f"{url}_delete", args=[pk]), {"post": "yes"}).status_code == 403
    act(client, "delete", row, post="yes")
    assert lifecycle.get(row.pk).name == row.name
    assert b"_save" not in client.get(detail(row)).content


def test_run_puts_a_migration_in_line_and_keeps_who_asked(browser, migration):
    row = migration()
    response, told = act(browser("run"), "run", row)
    assert told == [("success", f"{row.name} on default: in line for a worker.")]
    assert response.status_code == 302
    assert status(row) == Status.STARTED
    event = AsyncMigrationEvent.objects.get(migration=row, kind="run")
    assert event.by == "user-run"
    assert event.request_id == response.headers["X-Request-ID"]


def test_run_asked_twice_says_that_there_is_nothing_to_do(browser, migration):
    row = migration(status=Status.STARTED)
    _, told = act(browser("run"), "run", row)
    assert told == [("info", f"{row.name} on default: nothing to do, in line for a worker.")]


def test_cancel_stops_what_has_not_begun(browser, migration):
    row = migration()
    _, told = act(browser("cancel"), "cancel", row)
    assert told == [("success", f"{row.name} on default: CANCELLED.")]
    assert status(row) == Status.CANCELLED


def test_cancel_of_what_is_in_progress_asks_the_worker(browser, migration):
    row = migration(status=Status.STARTED)
    lifecycle.claim(row.pk, "worker-1:7")
    client = browser("cancel")
    _, told = act(client, "cancel", row)
    assert told[0][0] == "success"
    assert "asked to stop" in told[0][1]
    assert b"asked to stop" in client.get(LIST).content


def test_pause_stops_what_has_not_begun_and_resume_goes_on(browser, migration):
    row = migration(status=Status.STARTED)
    client = browser("run", "cancel", "rollback")
    assert act(client, "pause", row)[1] == [("success", f"{row.name} on default: PAUSED.")]
    page = client.get(detail(row)).content.decode()
    assert re.findall(r'name="action" value="(\w+)"', page) == [
        "run_selected", "resume_selected", "cancel_selected", "rollback_selected"
    ]  # fmt: skip
    assert act(client, "resume", row)[1] == [("success", f"{row.name} on default: in line for a worker.")]
    assert status(row) == Status.STARTED


def test_pause_of_what_is_in_progress_asks_the_worker_and_can_be_taken_back(browser, migration):
    row = migration(status=Status.STARTED)
    lifecycle.claim(row.pk, "worker-1:7")
    client = browser("run", "cancel")
    assert "asked to pause; the worker stops at the next checkpoint" in act(client, "pause", row)[1][0][1]
    assert b"asked to pause" in client.get(LIST).content
    page = client.get(detail(row)).content.decode()
    assert re.findall(r'name="action" value="(\w+)"', page) == ["resume_selected", "cancel_selected"]
    assert "in progress, attempt 1" in act(client, "resume", row)[1][0][1]
    act(client, "cancel", row)
    assert b'name="action"' not in client.get(detail(row)).content, "what is being cancelled offers nothing"


def test_the_detail_of_a_backfill_says_what_it_waits_for_and_what_was_set(browser, migration):
    row = migration(status=Status.FINISHED)
    throttled = {"reason": "lock_waiters", "value": 7, "limit": 4, "since": "2026-11-22T10:00:00Z"}
    lifecycle.rows().filter(pk=row.pk).update(throttled=throttled, tuning={"batch_size": 5}, quarantined=2)
    page = browser("run").get(detail(row)).content.decode()
    assert "lock_waiters: 7, limit 4" in page
    assert "batch_size&quot;: 5" in page
    assert re.search(r'field-quarantined.*?readonly">2<', page, re.DOTALL)
    assert re.findall(r'name="action" value="(\w+)"', page) == ["run_selected"], "for what was set aside"


def test_what_would_fail_is_not_run_and_says_why(browser, migration):
    row = migration(sql="UPDATE nowhere SET n = 1")
    _, told = act(browser("run"), "run", row)
    assert [level for level, _ in told] == ["error"]
    assert "nowhere" in told[0][1]
    assert lifecycle.get(row.pk).status == Status.SCHEDULED


def test_one_refusal_says_why_and_what_is_allowed_and_keeps_nothing_else_from_happening(browser, migration):
    done, waits = migration("0001_done", status=Status.FINISHED), migration("0002_waits")
    _, told = act(browser("cancel"), "cancel", done, waits)
    levels = dict(told)
    assert levels.keys() == {"error", "success"}
    assert "is FINISHED" in levels["error"]
    assert "rollback" in levels["error"]
    assert (status(done), status(waits)) == (Status.FINISHED, Status.CANCELLED)


def test_rollback_shows_the_backward_sql_and_asks_before_it_does_anything(browser, migration):
    done, waits = migration("0001_done", status=Status.FINISHED), migration("0002_waits")
    response, told = act(browser("rollback"), "rollback", done, waits)
    page = response.content.decode()
    assert response.status_code == 200
    assert BACKWARDS in page
    assert re.search(rf"Not among them.*{waits.name} on default is SCHEDULED", page, re.DOTALL)
    assert f'name="_selected_action" value="{done.pk}"' in page
    assert f'name="_selected_action" value="{waits.pk}"' not in page
    assert not told
    assert status(done) == Status.FINISHED


def test_rollback_that_is_confirmed_is_asked_for(browser, migration):
    row = migration(status=Status.FINISHED)
    client = browser("rollback")
    page = act(client, "rollback", row)[0].content.decode()
    response = client.post(LIST, dict(re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)"', page)))
    told = [str(message) for message in get_messages(response.wsgi_request)]
    assert told == [f"{row.name} on default: in line for a worker, to be rolled back."]
    assert lifecycle.get(row.pk).direction == "backwards"


def test_rollback_of_nothing_that_can_be_rolled_back_offers_no_button(browser, migration):
    page = act(browser("rollback"), "rollback", migration())[0].content.decode()
    assert "Nothing that was selected can be rolled back" in page
    assert "confirmed" not in page


@pytest.mark.parametrize("verb", ["run", "cancel", "rollback"])
def test_a_verb_without_its_permission_is_neither_offered_nor_obeyed(browser, migration, verb):
    waits, done = migration("0001_waits"), migration("0002_done", status=Status.FINISHED)
    others = {"run", "cancel", "rollback"} - {verb}
    client = browser(*others)
    for page in (client.get(LIST), client.get(detail(waits)), client.get(detail(done))):
        assert f"{verb}_selected" not in page.content.decode()
    act(client, verb, waits, done, confirmed="yes")
    assert (status(waits), status(done)) == (Status.SCHEDULED, Status.FINISHED)


def test_a_viewer_sees_no_action_at_all(browser, migration):
    row = migration(status=Status.ERROR)
    client = browser()
    assert 'name="action"' not in client.get(LIST).content.decode()
    assert 'name="action"' not in client.get(detail(row)).content.decode()
    for verb in ("run", "cancel", "rollback"):
        act(client, verb, row, confirmed="yes")
    assert status(row) == Status.ERROR


def test_pause_and_resume_need_the_permission_to_run(browser, migration):
    row = migration(status=Status.STARTED)
    client = browser("cancel", "rollback", "tune")
    assert "pause_selected" not in client.get(LIST).content.decode() + client.get(detail(row)).content.decode()
    act(client, "pause", row)
    assert status(row) == Status.STARTED


def test_who_may_act_but_not_look_is_refused(migration):
    user = User.objects.create_user("blind", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="run_asyncmigrationstatus"))
    client = Client()
    client.force_login(user)
    row = migration()
    assert act(client, "run", row)[0].status_code == 403
    assert status(row) == Status.SCHEDULED


def test_the_buttons_on_the_detail_page_lead_back_to_it(browser, migration):
    row = migration(status=Status.ERROR)
    client = browser("run", "cancel", "rollback")
    page = client.get(detail(row)).content.decode()
    assert re.findall(r'name="action" value="(\w+)"', page) == ["run_selected", "cancel_selected", "rollback_selected"]
    response, told = act(client, "run", row, _detail=str(row.pk))
    assert response.url == detail(row)
    assert told[0][0] == "success"


def test_the_buttons_on_the_detail_page_are_those_that_the_status_allows(browser, migration):
    page = browser("run", "cancel", "rollback").get(detail(migration(status=Status.FINISHED))).content.decode()
    assert re.findall(r'name="action" value="(\w+)"', page) == ["rollback_selected"]


def test_the_checkpoint_is_not_in_the_admin(browser):
    assert b"checkpoint" not in browser(superuser=True).get(reverse("admin:index")).content.lower()
