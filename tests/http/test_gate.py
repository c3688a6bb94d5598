"""GET /api/async-migrations/gate"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.lifecycle.gate import prefix_of_app
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem

GATE = "/api/async-migrations/gate"
NAME = "shop.migrations.0002_a"
EACH_WAY = [{"name": NAME}, {"prefix": "shop."}, {"app": "shop"}]


def ask(client, **asked):
    return client.get(GATE, asked)


def state(client, **asked):
    return ask(client, **asked).json()["state"]


def test_it_works(viewer, migration):
    done = migration(Status.FINISHED, name="shop.migrations.0002_a")
    response = ask(viewer, name=[done.name])
    assert (response.status_code, response.json()) == (200, {"state": "pass", "checked": 1, "reasons": [], "more": 0})
    assert "Retry-After" not in response
    row = migration(Status.STARTED, name="shop.migrations.0003_b")
    response = ask(viewer, name=[done.name, row.name])
    assert response.json() == {
        "state": "pending",
        "checked": 2,
        "reasons": [
            {
                "id": row.pk,
                "name": row.name,
                "database": "default",
                "status": "STARTED",
                "state": "pending",
                "detail": "It is in line for a worker.",
            }
        ],
        "more": 0,
    }
    assert int(response["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("status", "wanted", "says"),
    [
        (Status.SCHEDULED, "blocked", "`run`"),
        (Status.PAUSED, "blocked", "`resume`"),
        (Status.STARTED, "pending", "in line"),
        (Status.IN_PROGRESS, "pending", "in progress"),
        (Status.FINISHED, "pass", None),
        (Status.ERROR, "failed", "could not create unique index"),
        (Status.CANCELLED, "failed", "`run`"),
        (Status.ROLLED_BACK, "failed", "`run`"),
    ],
)
def test_every_status_has_its_state(viewer, migration, status, wanted, says):
    verdict = ask(viewer, name=migration(status).name).json()
    assert verdict["state"] == wanted
    assert [says in reason["detail"] for reason in verdict["reasons"]] == ([True] if says else [])


def test_it_is_as_good_as_the_worst_and_names_that_first(viewer, migration):
    for status in (Status.FINISHED, Status.ERROR, Status.SCHEDULED, Status.IN_PROGRESS):
        migration(status, name=f"shop.migrations.{status.name}")
    verdict = ask(viewer, prefix="shop.migrations.").json()
    assert (verdict["state"], verdict["checked"]) == ("failed", 4)
    assert [reason["state"] for reason in verdict["reasons"]] == ["failed", "blocked", "pending"]


def test_what_is_not_there_never_passes(viewer, migration):
    done = migration(Status.FINISHED)
    verdict = ask(viewer, name=[done.name, "shop.migrations.9999_typo"], prefix="nowhere.", app="elsewhere").json()
    assert (verdict["state"], verdict["checked"]) == ("blocked", 1)
    assert [(reason["id"], reason["name"]) for reason in verdict["reasons"]] == [
        (None, "shop.migrations.9999_typo"),
        (None, "nowhere."),
        (None, "elsewhere"),
    ]
    assert all("spelling" in reason["detail"] for reason in verdict["reasons"])


def test_a_database_that_is_no_target_is_said_once(viewer, migration):
    migration(name="m")
    (reason,) = ask(viewer, prefix=["m", "m"], database="defualt").json()["reasons"]
    assert "on database defualt, which is not a target here (there are: default, second)." in reason["detail"]
    (reason,) = ask(viewer, name="n", database="default").json()["reasons"]
    assert "on database default. Look" in reason["detail"]


@pytest.fixture
def once_after():
    """Have something done once, as by somebody else, behind this look of the gate at the migrations."""

    @contextmanager
    def install(look, act):
        left = [look]

        def count(execute, sql, *rest):
            result = execute(sql, *rest)
            if left and AsyncMigrationStatus._meta.db_table in sql:
                left[0] -= 1
                if not left[0]:
                    left.clear()
                    act()
            return result

        with connection.execute_wrapper(count):
            yield
        assert not left, f"the gate looks fewer than {look} times"

    return install


@pytest.mark.parametrize("asked", EACH_WAY)
@pytest.mark.parametrize("look", [1, 2])
def test_what_is_recorded_between_two_looks_never_passes(viewer, migration, once_after, asked, look):
    with once_after(look, lambda: migration(name=NAME)):
        assert state(viewer, **asked) == "blocked"


@pytest.mark.parametrize("asked", EACH_WAY)
def test_what_is_deleted_between_two_looks_never_passes(viewer, migration, once_after, asked):
    row = migration(Status.FINISHED, name=NAME)
    with once_after(1, lambda: AsyncMigrationStatus.objects.filter(pk=row.pk).delete()):
        verdict = ask(viewer, **asked).json()
    assert (verdict["state"], verdict["checked"], len(verdict["reasons"])) == ("blocked", 0, 1)


def test_every_database_counts_unless_one_is_named(viewer, migration):
    migration(Status.FINISHED, name="m")
    migration(Status.STARTED, name="m", database="second")
    assert state(viewer, name="m") == "pending"
    assert state(viewer, name="m", database="default") == "pass"
    assert state(viewer, name="m", database="third") == "blocked"


def test_an_app_is_meant_by_its_label(viewer, migration):
    module = prefix_of_app("bookshop")  # Installed, with a module of its own for its migrations.
    migration(Status.FINISHED, name=f"{module}0002_a")
    migration(Status.STARTED, name="shop.migrations.0002_a")
    assert state(viewer, app="bookshop") == "pass"
    assert state(viewer, app="shop") == "pending"
    assert state(viewer, app=["shop", "bookshop"]) == "pending"


def test_a_prefix_is_taken_to_the_letter(viewer, migration):
    migration(Status.FINISHED, name="a_b.migrations.0001")
    migration(Status.ERROR, name="axb.migrations.0001")
    assert state(viewer, prefix="a_b.") == "pass"


def test_what_is_held_is_blocked_and_what_runs_is_not(viewer, migration):
    waits, runs = migration(Status.STARTED), migration(Status.IN_PROGRESS, database="second")
    lifecycle.set_hold("", "Black Friday", ORIGIN)
    (reason,) = ask(viewer, name=waits.name).json()["reasons"]
    assert (reason["state"], "held by somebody: Black Friday" in reason["detail"]) == ("blocked", True)
    assert state(viewer, name=runs.name) == "pending"


def test_what_is_being_rolled_back_says_so(viewer, migration):
    row = migration(Status.FINISHED)
    lifecycle.rollback(row.pk, ORIGIN)
    assert "rolled back" in ask(viewer, name=row.name).json()["reasons"][0]["detail"]


def test_of_many_reasons_a_hundred_are_told_at_a_constant_number_of_queries(viewer, migration):
    for number in range(103):
        migration(name=f"shop.migrations.{number}")
    with CaptureQueriesContext(connection) as many:
        verdict = ask(viewer, prefix="shop.").json()
    assert (len(verdict["reasons"]), verdict["more"], verdict["checked"]) == (100, 3, 103)
    with CaptureQueriesContext(connection) as one:
        ask(viewer, prefix="shop.migrations.102")
    assert len(many) == len(one)


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", "name"),
        ("?database=default", "name"),
        ("?name=", "name"),
        ("?nam=x", "nam"),
        ("?name=x&database=a&database=b", "database"),
    ],
)
def test_nonsense_is_refused(viewer, query, wrong):
    assert list(assert_problem(viewer.get(GATE + query), 400, "validation_error")["errors"]) == [wrong]


def test_more_than_a_hundred_names_are_refused(viewer):
    problem = assert_problem(ask(viewer, name=[str(number) for number in range(101)]), 400, "validation_error")
    assert "101" in problem["detail"]


def test_it_is_for_those_who_may_look(client_of, viewer):
    assert_problem(client_of(None).get(f"{GATE}?name=x"), 401, "not_authenticated")
    assert_problem(viewer.post(f"{GATE}?name=x"), 405, "method_not_allowed")
