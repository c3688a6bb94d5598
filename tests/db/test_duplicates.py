"""A UNIQUE index that cannot be built: the error names some of the keys that stand in its way, with their counts."""

from __future__ import annotations

import json

import pytest
from django.db import NotSupportedError, connection

from async_migrations.execution import duplicates
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import carried_out, index_is_valid, kinds, query
from tests.test_docs import ROOT, block

pytestmark = pytest.mark.usefixtures("control", "book")


@pytest.fixture
def samples(migration):
    """Try to build a unique index on book; return the samples in the row's error, None for none."""

    def tried(tail: str, concurrently: str = "CONCURRENTLY", before: str = ""):
        row = carried_out(migration(f"{before} CREATE UNIQUE INDEX {concurrently} book_x_idx ON book {tail}"))
        assert row.status == Status.ERROR, row.meta
        assert row.meta["error"]["code"] == "duplicate_key", row.meta
        assert index_is_valid("book_x_idx") is None
        assert row.events.filter(kind="fail").last().detail["error"] == row.meta["error"]
        return row.meta["error"].get("samples")

    return tried


@pytest.mark.parametrize("concurrently", ["CONCURRENTLY", ""])
def test_it_works(samples, concurrently) -> None:
    query("UPDATE book SET n = CASE WHEN id <= 3 THEN 42 WHEN id <= 5 THEN 7 ELSE id + 1000 END")
    assert samples("(n)", concurrently) == [{"key": {"n": "42"}, "count": 3}, {"key": {"n": "7"}, "count": 2}]


def test_it_is_as_documented(migration) -> None:
    query("CREATE TABLE task AS SELECT 7 AS project_id, 4 AS number FROM generate_series(1, 2)")
    row = carried_out(
        migration("CREATE UNIQUE INDEX CONCURRENTLY task_project_number_uniq ON task (project_id, number)")
    )
    query("DROP TABLE task")
    documented = json.loads(block("error", ROOT / "docs" / "errors.md"))
    assert row.meta["error"] == {**documented, "samples": [{"key": {"project_id": "7", "number": "4"}, "count": 2}]}


def test_only_the_worst_are_named(samples) -> None:
    query("UPDATE book SET n = id % 100")
    query("UPDATE book SET n = 1 WHERE id <= 20")
    found = samples("(n)")
    assert len(found) == 5
    assert found[0]["key"] == {"n": "1"}
    assert found[0]["count"] > found[1]["count"] > 1


def test_expressions_and_several_columns(samples) -> None:
    query("UPDATE book SET title = CASE id WHEN 1 THEN 'Emma' WHEN 2 THEN 'EMMA' ELSE title END")
    assert samples("(n, lower(title)) INCLUDE (id)") == [{"key": {"n": "0", "lower(title)": "emma"}, "count": 2}]
    assert samples("(lower(title) text_pattern_ops DESC)") == [{"key": {"lower(title)": "emma"}, "count": 2}]


def test_the_condition_of_a_partial_index(samples) -> None:
    query("UPDATE book SET n = id, title = CASE WHEN id <= 4 THEN 'x' WHEN id > 490 THEN 'y' ELSE title END")
    assert samples("(title) WHERE n > 2 AND n < 400") == [{"key": {"title": "x"}, "count": 2}]


def test_nulls_are_all_different_unless_the_index_says_otherwise(samples) -> None:
    query("UPDATE book SET title = CASE WHEN id <= 4 THEN NULL WHEN id <= 6 THEN 'x' ELSE title END")
    assert samples("(title)") == [{"key": {"title": "x"}, "count": 2}]
    if connection.cursor().connection.server_version >= 150000:
        both = [{"key": {"title": None}, "count": 4}, {"key": {"title": "x"}, "count": 2}]
        assert samples("(title) NULLS NOT DISTINCT") == both


def test_the_collation_of_the_index_says_what_is_the_same(samples) -> None:
    try:
        query("CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except NotSupportedError:
        pytest.skip("this PostgreSQL is built without ICU, which has the collations that matter here")
    try:
        query("UPDATE book SET title = CASE id WHEN 1 THEN 'Emma' WHEN 2 THEN 'EMMA' ELSE title END")
        (found,) = samples("(title COLLATE any_case)")
        assert found["count"] == 2
        assert found["key"]["title"].lower() == "emma"
    finally:
        query("DROP COLLATION any_case")


def test_names_that_need_quotes_and_a_search_path_of_the_migration(samples) -> None:
    query('CREATE SCHEMA IF NOT EXISTS "Odd one"')
    try:
        query('CREATE TABLE "Odd one".book AS SELECT g, 1 AS "a ""b" FROM generate_series(1, 3) AS g')
        found = samples('("a ""b")', before='SET search_path = "Odd one", public;')
        assert found == [{"key": {'a "b': "1"}, "count": 3}]
    finally:
        query('DROP SCHEMA "Odd one" CASCADE')


def test_long_keys_are_cut_short(samples) -> None:
    query("UPDATE book SET title = repeat('x', 1000)")
    (found,) = samples("(title)")
    assert found == {"key": {"title": "x" * 200}, "count": 500}


def test_a_partitioned_table_is_looked_at_with_its_partitions(migration) -> None:
    query("CREATE TABLE sale (day int, n int) PARTITION BY RANGE (day)")
    try:
        query("CREATE TABLE sale_1 PARTITION OF sale FOR VALUES FROM (0) TO (10)")
        query("INSERT INTO sale SELECT 1, g % 2 FROM generate_series(1, 3) AS g")
        row = carried_out(migration("CREATE UNIQUE INDEX sale_idx ON sale (day, n)"))
        assert row.meta["error"]["samples"] == [{"key": {"day": "1", "n": "1"}, "count": 2}]
    finally:
        query("DROP TABLE sale")


def test_what_takes_too_long_is_left_out_and_the_error_stays(samples, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "_SECONDS", 0.001)
    query("INSERT INTO book (title) SELECT 'title ' || g FROM generate_series(1, 50000) AS g")
    query("UPDATE book SET n = 1")
    assert samples("(n)") is None


def test_another_duplicate_than_that_of_an_index_has_no_samples(migration) -> None:
    row = carried_out(migration("INSERT INTO book (id) VALUES (1)"))
    assert row.meta["error"]["code"] == "duplicate_key"
    assert "samples" not in row.meta["error"]
    assert eventually(lambda: kinds(row)[-1] == "fail")
