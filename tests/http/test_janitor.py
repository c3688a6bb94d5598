"""GET /api/async-migrations/janitor, POST /api/async-migrations/janitor/drop"""

from __future__ import annotations

import pytest
from django.db import connections

from async_migrations import tasks
from async_migrations.states import Status
from tests.db.conftest import book, index_is_valid, query  # noqa: F401 - a fixture

from .conftest import assert_problem, begin

pytestmark = pytest.mark.usefixtures("control", "book")

LIST = "/api/async-migrations/janitor"
DROP = "/api/async-migrations/janitor/drop"
INDEX = {"database": "default", "schema": "public", "name": "book_n_idx"}
BUILD = "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"


@pytest.fixture
def leftover():
    """An INVALID index."""
    with pytest.raises(Exception, match="could not create unique index"):
        query(BUILD)


@pytest.fixture
def sent(monkeypatch):
    """The messages to `drop_leftover`, instead of sending them."""
    messages: list[tuple[str, ...]] = []
    monkeypatch.setattr(tasks.drop_leftover, "send", lambda *arguments: messages.append(arguments))
    return messages


def ask(client, **fields):
    return client.post(DROP, {**INDEX, **fields}, content_type="application/json", headers={"X-Request-ID": "r-1"})


def test_it_works(viewer, operator, migration, leftover, sent):
    row = migration(sql_forwards=BUILD)
    first, second = viewer.get(LIST).json()
    assert (second["database"], second["leftovers"], second["error"]) == ("second", [], None)
    assert first == {
        "database": "default",
        "leftovers": [
            {
                "schema": "public",
                "name": "book_n_idx",
                "table": "public.book",
                "kind": "invalid",
                "size_bytes": 0,
                "definition": "CREATE UNIQUE INDEX book_n_idx ON public.book USING btree (n)",
                "migration": row.pk,
                "running": False,
            }
        ],
        "error": None,
    }
    response = ask(operator)
    assert (response.status_code, response.json()) == (202, {**INDEX, "dropped": False})
    assert sent == [("default", "public", "book_n_idx", "operator-2", "r-1")]
    tasks.drop_leftover(*sent[0])
    assert (row.events.last().by, row.events.last().request_id) == ("operator-2", "r-1")
    assert viewer.get(LIST).json()[0]["leftovers"] == []
    response = ask(operator)
    assert (response.status_code, response.json()) == (200, {**INDEX, "dropped": True})
    assert len(sent) == 1


def test_without_a_broker_it_is_dropped_at_once(operator, leftover, monkeypatch):
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)
    response = ask(operator)
    assert (response.status_code, response.json()["dropped"]) == (200, True)
    assert index_is_valid("book_n_idx") is None


def test_what_queries_use_stays(operator, sent):
    query("CREATE INDEX book_n_idx ON book (n)")
    assert_problem(ask(operator), 409, "not_a_leftover")
    assert sent == []


def test_what_a_migration_in_progress_looks_after_stays(operator, migration, leftover, sent):
    row = migration(Status.STARTED, sql_forwards=BUILD)
    begin(row.pk)
    problem = assert_problem(ask(operator), 409, "not_a_leftover")
    assert f"migration {row.pk}" in problem["detail"]
    assert sent == []


def test_a_broker_that_is_away_is_told(operator, leftover, monkeypatch):
    def away(*arguments):
        raise ConnectionError("secret")

    monkeypatch.setattr(tasks.drop_leftover, "send", away)
    response = ask(operator)
    assert_problem(response, 503, "broker_unavailable")
    assert int(response["Retry-After"]) > 0
    assert "secret" not in response.text


def test_a_target_that_is_away_hides_no_other_and_cannot_be_asked(operator, viewer, leftover, monkeypatch):
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    first, second = viewer.get(LIST).json()
    assert [found["name"] for found in first["leftovers"]] == ["book_n_idx"]
    assert (second["leftovers"], second["error"]["code"]) == ([], "connection_lost")
    response = ask(operator, database="second")
    assert_problem(response, 503, "target_unavailable")
    assert "Retry-After" in response


def test_a_viewer_may_look_and_not_drop(viewer, client_of, leftover):
    problem = assert_problem(ask(viewer), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.run_asyncmigrationstatus"
    assert_problem(client_of(None).get(LIST), 401, "not_authenticated")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [({"database": "nowhere"}, "database"), ({"name": ""}, "name"), ({"schema": None}, "schema"), ({"x": 1}, "x")],
)
def test_nonsense_is_refused(operator, sent, fields, wrong):
    assert list(assert_problem(ask(operator, **fields), 400, "validation_error")["errors"]) == [wrong]
    assert sent == []


def test_a_migration_is_still_found_by_its_id(operator, migration):
    assert operator.get(f"/api/async-migrations/{migration().pk}").status_code == 200
    assert_problem(operator.get(DROP), 405, "method_not_allowed")
    assert_problem(operator.post(LIST), 405, "method_not_allowed")
