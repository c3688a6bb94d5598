"""GET /api/async-migrations/{id}/preflight"""

from __future__ import annotations

import pytest
from django.db import connections

from async_migrations.execution.findings import CODES
from async_migrations.states import Status
from tests.db.conftest import book, query  # noqa: F401 - a fixture

from .conftest import assert_problem

pytestmark = pytest.mark.usefixtures("control", "book")

UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"


def url(pk):
    return f"/api/async-migrations/{pk}/preflight"


def test_it_works(viewer, migration):
    row = migration(sql_forwards=UNIQUE)
    etag = viewer.get(f"/api/async-migrations/{row.pk}")["ETag"]

    response = viewer.get(url(row.pk))

    assert response.status_code == 200
    answer = response.json()
    assert (answer["level"], answer["findings"][0]["code"]) == ("error", "duplicate_key")
    assert answer["findings"][0]["detail"]["samples"] == [{"key": {"n": "0"}, "count": 500}]
    assert all({*found} == {"code", "level", "message", "detail", "hint"} for found in answer["findings"])
    assert all(found["level"] in CODES[found["code"]].levels for found in answer["findings"])
    assert viewer.get(f"/api/async-migrations/{row.pk}")["ETag"] == etag


def test_what_is_in_the_way_no_more_is_gone(viewer, migration):
    row = migration(sql_forwards=UNIQUE)
    query("UPDATE book SET n = id")
    assert viewer.get(url(row.pk)).json()["level"] == "info"


def test_a_rollback_can_be_looked_at_beforehand(viewer, migration):
    row = migration(Status.FINISHED, sql_backwards=UNIQUE)
    backwards = viewer.get(f"{url(row.pk)}?direction=backwards").json()
    assert backwards["findings"][0]["code"] == "duplicate_key"
    assert viewer.get(f"{url(row.pk)}?direction=forwards").json() == viewer.get(url(row.pk)).json() != backwards


def test_a_backfill_whose_file_says_nothing_of_the_way_back_cannot_go_it(viewer, migration):
    row = migration(kind="backfill", options={"table": "book", "update": "n = 1"}, sql_backwards="")
    (found,) = viewer.get(f"{url(row.pk)}?direction=backwards").json()["findings"]
    assert (found["code"], found["level"]) == ("invalid_definition", "error")


@pytest.mark.parametrize("direction", ["sideways", "", "forwards&direction=backwards"])
def test_a_direction_that_there_is_not_is_refused(viewer, migration, direction):
    problem = assert_problem(viewer.get(f"{url(migration().pk)}?direction={direction}"), 400, "validation_error")
    assert list(problem["errors"]) == ["direction"]


@pytest.mark.parametrize("status", list(Status))
def test_it_can_be_asked_for_in_every_status(viewer, migration, status):
    assert viewer.get(url(migration(status).pk)).status_code == 200


def test_a_target_that_is_away_is_a_finding(viewer, migration, monkeypatch):
    row = migration(database="second")
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    answer = viewer.get(url(row.pk)).json()
    assert [found["code"] for found in answer["findings"]] == ["target_unavailable"]


def test_without_a_token_it_is_refused(client_of, migration):
    assert_problem(client_of(None).get(url(migration().pk)), 401, "not_authenticated")


def test_an_unknown_id_is_not_found(viewer):
    assert_problem(viewer.get(url(2**63)), 404, "not_found")


def test_an_unknown_parameter_is_refused(viewer, migration):
    assert_problem(viewer.get(f"{url(migration().pk)}?quick=1"), 400, "validation_error")


def test_it_changes_nothing_and_so_cannot_be_posted(operator, migration):
    assert_problem(operator.post(url(migration().pk)), 405, "method_not_allowed")
