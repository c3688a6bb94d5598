"""The audit: what each door, the admin and the doors' refusals leave in it, and from where they were asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from knox.models import AuthToken

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationAudit
from async_migrations.rest.door import Door
from async_migrations.states import Status

from .conftest import BROKEN, ORIGIN, assert_problem, begin

ROW = "/api/async-migrations"
RUN = f"{ROW}/run"
HOLD = f"{ROW}/hold"
MIGRATIONS = reverse("admin:async_migrations_asyncmigrationstatus_changelist")
ENTRIES = reverse("admin:async_migrations_asyncmigrationaudit_changelist")


def entries(channel="api"):
    return list(AsyncMigrationAudit.objects.filter(channel=channel))


def last(channel="api"):
    return entries(channel)[-1]


def ask(client, method, path, body=None, **headers):
    headers = {"X-Request-ID": "r-1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return getattr(client, method)(path, body or {}, content_type="application/json", headers=headers)


def test_it_works(operator, migration):
    row = migration()
    assert ask(operator, "post", f"{ROW}/{row.pk}/run", {"priority": 7}).status_code == 202
    (entry,) = entries()
    event = row.events.last()
    assert (entry.by, entry.action, entry.outcome, entry.code) == ("operator-1", "run", "accepted", "")
    assert (entry.migration_id, entry.name, entry.database) == (row.pk, row.name, "default")
    assert (entry.before, entry.after) == ({"status": "SCHEDULED", "priority": 0}, {"status": "STARTED", "priority": 7})
    assert entry.detail == {"priority": 7}
    assert (entry.address, entry.request_id, entry.at) == ("127.0.0.1", "r-1", event.created_at)
    token = AuthToken.objects.get()
    assert entry.token == token.digest[:32]
    assert token.token_key not in str(vars(entry))


@pytest.mark.parametrize(
    ("verb", "status", "before", "after"),
    [
        ("run", Status.ERROR, {"status": "ERROR"}, {"status": "STARTED"}),
        ("pause", Status.STARTED, {"status": "STARTED"}, {"status": "PAUSED"}),
        ("pause", Status.IN_PROGRESS, {"stop_requested": None}, {"stop_requested": "pause"}),
        ("resume", Status.PAUSED, {"status": "PAUSED"}, {"status": "STARTED"}),
        ("cancel", Status.SCHEDULED, {"status": "SCHEDULED"}, {"status": "CANCELLED"}),
        ("cancel", Status.IN_PROGRESS, {"stop_requested": None}, {"stop_requested": "cancel"}),
        (
            "rollback",
            Status.FINISHED,
            {"status": "FINISHED", "direction": "forwards"},
            {"status": "STARTED", "direction": "backwards"},
        ),
    ],
)
def test_each_verb_says_what_it_changed_and_that_there_was_nothing_to_do(
    operator, migration, verb, status, before, after
):
    row = migration(status)
    for _ in range(2):
        assert ask(operator, "post", f"{ROW}/{row.pk}/{verb}").status_code in (200, 202)
    first, again = entries()
    assert (first.action, first.outcome, first.before, first.after) == (verb, "accepted", before, after)
    assert (again.action, again.outcome, again.after) == (verb, "unchanged", {})
    assert again.before == {"status": lifecycle.get(row.pk).status}


def test_what_is_tuned_held_and_lifted_is_there_with_its_values(operator, migration):
    row = migration()
    ask(operator, "patch", f"{ROW}/{row.pk}/tuning", {"priority": 3})
    ask(operator, "put", f"{HOLD}?database=second", {"reason": "vacuum"})
    ask(operator, "put", HOLD, {"reason": "Black Friday"})
    ask(operator, "put", HOLD, {"reason": "an incident"})
    ask(operator, "put", HOLD, {"reason": "an incident"})
    ask(operator, "delete", HOLD)
    ask(operator, "delete", HOLD)
    held = [(entry.action, entry.database, entry.outcome) for entry in entries()]
    assert held == [
        ("tune", "default", "accepted"),
        ("hold", "second", "accepted"),
        ("hold", "", "accepted"),
        ("hold", "", "accepted"),
        ("hold", "", "unchanged"),
        ("lift", "", "accepted"),
        ("lift", "", "unchanged"),
    ]
    tuned, replaced = entries()[0], entries()[3]
    assert (tuned.before, tuned.after) == ({"priority": 0}, {"priority": 3})
    assert (replaced.before["reason"], replaced.after["reason"]) == ("Black Friday", "an incident")


def test_each_one_of_many_has_its_entry(operator, migration):
    rows = [migration(), migration(Status.STARTED), migration(Status.FINISHED)]
    ids = [*(row.pk for row in rows), 10**9]
    ask(operator, "post", f"{ROW}/cancel", {"ids": ids, "dry_run": True})
    assert entries() == [], "a dry run changes nothing"
    ask(operator, "post", f"{ROW}/cancel", {"ids": ids})
    ask(operator, "post", RUN, {"ids": [rows[1].pk]})
    said = [(entry.migration_id, entry.action, entry.outcome, entry.code) for entry in entries()]
    assert said == [
        (rows[0].pk, "cancel", "accepted", ""),
        (rows[1].pk, "cancel", "accepted", ""),
        (rows[2].pk, "cancel", "refused", "invalid_transition"),
        (None, "cancel", "refused", "not_found"),
        (rows[1].pk, "run", "accepted", ""),
    ]
    assert entries()[3].detail == {"id": 10**9}
    assert {entry.request_id for entry in entries()} == {"r-1"}


def test_what_is_refused_is_there_with_the_reason(operator, viewer, migration):
    row = migration(Status.FINISHED)
    path = f"{ROW}/{row.pk}"
    refusals = [
        (ask(operator, "post", f"{path}/cancel"), "cancel", 409, "invalid_transition"),
        (ask(viewer, "post", f"{path}/run"), "run", 403, "permission_denied"),
        (ask(operator, "post", f"{path}/run", {"force": True}), "run", 403, "permission_denied"),
        (ask(operator, "post", f"{path}/rollback", If_Match='"old"'), "rollback", 412, "precondition_failed"),
        (ask(operator, "post", f"{path}/run", {"priority": "x"}), "run", 400, "validation_error"),
        (ask(operator, "patch", f"{path}/tuning", {"priority": 1}), "tune", 409, "invalid_transition"),
        (ask(operator, "post", f"{ROW}/{10**30}/run"), "run", 404, "not_found"),
        (ask(operator, "put", f"{HOLD}?database=%00%EF%BF%BF", {"reason": "x"}), "hold", 400, "validation_error"),
        (ask(viewer, "delete", HOLD), "lift", 403, "permission_denied"),
        (ask(operator, "post", RUN, {"ids": list(range(1, 502))}), "run", 422, "too_many_items"),
        (ask(viewer, "post", f"{ROW}/janitor/drop"), "drop_leftover", 403, "permission_denied"),
    ]
    made = entries()
    assert [(entry.action, entry.code) for entry in made] == [(action, code) for _, action, _, code in refusals]
    for entry, (response, _, status, code) in zip(made, refusals, strict=True):
        problem = assert_problem(response, status, code)
        assert (entry.outcome, entry.after) == ("refused", {})
        if "\0" not in problem["detail"]:
            assert entry.detail["reason"] == problem["detail"]
    assert [entry.migration_id for entry in made[:6]] == [row.pk] * 6
    assert (made[0].before, made[6].detail["id"]) == ({"status": "FINISHED"}, 10**30)
    assert lifecycle.get(row.pk).status == "FINISHED"


def test_a_repetition_with_a_key_is_told_from_the_first(operator, migration):
    row = migration()
    for _ in range(2):
        ask(operator, "post", f"{ROW}/{row.pk}/run", Idempotency_Key="k-1")
    ask(operator, "post", f"{ROW}/{row.pk}/cancel", Idempotency_Key="k-1")
    assert [(entry.action, entry.outcome, entry.code) for entry in entries()] == [
        ("run", "accepted", ""),
        ("run", "replayed", ""),
        ("cancel", "refused", "idempotency_key_reused"),
    ]


def test_who_is_not_known_and_who_only_looks_leaves_nothing(client_of, operator, migration):
    row = migration()
    ask(client_of(None), "post", f"{ROW}/{row.pk}/run")
    ask(Client(headers={"Authorization": "Bearer nonsense"}), "post", f"{ROW}/{row.pk}/run")
    for path in (ROW, f"{ROW}/{row.pk}", HOLD, f"{ROW}/0"):
        operator.get(path)
    ask(operator, "post", f"{ROW}/{row.pk}/events")
    assert entries() == []


def test_every_door_that_changes_something_says_how_the_audit_calls_it():
    def doors(door):
        return {door, *(below for each in door.__subclasses__() for below in doors(each))}

    writing = {"post", "put", "patch", "delete"}
    for door in doors(Door):
        methods = {method.upper() for method in writing & set(door.http_method_names) if hasattr(door, method)}
        assert set(door.actions) == methods, door


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        ([], "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        (["10.0.0.0/8"], "9.9.9.9", "1.2.3.4", "9.9.9.9"),
        (["10.0.0.0/8"], "10.0.0.1", "nonsense", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        (["unix", "10.0.0.0/8"], "", "2001:DB8::1, 10.0.0.1", "2001:db8::1"),
        ([], "", "1.2.3.4", ""),
    ],
)
def test_the_address_is_that_of_the_client(operator, settings, proxies, peer, forwarded, address):
    settings.ASYNC_MIGRATIONS_TRUSTED_PROXIES = proxies
    operator.delete(HOLD, REMOTE_ADDR=peer, headers={"X-Forwarded-For": forwarded})
    assert last().address == address


@pytest.mark.usefixtures("control")
def test_of_two_that_contradict_each_other_both_are_there(api, migration):
    row = migration(Status.ERROR)
    people = [api("operator"), api("operator")]
    wishes = [f"{ROW}/{row.pk}/run", f"{ROW}/{row.pk}/rollback"]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda person, wish: person.post(wish).status_code, people, wishes))
    assert sorted(answers) == [202, 409]
    outcomes = {entry.action: entry.outcome for entry in entries()}
    assert outcomes == {
        verb: "accepted" if answer == 202 else "refused"
        for verb, answer in zip(("run", "rollback"), answers, strict=True)
    }


# --- the admin ---


@pytest.fixture
def browser(db):
    def make(*permissions):
        user = User.objects.create_user("alice", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client(REMOTE_ADDR="192.0.2.7")
        client.force_login(user)
        return client

    return make


def act(client, action, *rows):
    data = {"action": f"{action}_selected", "_selected_action": [row.pk for row in rows], "index": "0"}
    return client.post(MIGRATIONS, data)


def test_the_admin_enters_what_it_does_and_what_is_refused(browser, migration):
    client = browser("view_asyncmigrationstatus", "cancel_asyncmigrationstatus")
    waiting, done = migration(), migration(Status.FINISHED)
    act(client, "cancel", waiting, done)
    act(client, "run", waiting)
    said = [(entry.by, entry.address, entry.token, entry.action, entry.name, entry.code) for entry in entries("admin")]
    who = ("alice", "192.0.2.7", "")
    assert sorted(said) == sorted(
        [
            (*who, "cancel", waiting.name, ""),
            (*who, "cancel", done.name, "invalid_transition"),
            (*who, "run", waiting.name, "permission_denied"),
        ]
    )


def test_who_may_not_do_anything_is_entered_too(browser, migration):
    row = migration()
    act(browser("view_asyncmigrationstatus"), "rollback", row)
    assert (last("admin").action, last("admin").code) == ("rollback", "permission_denied")


def test_the_admin_shows_the_entries_to_those_who_may_and_changes_none(browser, migration):
    lifecycle.fail(begin(_started(migration)), BROKEN)
    entry = AsyncMigrationAudit.objects.get(action="run")
    page = reverse("admin:async_migrations_asyncmigrationaudit_change", args=[entry.pk])
    other = browser("view_asyncmigrationstatus", "view_asyncmigrationevent")
    assert [other.get(path).status_code for path in (ENTRIES, page)] == [403, 403]
    User.objects.all().delete()
    client = browser("view_asyncmigrationaudit")
    assert "somebody" in client.get(ENTRIES).content.decode()
    assert "STARTED" in client.get(page).content.decode()
    assert client.post(page, {"by": "nobody"}).status_code == 403
    assert client.get(f"{ENTRIES}add/").status_code == 403


def _started(migration):
    pk = migration().pk
    lifecycle.run(pk, ORIGIN)
    return pk
