"""Which locks the preflight says that a statement takes, compared with those that PostgreSQL takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from django.db import connections

from async_migrations.execution.definition import definition_of, update_text
from async_migrations.execution.findings import INFO, WARNING, Finding
from async_migrations.execution.locks import lock, lock_of_backfill
from async_migrations.execution.locks.modes import Mode, strength
from async_migrations.execution.look import Look
from async_migrations.execution.session import Session
from async_migrations.execution.statements import parse
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Direction, Kind
from tests.conftest import eventually
from tests.driving import OLD_SNAPSHOT, held
from tests.test_docs import PREFLIGHT, block

pytestmark = pytest.mark.usefixtures("library")

LIBRARY = """
CREATE TABLE author (id int PRIMARY KEY);
CREATE TABLE book (id int PRIMARY KEY, title text, n int NOT NULL DEFAULT 0 CONSTRAINT book_n_positive CHECK (n >= 0));
CREATE TABLE review (id int PRIMARY KEY, book_id int REFERENCES book, author_id int);
ALTER TABLE review ADD FOREIGN KEY (author_id) REFERENCES author NOT VALID;
CREATE TABLE sale (day int) PARTITION BY RANGE (day);
CREATE TABLE sale_1 PARTITION OF sale FOR VALUES FROM (0) TO (10);
CREATE TABLE sale_2 (day int);
CREATE INDEX sale_idx ON sale (day);
CREATE TABLE fee (day int) PARTITION BY RANGE (day);
CREATE TABLE fee_1 PARTITION OF fee FOR VALUES FROM (0) TO (10);
CREATE TABLE fee_rest PARTITION OF fee DEFAULT;
CREATE MATERIALIZED VIEW shelf AS SELECT g AS place FROM generate_series(1, 3) AS g;
CREATE UNIQUE INDEX shelf_idx ON shelf (place);
CREATE INDEX book_title_idx ON book (title);
CREATE UNIQUE INDEX book_n_idx ON book (n);
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER seen BEFORE UPDATE ON book FOR EACH ROW EXECUTE FUNCTION pass();
"""

ALTERED = [
    ("book ADD COLUMN x int", "instant"),
    ("book ADD COLUMN x text DEFAULT 'a', ADD y timestamptz DEFAULT now()", "instant"),
    ("book ADD COLUMN x float DEFAULT random()", "statement"),
    ("book ADD COLUMN author_id int REFERENCES author", "statement"),
    ("book DROP COLUMN title", "instant"),
    ("review DROP COLUMN author_id", "instant"),
    ("author DROP COLUMN id CASCADE", "instant"),
    ("book ALTER COLUMN n TYPE numeric(10, 2)", "statement"),
    ("review ALTER book_id SET DATA TYPE bigint", "statement"),
    ("author ALTER id TYPE bigint", "statement"),
    ("book ALTER title SET NOT NULL", "statement"),
    ("book ALTER n DROP NOT NULL, ALTER n SET DEFAULT 1", "instant"),
    ("book ALTER n SET STATISTICS 100", "instant"),
    ("book ALTER n SET (n_distinct = 5)", "instant"),
    ("book ADD CONSTRAINT book_x CHECK (n < 9)", "statement"),
    ("book ADD CONSTRAINT book_x CHECK (n < 9) NOT VALID", "instant"),
    ("book ADD CONSTRAINT book_x UNIQUE (id, title)", "statement"),
    ("book ADD CONSTRAINT book_x UNIQUE USING INDEX book_n_idx", "instant"),
    ("book ADD CONSTRAINT book_x FOREIGN KEY (n) REFERENCES author", "statement"),
    ("book ADD FOREIGN KEY (n) REFERENCES author (id) NOT VALID", "instant"),
    ("book VALIDATE CONSTRAINT book_n_positive", "statement"),
    ("review VALIDATE CONSTRAINT review_author_id_fkey", "statement"),
    ("book ADD x int, VALIDATE CONSTRAINT book_n_positive", "statement"),
    ("review DROP CONSTRAINT review_author_id_fkey", "instant"),
    ("author DROP CONSTRAINT author_pkey CASCADE", "instant"),
    ("review ALTER CONSTRAINT review_author_id_fkey DEFERRABLE", "instant"),
    ("book DISABLE TRIGGER seen", "instant"),
    ("book ENABLE ROW LEVEL SECURITY", "instant"),
    ("book SET (fillfactor = 70)", "instant"),
    ("book CLUSTER ON book_title_idx", "instant"),
    ("book SET WITHOUT CLUSTER", "instant"),
    ("book REPLICA IDENTITY FULL", "instant"),
    ("book RENAME TO volume", "instant"),
    ("book OWNER TO CURRENT_USER", "instant"),
    ("sale_2 SET UNLOGGED", "statement"),
    ("sale ADD COLUMN x int", "instant"),
    ("ONLY sale ALTER day SET DEFAULT 1", "instant"),
    ("sale RENAME COLUMN day TO date", "instant"),
    ("sale ATTACH PARTITION sale_2 FOR VALUES FROM (10) TO (20)", "statement"),
    ("sale DETACH PARTITION sale_1", "instant"),
    ("fee ATTACH PARTITION sale_2 FOR VALUES FROM (10) TO (20)", "statement"),
    ("fee DETACH PARTITION fee_1", "instant"),
]
OTHERS = [
    ("SELECT id FROM book FOR UPDATE", "statement"),
    ("INSERT INTO author VALUES (9) ON CONFLICT (id) DO UPDATE SET id = 9", "statement"),
    ("UPDATE ONLY book SET n = 2 WHERE id = 1", "statement"),
    ("WITH gone AS (DELETE FROM review RETURNING id) UPDATE book SET n = 1", "statement"),
    ("CREATE INDEX x_idx ON book (n)", "statement"),
    ("CREATE INDEX x_idx ON sale (day)", "statement"),
    ("CREATE INDEX x_idx ON ONLY sale (day)", "statement"),
    ("DROP INDEX book_title_idx", "instant"),
    ("DROP INDEX sale_idx", "instant"),
    ("ALTER INDEX book_title_idx RENAME TO x_idx", "instant"),
    ("ALTER INDEX book_title_idx SET (fillfactor = 80)", "instant"),
    ("REINDEX INDEX book_title_idx", "statement"),
    ("REINDEX (VERBOSE) TABLE book", "statement"),
    ("CREATE TRIGGER x BEFORE UPDATE OF n ON book FOR EACH ROW EXECUTE FUNCTION pass()", "instant"),
    ("DROP TRIGGER IF EXISTS seen ON book", "instant"),
    ("ALTER TRIGGER seen ON book RENAME TO noticed", "instant"),
    ("CREATE POLICY mine ON book USING (true)", "instant"),
    ("CREATE RULE x AS ON DELETE TO author DO INSTEAD NOTHING", "instant"),
    ("CREATE TABLE chapter (id int PRIMARY KEY, of int REFERENCES chapter, book int REFERENCES book)", "instant"),
    ("CREATE TABLE sale_3 PARTITION OF sale FOR VALUES FROM (20) TO (30)", "instant"),
    ("CREATE TABLE paperback (x int) INHERITS (book, author)", "instant"),
    ("CREATE STATISTICS x ON n, title FROM book", "instant"),
    ("COMMENT ON TABLE book IS 'x'", "instant"),
    ("COMMENT ON INDEX book_title_idx IS 'x'", "instant"),
    ("DROP TABLE review", "instant"),
    ("DROP TABLE IF EXISTS author CASCADE", "instant"),
    ("DROP TABLE sale_1, sale_2", "instant"),
    ("DROP TABLE sale", "instant"),
    ("DROP TABLE fee_1", "instant"),
    ("CREATE TABLE fee_2 PARTITION OF fee FOR VALUES FROM (10) TO (20)", "instant"),
    ("TRUNCATE sale, review", "instant"),
    ("TRUNCATE TABLE author CASCADE", "instant"),
    ("LOCK TABLE book, review IN SHARE ROW EXCLUSIVE MODE", "instant"),
    ("LOCK author NOWAIT", "instant"),
    ("ANALYZE book", "statement"),
    ("CLUSTER book USING book_title_idx", "statement"),
    ("REFRESH MATERIALIZED VIEW shelf", "statement"),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY shelf", "statement"),
    ("DROP MATERIALIZED VIEW shelf", "instant"),
]
# What cannot run in a transaction, with what keeps it waiting while it is looked at.
LOCKED = ("BEGIN", "LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE")
OUTSIDE = [
    ("CREATE INDEX CONCURRENTLY x_idx ON book (n)", OLD_SNAPSHOT),
    ("DROP INDEX CONCURRENTLY book_title_idx", OLD_SNAPSHOT),
    ("REINDEX INDEX CONCURRENTLY book_title_idx", OLD_SNAPSHOT),
    ("VACUUM (ANALYZE) book", LOCKED),
    ("VACUUM (FULL) book", LOCKED),
]


# What another session sees: nothing that the statement makes, and names as they were.
TAKEN = """
SELECT c.relname, c.relkind::text, l.mode
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = 'public'::regnamespace
WHERE l.locktype = 'relation' AND l.pid = %s
"""


@pytest.fixture(scope="module")
def library(django_db_setup: None) -> Iterator[None]:
    """Tables that know of one another, for all tests here; none of them leaves anything."""
    with closing(connected()) as connection, connection.cursor() as cursor:
        cursor.execute(LIBRARY)
        yield
        cursor.execute("DROP TABLE author, book, review, sale, sale_2, fee CASCADE")
        cursor.execute("DROP MATERIALIZED VIEW shelf")
        cursor.execute("DROP FUNCTION pass")


def connected() -> Any:
    """Return an autocommit connection of its own."""
    connection = psycopg2.connect(**connections["default"].get_connection_params())
    connection.autocommit = True
    return connection


def told(sql: str) -> Finding:
    """Return what the preflight says of the locks of a statement."""
    migration = AsyncMigrationStatus(name="x", database="default", sql_forwards=sql)
    with Session("default", "async-migrations/test") as session:
        statements = parse(sql)
        (finding,) = lock(Look(session, migration, Direction.FORWARDS, 0, statements), statements[0])
    return finding


def modes(finding: Finding) -> dict[str, Mode]:
    """Return the mode by relation, the one partition of `sale` as well."""
    said = {each["relation"]: of(each["mode"]) for each in finding.detail["locks"]}
    below = [each for each in finding.detail["locks"] if each["partitions"]]
    assert [(each["relation"], each["partitions"]) for each in below] in ([], [("sale", 1)])
    return said | ({"sale_1": said["sale"]} if below else {})


def of(words: str) -> Mode:
    (mode,) = (mode for mode in Mode if mode.words == words)
    return mode


def taken(pid: int, said: dict[str, Mode]) -> dict[str, Mode]:
    """Return the strongest lock that a session has, or waits for, on each relation.

    On tables that nobody mentioned only what is more than for reading counts, and on such indexes nothing.
    """
    seen: dict[str, Mode] = {}
    with closing(connected()) as connection, connection.cursor() as cursor:
        cursor.execute(TAKEN, [pid])
        for name, kind, mode in cursor.fetchall():
            found = next(each for each in Mode if each.words.replace(" ", "").lower() + "lock" == mode.lower())
            told_of = name in said or (kind in {"r", "p", "m"} and strength(found) > strength(Mode.ROW_SHARE))
            if told_of and strength(found) >= strength(seen.get(name, found)):
                seen[name] = found
    return seen


@pytest.mark.parametrize(("sql", "lasts"), [*((f"ALTER TABLE {sql}", lasts) for sql, lasts in ALTERED), *OTHERS])
def test_what_is_told_is_what_postgresql_locks(sql, lasts) -> None:
    finding = told(sql)
    said = modes(finding)
    with closing(connected()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(sql)
        assert taken(connection.info.backend_pid, said) == said
    assert finding.detail["lasts"] == lasts
    stops = any(strength(mode) >= strength(Mode.SHARE) for mode in said.values())
    assert finding.level == (WARNING if stops else INFO)
    assert ("readers" in finding.message) is (Mode.ACCESS_EXCLUSIVE in said.values())
    assert all(f"{name}" in finding.message for name in said if name != "sale_1" or "sale" not in said)


@pytest.mark.parametrize(("sql", "stopped_by"), OUTSIDE)
def test_what_is_told_is_what_is_locked_outside_of_a_transaction(sql, stopped_by) -> None:
    said = modes(told(sql))
    with closing(connected()) as connection, connection.cursor() as cursor, ThreadPoolExecutor() as threads:
        pid = connection.info.backend_pid
        with held(*stopped_by):
            ends = threads.submit(cursor.execute, sql)
            eventually(lambda: waits(pid), what="it waits")
            seen = taken(pid, said)
        ends.result(timeout=30)
        cursor.execute("DROP INDEX IF EXISTS x_idx")
        cursor.execute("CREATE INDEX IF NOT EXISTS book_title_idx ON book (title)")
    assert seen == said


def waits(pid: int) -> bool:
    """Whether a session waits for another one."""
    with closing(connected()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid])
        return bool(cursor.fetchall()[0][0])


@pytest.mark.parametrize("mode", list(Mode))
def test_who_has_to_wait_for_a_mode(mode) -> None:
    wanted = {
        "reads": "ACCESS SHARE", "writes": "ROW EXCLUSIVE",
        "maintenance": "SHARE UPDATE EXCLUSIVE", "ddl": "ACCESS EXCLUSIVE",
    }  # fmt: skip

    def refused(other: str) -> bool:
        with closing(connected()) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                cursor.execute(f"LOCK TABLE author IN {other} MODE NOWAIT")
            except psycopg2.errors.LockNotAvailable:
                return True
            return False

    with held("BEGIN", f"LOCK TABLE author IN {mode.words} MODE"):
        assert tuple(who for who, other in wanted.items() if refused(other)) == mode.blocks


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("DO $$ BEGIN DELETE FROM book; END $$", WARNING),
        ("CALL tidy()", WARNING),
        ("VACUUM", INFO),
        ("REINDEX SCHEMA public", WARNING),
        ("CREATE EXTENSION pg_trgm", WARNING),
        ("ALTER TABLE book ALTER", WARNING),
        ("DROP SCHEMA shop CASCADE", WARNING),
    ],
)
def test_what_its_text_does_not_tell_is_unknown(sql, level) -> None:
    finding = told(sql)
    assert (finding.level, finding.detail["locks"], finding.detail["blocks"]) == (level, None, None)
    assert "not told by its text" in finding.message


def test_the_example_of_the_documents() -> None:
    said = json.loads(block("locks", PREFLIGHT))
    assert told(said["sql"]).detail == said


def test_a_table_that_a_statement_before_it_makes_is_named_as_it_is_written() -> None:
    (locked,) = told("CREATE INDEX x_idx ON shop.nowhere (n)").detail["locks"]
    assert locked == {"relation": "shop.nowhere", "mode": "SHARE", "partitions": 0}


def test_a_batch_of_a_backfill() -> None:
    options = {"table": "book", "where": "n = 0"}
    row = AsyncMigrationStatus(
        name="x", database="default", kind=Kind.BACKFILL, options=options,
        sql_forwards=update_text("book", "n = 1", "n = 0"),
    )  # fmt: skip
    with Session("default", "async-migrations/test") as session:
        look = Look(session, row, Direction.FORWARDS, 0, definition=definition_of(row))
        (finding,) = lock_of_backfill(look)
    assert finding.level == INFO
    assert finding.detail["locks"] == [{"relation": "book", "mode": "ROW EXCLUSIVE", "partitions": 0}]
