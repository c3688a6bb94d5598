"""A leftover that is dropped over HTTP, by a real worker."""

from __future__ import annotations

import pytest

from async_migrations import lifecycle
from async_migrations.lifecycle import Request
from tests.conftest import eventually
from tests.db.conftest import book, index_is_valid, query  # noqa: F401 - a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]

BUILD = "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"
JANITOR = "/api/async-migrations/janitor"


def test_a_leftover_is_dropped_by_the_worker(api, start_worker) -> None:
    # Given an INVALID index that one of our migrations has in its SQL
    row = lifecycle.take_over(Request("schedule", "books.migrations.0002_x", "default", BUILD, "SELECT 1"))
    with pytest.raises(Exception, match="could not create unique index"):
        query(BUILD)
    client = api("operator")
    # When it is asked for, twice
    index = {"database": "default", "schema": "public", "name": "book_n_idx"}
    for _ in range(2):
        assert client.post(f"{JANITOR}/drop", json=index).status_code == 202
    start_worker()
    # Then it is gone, and the history of the migration says once who wanted it
    eventually(lambda: client.get(JANITOR).json()[0]["leftovers"] == [], what="the list is empty")
    assert index_is_valid("book_n_idx") is None
    event = eventually(lambda: row.events.filter(kind="leftover_dropped").first())
    assert event.by.startswith("operator-")
    assert event.request_id
    assert client.post(f"{JANITOR}/drop", json=index).json() == {**index, "dropped": True}
