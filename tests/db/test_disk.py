"""Whether the disk has room for what a migration builds: what is needed, what is free, and what is said of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connections

from async_migrations.execution import disk
from async_migrations.execution.findings import ERROR, INFO, WARNING
from tests.db.conftest import query
from tests.db.test_preflight import BUILD, found, role

pytestmark = pytest.mark.usefixtures("control", "book")

FREE = 10**9


@pytest.fixture
def books() -> None:
    """So many books that an index is more than a page or two, and statistics of them."""
    query(
        "INSERT INTO book (title, n) SELECT 'A title that differs: ' || g, g % 50 FROM generate_series(1, 20000) AS g"
    )
    query("ANALYZE book")


@pytest.fixture
def here() -> Path:
    """Return the directory of the test's server, which is on this machine."""
    if urlsplit(os.environ["DATABASE_URL"]).hostname:
        pytest.skip("only the embedded server is known to be here: unset DATABASE_URL")
    return Path(query("SHOW data_directory")[0][0])


def much(alias: str) -> int:
    """Say what a monitoring says; of one database alone."""
    return FREE if alias == "default" else 0


def nothing(alias: str) -> None:
    """Say that it is not known."""


def broken(alias: str) -> int:
    """Fail."""
    raise OSError("the monitoring is away")


def test_it_works(migration, books, here) -> None:
    room = found(migration(BUILD), "disk_space")
    assert (room.level, room.hint) == (INFO, None)
    free = room.detail.pop("free_bytes")
    assert 0.5 < free / shutil.disk_usage(here).free < 2
    needed = room.detail.pop("needed_bytes")
    assert room.detail == {"indexes": ["book_n_idx"], "tablespace": "pg_default", "basis": "disk"}
    assert f"{needed:,}" in room.message


@pytest.mark.parametrize(
    ("times", "level"), [(1.1, ERROR), (1.3, WARNING), (2.4, WARNING), (2.6, INFO)]
)  # of what is needed
def test_too_little_is_an_error_and_little_a_warning(migration, books, settings, monkeypatch, times, level) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.much"
    row = migration(BUILD)
    needed = found(row, "disk_space").detail["needed_bytes"]
    monkeypatch.setitem(globals(), "FREE", int(needed * times))
    room = found(row, "disk_space")
    assert (room.level, room.detail["free_bytes"], room.detail["basis"]) == (level, FREE, f"{__name__}.much")
    assert bool(room.hint) is (level != INFO)


def test_what_a_statement_before_it_may_make_room_for_is_a_warning(migration, books, settings, monkeypatch) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.much"
    monkeypatch.setitem(globals(), "FREE", 1)
    assert found(migration(f"TRUNCATE book; {BUILD}"), "disk_space").level == WARNING
    two = migration(f"{BUILD}; CREATE INDEX CONCURRENTLY book_title_idx ON book (title)", name="books.migrations.0003")
    both = found(two, "disk_space")
    assert (both.level, both.detail["indexes"]) == (ERROR, ["book_n_idx", "book_title_idx"])


def test_a_function_that_does_not_know_leaves_it_to_the_disk(migration, books, here, settings) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.nothing"
    assert found(migration(BUILD), "disk_space").detail["basis"] == "disk"


@pytest.mark.parametrize(("path", "why"), [("broken", "the monitoring is away"), ("missing", "ImportError")])
def test_a_function_that_fails_is_told(migration, books, settings, path, why) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.{path}"
    unknown = found(migration(BUILD), "disk_unknown")
    assert unknown.level == INFO
    assert f"{__name__}.{path} failed" in unknown.message
    assert why in unknown.message


@pytest.mark.parametrize(
    "on",
    ["(id)", "(title)", "(n)", "(n, title)", "(n) INCLUDE (title)", "(title) WHERE n < 5", "((id % 7), id)"],
)
def test_the_estimate_is_near_what_the_build_takes(migration, books, on) -> None:
    unique = "UNIQUE " if on == "(id)" else ""
    needed = found(migration(f"CREATE {unique}INDEX x_idx ON book {on}"), "disk_space").detail["needed_bytes"]
    query(f"CREATE {unique}INDEX x_idx ON book {on}")
    ((taken,),) = query("SELECT pg_relation_size('x_idx')")
    assert 0.75 < needed / taken < 1.3


def test_partitions_count_together(migration, books) -> None:
    whole = found(migration(BUILD), "disk_space").detail["needed_bytes"]
    query("CREATE TABLE sale (LIKE book) PARTITION BY RANGE (id)")
    try:
        for at in (0, 1):
            query(
                f"CREATE TABLE sale_{at} PARTITION OF sale FOR VALUES FROM ({at * 10_000}) TO ({at * 10_000 + 10_000})"
            )
        query("INSERT INTO sale SELECT * FROM book WHERE id < 20000")
        query("ANALYZE sale")
        sale = migration("CREATE INDEX sale_n_idx ON sale (n)", name="books.migrations.0003")
        assert 0.8 < found(sale, "disk_space").detail["needed_bytes"] / whole < 1.2
    finally:
        query("DROP TABLE sale")


def test_a_reindex_needs_what_the_index_has(migration, books) -> None:
    query("CREATE INDEX book_n_idx ON book USING gin (body)")
    ((taken,),) = query("SELECT pg_relation_size('book_n_idx')")
    room = found(migration("REINDEX INDEX CONCURRENTLY book_n_idx"), "disk_space")
    assert room.detail["needed_bytes"] == taken


def test_what_is_there_needs_nothing(migration, books) -> None:
    query("CREATE INDEX book_n_idx ON book (n)")
    with pytest.raises(AssertionError):
        found(migration(BUILD), "disk_space")
    with pytest.raises(AssertionError):
        found(migration("REINDEX INDEX book_title_idx", name="books.migrations.0003"), "disk_space")


@pytest.mark.parametrize("on", ["USING gin (body)", "(lower(title))"])
def test_what_cannot_be_estimated_is_unknown(migration, books, settings, on) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.much"
    unknown = found(migration(f"CREATE INDEX book_n_idx ON book {on}"), "disk_unknown")
    assert (unknown.detail["needed_bytes"], unknown.detail["free_bytes"]) == (None, FREE)


def test_a_table_that_nobody_has_analyzed_is_unknown(migration) -> None:
    assert "ANALYZE" in found(migration(BUILD), "disk_unknown").message


def test_each_tablespace_by_itself(migration, books, here) -> None:
    query("SET allow_in_place_tablespaces = on")
    query("CREATE TABLESPACE shelf LOCATION ''")
    try:
        named = migration(f"{BUILD} TABLESPACE shelf")
        usual = migration(BUILD, name="books.migrations.0003", settings={"default_tablespace": "shelf"})
        for row in (named, usual):
            room = found(row, "disk_space")
            assert (room.detail["tablespace"], room.detail["basis"]) == ("shelf", "disk")
    finally:
        query("DROP TABLESPACE shelf")
        query("RESET allow_in_place_tablespaces")


def test_a_server_that_is_not_proven_to_be_here_is_not_looked_for_here(here) -> None:
    ((backend, started),) = query("SELECT pg_backend_pid(), extract(epoch FROM pg_postmaster_start_time())::float")
    assert disk._is_here(here, backend, started)
    assert not disk._is_here(here, os.getpid(), started), "a process of something else"
    assert not disk._is_here(here, backend, started - 3600), "a server that has been restarted since"
    with pytest.raises(OSError, match="postmaster"):
        disk._is_here(here / "base", backend, started)


def test_a_role_that_may_not_see_where_the_server_keeps_its_data(migration, books, monkeypatch) -> None:
    with role("SELECT ON book", "TEMPORARY ON DATABASE " + connections["default"].settings_dict["NAME"]):
        monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "assume_role", "looker")
        unknown = found(migration(BUILD), "disk_unknown")
    assert unknown.detail["free_bytes"] is None
    assert unknown.detail["needed_bytes"] > 0
