"""SQL text -> statements: where it is cut, and what each of them needs."""

from __future__ import annotations

import pytest

from async_migrations.errors import InvalidDefinition
from async_migrations.execution.statements import Effect, Identifier, IndexAction, Lock, parse


def texts(sql: str) -> list[str]:
    return [statement.text for statement in parse(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;;; ", ["SELECT 1", "SELECT 2"]),
        ("SELECT 'a;''b'; SELECT 2", ["SELECT 'a;''b'", "SELECT 2"]),
        (r"SELECT E'it\'s; ok'; SELECT 2", [r"SELECT E'it\'s; ok'", "SELECT 2"]),
        (r"SELECT '\'; SELECT 2", [r"SELECT '\'", "SELECT 2"]),
        ('SELECT 1 AS "a;b"; SELECT 2', ['SELECT 1 AS "a;b"', "SELECT 2"]),
        ("DO $x$ BEGIN PERFORM 1; END $x$; SELECT 2", ["DO $x$ BEGIN PERFORM 1; END $x$", "SELECT 2"]),
        ("CALL f('a;b'); VACUUM (ANALYZE) t; SELECT 2", ["CALL f('a;b')", "VACUUM (ANALYZE) t", "SELECT 2"]),
        ("-- first;\nSELECT 1; /* a /* b; */ c; */ SELECT 2", ["-- first;\nSELECT 1", "/* a /* b; */ c; */ SELECT 2"]),
        ("SELECT 1; -- the end;", ["SELECT 1"]),
        ("SELECT d ? 'a;' AND d @> '{}' AND n % 2 = 0", ["SELECT d ? 'a;' AND d @> '{}' AND n % 2 = 0"]),
        ("UPDATE t SET été = 'é;'; SELECT 2", ["UPDATE t SET été = 'é;'", "SELECT 2"]),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
            [
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
                "SELECT 3",
            ],
        ),
    ],
)
def test_text_is_cut_at_its_semicolons_and_nowhere_else(sql, expected) -> None:
    assert texts(sql) == expected


@pytest.mark.parametrize(
    ("sql", "effect", "lock"),
    [
        ("UPDATE t SET n = 1", Effect.TRANSACTIONAL, Lock.ROWS),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", Effect.TRANSACTIONAL, Lock.ROWS),
        ("CREATE INDEX i ON t (a)", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", Effect.CATALOGUE, Lock.MAINTENANCE),
        ("drop index concurrently if exists i", Effect.CATALOGUE, Lock.MAINTENANCE),
        ("DROP INDEX i", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("REINDEX INDEX CONCURRENTLY i", Effect.CATALOGUE, Lock.MAINTENANCE),
        ("REINDEX TABLE CONCURRENTLY t", Effect.REPEATABLE, Lock.MAINTENANCE),
        ("REINDEX TABLE t", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("VACUUM t", Effect.REPEATABLE, Lock.MAINTENANCE),
        ("VACUUM FULL t", Effect.REPEATABLE, Lock.BLOCKING),
        ("ANALYZE t", Effect.TRANSACTIONAL, Lock.MAINTENANCE),
        ("ALTER TABLE t VALIDATE CONSTRAINT c", Effect.TRANSACTIONAL, Lock.MAINTENANCE),
        ("ALTER TABLE t VALIDATE CONSTRAINT c, ADD COLUMN a int", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("ALTER TABLE t ADD COLUMN a int", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", Effect.UNKNOWN, Lock.MAINTENANCE),
        ("ALTER TABLE t RENAME COLUMN validate TO a", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("DO $$ BEGIN ALTER TABLE t ADD COLUMN a int; END $$", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("CALL job()", Effect.TRANSACTIONAL, Lock.BLOCKING),
        ("CREATE DATABASE d", Effect.UNKNOWN, Lock.BLOCKING),
        ("RESET maintenance_work_mem", Effect.SESSION, Lock.ROWS),
        ("SET maintenance_work_mem = '1GB'", Effect.SESSION, Lock.ROWS),
        ('UPDATE t SET "CONCURRENTLY" = 1', Effect.TRANSACTIONAL, Lock.ROWS),
    ],
)
def test_each_statement_is_known_for_what_it_needs(sql, effect, lock) -> None:
    (statement,) = parse(sql)
    assert (statement.effect, statement.lock) == (effect, lock)


def test_a_new_index_is_read_to_the_letter() -> None:
    sql = (
        'SELECT 1; CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "My Idx" ON ONLY Shop.Book USING btree '
        "(title, octet_length(body::text) DESC) INCLUDE (id) WHERE title <> ';' -- why"
    )
    (index,) = parse(sql)[1].indexes
    assert index.action is IndexAction.CREATE
    assert index.name == Identifier("My Idx", "shop")
    assert index.table == Identifier("book", "shop")
    assert (index.unique, index.tolerant, index.concurrently) == (True, True, True)
    assert index.tail == "USING btree (title, octet_length(body::text) DESC) INCLUDE (id) WHERE title <> ';'"


def test_names_are_folded_as_postgresql_does() -> None:
    (index,) = parse("CREATE INDEX Été ON ÉTÉ (a)")[0].indexes
    assert (str(index.name), str(index.table)) == ("Été", "ÉtÉ")


def test_a_drop_names_every_index() -> None:
    (statement,) = parse('DROP INDEX IF EXISTS a, shop.B, "C" CASCADE')
    assert [str(index.name) for index in statement.indexes] == ["a", "shop.b", "C"]
    assert all(index.tolerant and index.action is IndexAction.DROP for index in statement.indexes)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "holds no statement"),
        ("-- nothing", "holds no statement"),
        ("SELECT 'open", "cannot be read"),
        ("SELECT 1 /* open", "cannot be read"),
        ("BEGIN; SELECT 1; COMMIT", "transactions are the executor's"),
        ("SELECT 1; ROLLBACK", "Statement 2 is ROLLBACK"),
        ("SET LOCAL work_mem = '1GB'", "SET LOCAL"),
        ("SET application_name = 'x'", "has set there"),
        ("SET SESSION application_name TO x", "has set there"),
        ("RESET ALL", "has set there"),
        ("DISCARD ALL", "has set there"),
        ("COPY t FROM STDIN", "no client"),
        ("CREATE INDEX CONCURRENTLY ON t (a)", "without a name"),
        ("CREATE INDEX i", "without ON"),
        ("REINDEX INDEX", "ends before"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_a_reason(sql, message) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        parse(sql)


def test_a_text_of_many_statements_is_read_in_linear_time() -> None:
    assert len(parse("UPDATE t SET n = n + 1 WHERE id = 7;\n" * 5000)) == 5000


def test_without_a_transaction_only_what_cannot_be_told_is_unknown() -> None:
    statements = parse("CALL job(); VACUUM t; CREATE INDEX CONCURRENTLY i ON t (a)", atomic=False)
    assert [statement.effect for statement in statements] == [Effect.UNKNOWN, Effect.REPEATABLE, Effect.CATALOGUE]
    assert statements[0].lock is Lock.ROWS, "what commits by itself is not tried again for a lock"


@pytest.mark.parametrize(
    ("sql", "relations"),
    [
        ("CREATE INDEX CONCURRENTLY i ON shop.book (a)", ["shop.book"]),
        ("DROP INDEX CONCURRENTLY i", ["i"]),
        ("REINDEX TABLE CONCURRENTLY book", ["book"]),
        ("VACUUM (ANALYZE, FREEZE) book, shelf (a, b)", ["book", "shelf"]),
        ("VACUUM VERBOSE book", ["book"]),
        ("ANALYZE book (title)", ["book"]),
        ("ANALYZE", []),
        ("ALTER TABLE IF EXISTS ONLY shop.book VALIDATE CONSTRAINT c", ["shop.book"]),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", []),
        ("UPDATE book SET n = 1", []),
    ],
)
def test_what_works_on_a_table_one_at_a_time_names_it(sql, relations) -> None:
    (statement,) = parse(sql)
    assert [str(relation) for relation in statement.relations] == relations
