"""GET /api/async-migrations/{id}/quarantine"""

import pytest
from django.db import connections

from async_migrations.errors import ExecutionError
from async_migrations.models import AsyncMigrationBadRow
from async_migrations.states import Kind, Status

from .conftest import assert_problem

pytestmark = pytest.mark.django_db(databases=["default", "second"])

TOO_LONG = ExecutionError(code="data_error", message="value too long", sqlstate="22001", key=["7", "de"])


def url(pk):
    return f"/api/async-migrations/{pk}/quarantine"


@pytest.fixture
def backfill(migration):
    """A backfill that has set rows aside: `backfill(["7"], ["8"], database="second")`."""

    def make(*keys, database="default", name="app.migrations.0001_async"):
        row = migration(Status.FINISHED, kind=Kind.BACKFILL, database=database, name=name)
        bad = AsyncMigrationBadRow.objects.using(database)
        for key in keys:
            bad.create(name=row.name, migration_id=row.pk, key=key, error=TOO_LONG.as_meta())
        return row

    return make


def test_it_works(viewer, backfill):
    row = backfill(["7", "de"], ["8", "fr"])

    response = viewer.get(url(row.pk))

    assert response.status_code == 200
    page = response.json()
    assert (page["count"], [found["key"] for found in page["results"]]) == (2, [["7", "de"], ["8", "fr"]])
    found = page["results"][0]
    assert list(found) == ["key", "error", "created_at"]
    assert found["created_at"].endswith("Z")
    assert found["error"] == {
        "code": "data_error",
        "message": "value too long",
        "sqlstate": "22001",
        "detail": None,
        "hint": None,
        "statement": None,
        "key": ["7", "de"],
    }


def test_it_is_read_from_the_target(viewer, backfill):
    here, there = backfill(["1"]), backfill(["2"], database="second")
    assert [found["key"] for found in viewer.get(url(there.pk)).json()["results"]] == [["2"]]
    assert [found["key"] for found in viewer.get(url(here.pk)).json()["results"]] == [["1"]]


def test_the_rows_of_others_are_not_in_it(viewer, backfill, migration):
    backfill(["1"])
    assert viewer.get(url(backfill(name="app.migrations.0002_async").pk)).json()["results"] == []
    assert viewer.get(url(migration().pk)).json()["count"] == 0


def test_it_comes_in_pages(viewer, backfill):
    row = backfill(*([str(number)] for number in range(4)))
    first = viewer.get(url(row.pk), {"page_size": 3}).json()
    second = viewer.get(first["next"]).json()
    assert (len(first["results"]), len(second["results"]), second["next"]) == (3, 1, None)
    assert_problem(viewer.get(url(row.pk), {"page": 9}), 404, "not_found")


@pytest.fixture
def second_is_away(monkeypatch):
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_a_target_that_does_not_answer_is_told(viewer, backfill, second_is_away):
    row = backfill()
    type(row).objects.filter(pk=row.pk).update(database="second")
    connections["second"].close()
    response = viewer.get(url(row.pk))
    problem = assert_problem(response, 503, "target_unavailable")
    assert "connection_lost" in problem["detail"]
    assert int(response["Retry-After"]) > 0


def test_a_target_that_is_not_configured_is_told(viewer, backfill):
    row = backfill()
    type(row).objects.filter(pk=row.pk).update(database="elsewhere")
    assert "'elsewhere'" in assert_problem(viewer.get(url(row.pk)), 503, "target_unavailable")["detail"]


def test_a_target_without_our_tables_is_told(viewer, backfill):
    row = backfill(database="second")
    with connections["second"].cursor() as cursor:
        cursor.execute("ALTER TABLE async_migrations_asyncmigrationbadrow RENAME TO elsewhere")
    assert "undefined_table" in assert_problem(viewer.get(url(row.pk)), 503, "target_unavailable")["detail"]


def test_who_may_not_look_is_refused(client_of, backfill):
    assert_problem(client_of(None).get(url(backfill().pk)), 401, "not_authenticated")


def test_an_unknown_id_is_not_found(viewer):
    assert_problem(viewer.get(url(10**30)), 404, "not_found")


def test_an_unknown_parameter_is_refused(viewer, backfill):
    problem = assert_problem(viewer.get(url(backfill().pk), {"key": "7"}), 400, "validation_error")
    assert list(problem["errors"]) == ["key"]
