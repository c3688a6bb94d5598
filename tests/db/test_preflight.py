"""What stands in the way of a migration, on a real PostgreSQL: each finding where it is due, and where it is not."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connections

from async_migrations import asking, lifecycle, tasks
from async_migrations.conf import conf
from async_migrations.errors import PreflightFailed
from async_migrations.execution import findings, preflight
from async_migrations.execution.definition import update_text
from async_migrations.execution.findings import ERROR, INFO, WARNING, Finding
from async_migrations.execution.session import Session
from async_migrations.lifecycle import Origin, Request
from async_migrations.models import AsyncMigrationCheckpoint, AsyncMigrationStatus
from async_migrations.states import Kind, Status
from tests.conftest import eventually
from tests.db.conftest import IDLE, carried_out, index_is_valid, query
from tests.db.test_pooler import multiplexer  # noqa: F401 - a fixture
from tests.driving import OLD_SNAPSHOT, held
from tests.standby import Standby, asked, standby
from tests.test_docs import PREFLIGHT, block, is_like

pytestmark = pytest.mark.usefixtures("control", "book")

BUILD = "CREATE INDEX CONCURRENTLY book_n_idx ON book (n)"
UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"

# What every look at a build says, where nothing is in the way.
ALWAYS = {"table", "lock", "duration", "disk_space", "disk_unknown", "migration_unknown", "lint", "not_linted"}


def codes(row: AsyncMigrationStatus) -> set[str]:
    """Return the codes of all findings but those that are always there."""
    return {found.code for found in preflight.look(row)} - ALWAYS


def found(row: AsyncMigrationStatus, code: str) -> Finding:
    """Return the one finding with this code."""
    seen = preflight.look(row)
    matching = [each for each in seen if each.code == code]
    assert len(matching) == 1, seen
    return matching[0]


def backfill(where: str = "n = 0", **options: Any) -> AsyncMigrationStatus:
    """Schedule a backfill of the books."""
    given = {"table": "book", "where": where, **options}
    text = update_text(given["table"], "n = 1", where)
    return lifecycle.take_over(
        Request("schedule", "books.migrations.0003_fill", "default", text, "", given, Kind.BACKFILL)
    )


def invalid_index() -> None:
    with pytest.raises(Exception, match="could not create unique index"):
        query(UNIQUE)
    assert index_is_valid("book_n_idx") is False


@contextmanager
def role(*grants: str) -> Iterator[None]:
    """A role that may do what is granted, and that the targets are looked at with the eyes of."""
    query("CREATE ROLE looker LOGIN")
    try:
        for grant in grants:
            query(f"GRANT {grant} TO looker")
        yield
    finally:
        query("DROP OWNED BY looker")
        query("DROP ROLE looker")


def test_nothing_stands_in_the_way(migration) -> None:
    assert codes(migration(BUILD)) == set()
    assert index_is_valid("book_n_idx") is None


def test_the_worst_comes_first(migration) -> None:
    row = migration("ALTER TABLE nowhere ADD x int; " + BUILD)
    order = [ERROR, WARNING, INFO]
    levels = [order.index(each.level) for each in preflight.look(row)]
    assert levels == sorted(levels)
    assert levels[0] == 0


def test_every_finding_is_one_of_the_list() -> None:
    with pytest.raises(AssertionError):
        Finding("table", ERROR, "")
    assert all(kind.levels for kind in findings.CODES.values())


# --- tables, sizes, time ---


def test_a_table_with_its_size(migration) -> None:
    query("ANALYZE book")
    size = found(migration(BUILD), "table")
    assert (size.level, size.detail["table"], size.detail["rows"]) == (INFO, "book", 500)
    assert size.detail["table_bytes"] > 8192
    assert size.detail["index_bytes"] >= 8192


def test_rows_that_nobody_has_counted_are_unknown(migration) -> None:
    query("CREATE TABLE fresh (id int)")
    try:
        size = found(migration("CREATE INDEX CONCURRENTLY fresh_idx ON fresh (id)"), "table")
        assert size.detail["rows"] is None
    finally:
        query("DROP TABLE fresh")


def test_a_partitioned_table_is_as_large_as_its_partitions(migration) -> None:
    query("CREATE TABLE sale (day int) PARTITION BY RANGE (day)")
    try:
        query("CREATE TABLE sale_1 PARTITION OF sale FOR VALUES FROM (0) TO (10)")
        query("INSERT INTO sale SELECT g % 10 FROM generate_series(1, 300) AS g")
        query("ANALYZE sale")
        size = found(migration("CREATE INDEX sale_idx ON sale (day)"), "table")
        assert (size.detail["rows"], size.detail["table_bytes"] > 0) == (300, True)
    finally:
        query("DROP TABLE sale")


def test_a_table_that_is_not_there(migration) -> None:
    row = migration("CREATE INDEX CONCURRENTLY x_idx ON nowhere (n)")
    missing = found(row, "undefined_table")
    assert (missing.level, missing.detail) == (ERROR, {"statement": 1, "table": "nowhere"})


@pytest.mark.parametrize(
    "sql",
    ["UPDATE nowhere SET n = 1", "DELETE FROM nowhere",
     "INSERT INTO nowhere VALUES (1)", "TRUNCATE TABLE ONLY nowhere",
     "ALTER TABLE nowhere ADD x int", 'VACUUM public."nowhere"', "ALTER TABLE nowhere VALIDATE CONSTRAINT x"],
)  # fmt: skip
def test_statements_of_all_kinds_name_their_table(migration, sql) -> None:
    assert found(migration(sql), "undefined_table").level == ERROR


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "ALTER TABLE IF EXISTS nowhere ADD x int",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "CREATE TABLE y ()",
    ],
)
def test_statements_that_can_do_without_a_table(migration, sql) -> None:
    assert codes(migration(sql)) == set()


def test_what_a_statement_before_it_may_make_is_a_warning(migration) -> None:
    row = migration("CREATE TABLE nowhere (n int); CREATE INDEX CONCURRENTLY x_idx ON nowhere (n)")
    assert found(row, "undefined_table").level == WARNING


def test_a_search_path_of_the_migration_says_which_table_is_meant(migration) -> None:
    query("CREATE SCHEMA IF NOT EXISTS shelf")
    try:
        query("CREATE TABLE shelf.only_here (n int)")
        build = "CREATE INDEX CONCURRENTLY x_idx ON only_here (n)"
        assert codes(migration(f"SET search_path = shelf; {build}", name="a.migrations.0001")) == set()
        options = {"settings": {"search_path": "shelf"}}
        assert codes(migration(build, name="a.migrations.0002", **options)) == set()
        assert codes(migration(build, name="a.migrations.0003")) == {"undefined_table"}
    finally:
        query("DROP SCHEMA shelf CASCADE")


def test_what_is_done_already_is_not_looked_at(migration) -> None:
    row = carried_out(migration("CREATE TABLE gone (n int); DROP TABLE gone; SELECT 1/0"))
    assert row.status == Status.ERROR
    assert {each.detail.get("statement") for each in preflight.look(row)} == {3, None}


def test_how_long_a_build_takes_is_unknown_before_the_first(migration) -> None:
    duration = found(migration(BUILD), "duration")
    assert (duration.detail["seconds"], duration.detail["basis"]) == (None, None)


def test_how_long_a_build_takes_by_what_earlier_ones_took(migration) -> None:
    earlier = carried_out(migration("CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"))
    assert earlier.status == Status.FINISHED
    took = earlier.events.get(kind="statement_done").detail
    found_done = carried_out(
        migration("CREATE INDEX CONCURRENTLY book_title_idx ON book (title)", name="books.migrations.0003_x")
    )
    assert found_done.events.filter(kind="found_done").exists()

    duration = found(migration(BUILD, name="books.migrations.0004_x"), "duration")

    assert duration.detail["basis"]["migrations"] == 1
    assert duration.detail["basis"]["bytes_per_second"] == round(took["table_bytes"] / took["seconds"], 1)
    assert duration.detail["seconds"] == round(took["seconds"], 1)


# --- locks and who holds them ---


@pytest.mark.parametrize(
    ("sql", "kind", "level"),
    [
        (BUILD, "maintenance", INFO),
        ("UPDATE book SET n = 1", "rows", INFO),
        ("ALTER TABLE book ADD x int", "blocking", WARNING),
        ("CREATE INDEX book_n_idx ON book (n)", "blocking", WARNING),
    ],
)
def test_which_lock_a_statement_takes(migration, sql, kind, level) -> None:
    lock = found(migration(sql), "lock")
    assert (lock.detail["class"], lock.level) == (kind, level)


def test_a_build_on_the_table(migration) -> None:
    with held("BEGIN", "LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE"):
        busy = found(migration(BUILD), "table_busy")
    assert (busy.level, busy.detail["sessions"][0]["mode"]) == (WARNING, "ShareUpdateExclusiveLock")
    with held("BEGIN", "UPDATE book SET n = 1"):
        assert codes(migration(BUILD)) == set()


def test_nothing_is_asked_for_that_takes_more_than_access_share(migration) -> None:
    query("CREATE INDEX book_title_idx ON book (title)")
    row = migration(f"CREATE INDEX CONCURRENTLY book_title_idx ON book (title); {UNIQUE}")
    with held("BEGIN", "LOCK TABLE book IN EXCLUSIVE MODE"):  # All but ACCESS SHARE has to wait for this.
        assert codes(row) == {"table_busy", "index_done", "duplicate_key"}
        assert "not_checked" not in codes(backfill())


def test_a_table_that_is_locked_makes_nobody_wait_and_is_told(migration) -> None:
    with held("BEGIN", "LOCK TABLE book"):
        started = time.monotonic()
        seen = codes(migration(BUILD))
        assert time.monotonic() - started < 9
    assert seen == {"table_busy", "not_checked"}


def test_the_sessions_of_the_migration_itself_are_not_in_its_way(migration) -> None:
    row = migration(BUILD)
    own = f"SET application_name = 'async-migrations/{row.pk}/1'"
    with held(own, "BEGIN", "LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE"):
        assert codes(row) == set()


def test_an_old_transaction(migration, settings) -> None:
    row = migration(BUILD)
    with held(*OLD_SNAPSHOT):
        assert codes(row) == set()
        settings.ASYNC_MIGRATIONS_PREFLIGHT_OLD_TRANSACTION_SECONDS = 0
        old = found(row, "old_transaction")
    assert (old.level, old.detail["sessions"][0]["query"]) == (WARNING, OLD_SNAPSHOT[1])
    assert is_like(json.loads(block("finding", PREFLIGHT)), asdict(old))


def test_an_old_transaction_without_a_snapshot_matters_where_it_holds_the_table(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_OLD_TRANSACTION_SECONDS = 0
    alter = migration("ALTER TABLE book ADD x int")
    with held("BEGIN", "SELECT 1 FROM book LIMIT 1"):
        assert "old_transaction" in codes(alter)
    with held("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"):
        assert "old_transaction" not in codes(alter)


def test_a_change_of_rows_waits_for_no_old_transaction(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_OLD_TRANSACTION_SECONDS = 0
    with held(*OLD_SNAPSHOT):
        assert codes(migration("UPDATE book SET n = 1")) == set()


def test_a_prepared_transaction(migration) -> None:
    if query("SHOW max_prepared_transactions") == [("0",)]:
        pytest.skip("this server has max_prepared_transactions = 0")
    row = migration(BUILD)
    assert "prepared_transaction" not in codes(row)
    with held("BEGIN", "UPDATE book SET n = 1 WHERE id = 1", "PREPARE TRANSACTION 'forgotten'"):
        pass
    try:
        prepared = found(row, "prepared_transaction")
        assert (prepared.level, prepared.detail["transactions"][0]["gid"]) == (WARNING, "forgotten")
    finally:
        query("ROLLBACK PREPARED 'forgotten'")
    assert "prepared_transaction" not in codes(row)


# --- indexes ---


def test_an_index_that_is_there_as_asked_for(migration) -> None:
    row = migration(BUILD)
    query("CREATE INDEX book_n_idx ON book (n)")
    assert found(row, "index_done").level == INFO


def test_an_index_that_is_invalid(migration) -> None:
    invalid_index()
    invalid = found(migration(BUILD), "index_invalid")
    assert (invalid.level, invalid.detail["index"]) == (WARNING, "book_n_idx")
    assert index_is_valid("book_n_idx") is False


def test_an_index_with_another_definition(migration) -> None:
    query("CREATE INDEX book_n_idx ON book (title)")
    differs = found(migration(BUILD), "index_differs")
    assert differs.level == ERROR
    assert "(title)" in differs.detail["difference"]


def test_an_index_that_is_dropped_first_is_a_warning(migration) -> None:
    query("CREATE INDEX book_n_idx ON book (title)")
    row = migration(f"DROP INDEX CONCURRENTLY book_n_idx; {BUILD}")
    assert found(row, "index_differs").level == WARNING


def test_a_plain_build_fails_of_any_index_of_its_name(migration) -> None:
    query("CREATE INDEX book_n_idx ON book (n)")
    assert found(migration("CREATE INDEX book_n_idx ON book (n)"), "already_exists").level == ERROR
    tolerant = migration("CREATE INDEX IF NOT EXISTS book_n_idx ON book (n)", name="books.migrations.0003_x")
    assert found(tolerant, "index_done").level == INFO


@pytest.mark.parametrize("sql", ["DROP INDEX CONCURRENTLY book_n_idx", "REINDEX INDEX CONCURRENTLY book_n_idx"])
def test_an_index_that_is_missing(migration, sql) -> None:
    row = migration(sql)
    assert found(row, "index_missing").level == ERROR
    query("CREATE INDEX book_n_idx ON book (n)")
    assert codes(row) == set()


def test_an_index_that_need_not_be_there(migration) -> None:
    assert found(migration("DROP INDEX CONCURRENTLY IF EXISTS book_n_idx"), "index_done").level == INFO


def test_duplicate_keys_of_a_unique_index(migration) -> None:
    row = migration(UNIQUE)
    duplicate = found(row, "duplicate_key")
    assert (duplicate.level, duplicate.detail["samples"]) == (ERROR, [{"key": {"n": "0"}, "count": 500}])
    query("UPDATE book SET n = id")
    assert codes(row) == set()


def test_duplicate_keys_that_are_removed_first_are_a_warning(migration) -> None:
    assert found(migration(f"DELETE FROM book WHERE id > 1; {UNIQUE}"), "duplicate_key").level == WARNING


def test_what_takes_too_long_is_left_out_and_says_so(migration, monkeypatch) -> None:
    monkeypatch.setattr(preflight, "_SECONDS", 0.0)
    query("INSERT INTO book (title) SELECT 'title ' || g FROM generate_series(1, 50000) AS g")
    unseen = {
        each.detail["check"]: each.detail["error"]
        for each in preflight.look(migration(UNIQUE))
        if each.code == "not_checked"
    }
    assert unseen["duplicate_keys"] == "statement_cancelled"


# --- privileges, settings, the way to the target ---


def test_who_does_not_own_the_table(migration, settings) -> None:
    row = migration(BUILD)
    with role():
        settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "looker"
        refused = found(row, "not_allowed")
        assert refused.level == ERROR
        assert refused.detail == {
            "statement": 1, "table": "book", "role": "looker", "missing": ["OWNER", "CREATE"]
        }  # fmt: skip
    settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = None
    assert codes(row) == set()


@pytest.mark.parametrize(("sql", "need"), [("UPDATE book SET n = 1", "UPDATE"), ("DELETE FROM book", "DELETE")])
def test_who_may_not_change_the_rows(migration, settings, sql, need) -> None:
    row = migration(sql)
    with role():
        settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "looker"
        assert found(row, "not_allowed").detail["missing"] == [need]
    with role(f"{need} ON book"):
        assert codes(row) == set()


def test_a_role_that_does_not_exist_is_no_obstacle(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "nobody-of-this-name"
    row = migration("UPDATE book SET n = 1")
    assert codes(row) == {"not_checked"}
    preflight.require(row)


def test_who_looks_with_few_privileges_says_what_was_not_seen(migration, monkeypatch) -> None:
    with role():
        monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "assume_role", "looker")
        unseen = [each for each in preflight.look(migration(BUILD)) if each.code == "not_checked"]
    assert {each.detail["check"] for each in unseen} >= {"old_transactions", "replicas"}


@pytest.fixture
def looker(monkeypatch) -> Iterator[None]:
    """Look with a role that may look, and is no worker's; nobody has said which role the workers have."""
    monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "assume_role", "looker")
    with role(f"SELECT ON {AsyncMigrationCheckpoint._meta.db_table}"):
        yield


def warned(row: AsyncMigrationStatus) -> Finding:
    """Return the warning about what the role may not look at; nothing refuses."""
    seen = preflight.look(row)
    assert ERROR not in {each.level for each in seen}
    preflight.require(row)
    return next(each for each in seen if each.level == WARNING and each.code == "not_checked")


@pytest.mark.usefixtures("looker")
@pytest.mark.parametrize("sql", [BUILD, "UPDATE book SET n = 1", "DELETE FROM book", "ALTER TABLE book ADD x int"])
def test_a_role_that_is_no_workers_says_nothing_of_theirs(migration, settings, sql) -> None:
    row = migration(sql)
    unseen = warned(row)
    assert "because looker, the role of this process, lacks" in unseen.message
    assert "ASYNC_MIGRATIONS_PREFLIGHT_ROLE" in str(unseen.hint)
    assert asking.ask("run", row.pk, Origin("test")).changed
    settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "looker"
    assert found(row, "not_allowed").level == ERROR


@pytest.mark.usefixtures("looker")
def test_a_role_that_is_no_workers_says_nothing_of_a_backfill(settings) -> None:
    row = backfill()
    assert "SELECT on book and UPDATE on book" in warned(row).message
    query(f"GRANT UPDATE ON {AsyncMigrationCheckpoint._meta.db_table} TO looker")
    assert found(row, "not_allowed").level == ERROR, "it may be the workers' now"


@pytest.mark.usefixtures("looker")
def test_what_the_role_cannot_see_is_not_said_to_be_missing(migration) -> None:
    query("CREATE SCHEMA shelf")
    try:
        query("CREATE TABLE shelf.only_here (id int PRIMARY KEY, n int)")
        query("CREATE INDEX only_here_idx ON shelf.only_here (n)")
        statements = ["ALTER TABLE {}only_here ADD x int", "DROP INDEX {}only_here_idx"]
        hidden = [migration(sql.format(where), name=f"{sql}{where}") for sql in statements for where in ("", "shelf.")]
        for row in (*hidden, backfill(table="only_here")):
            assert "shelf" in warned(row).message
            assert "looker" in str(warned(row).hint)
        query("GRANT USAGE ON SCHEMA shelf TO looker")
        for row in hidden[::2]:
            assert "not in the search path of looker" in warned(row).message
        assert found(migration("ALTER TABLE nowhere ADD x int", name="c"), "undefined_table").level == ERROR
    finally:
        query("DROP SCHEMA shelf CASCADE")


def test_timeouts_of_the_role_are_overridden(migration) -> None:
    row = migration(BUILD)
    query("ALTER ROLE CURRENT_USER SET statement_timeout = '7s'")
    ((role,),) = query("SELECT current_user")
    try:
        overridden = found(row, "settings_overridden")
        timeout = {"name": "statement_timeout", "value": "7s", "roles": [role]}
        assert (overridden.level, overridden.detail) == (INFO, {"settings": [timeout]})
    finally:
        query("ALTER ROLE CURRENT_USER RESET statement_timeout")
    assert "settings_overridden" not in codes(row)


@pytest.fixture
def staff(book: None) -> Iterator[None]:
    """Roles: one that owns the table and cannot log in, a worker that is a member of it and can, and a stranger."""
    query("CREATE ROLE book_keeper; CREATE ROLE book_worker LOGIN IN ROLE book_keeper; CREATE ROLE book_stranger LOGIN")
    query("ALTER TABLE book OWNER TO book_keeper")
    try:
        yield
    finally:
        query("ALTER TABLE book OWNER TO CURRENT_USER")
        query("DROP ROLE book_worker, book_stranger, book_keeper")


@pytest.mark.usefixtures("staff")
def test_settings_of_whoever_may_do_the_work_are_told(migration, settings) -> None:
    row = migration(BUILD)
    for role, memory in (("book_worker", "1GB"), ("book_stranger", "2GB"), ("book_keeper", "3GB")):
        query(f"ALTER ROLE {role} SET maintenance_work_mem = '{memory}'")

    def told() -> dict[str, Any]:
        (setting,) = found(row, "settings_in_force").detail["settings"]
        return dict(setting)

    assert told() == {"name": "maintenance_work_mem", "value": "1GB", "roles": ["book_worker"]}
    ((database,),) = query("SELECT current_database()")
    query(f"ALTER ROLE book_worker IN DATABASE \"{database}\" SET maintenance_work_mem = '4GB'")
    assert told()["value"] == "4GB"
    settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "book_stranger"
    assert told() == {"name": "maintenance_work_mem", "value": "2GB", "roles": ["book_stranger"]}


@pytest.mark.usefixtures("staff")
def test_a_role_that_may_only_read_is_a_warning(migration) -> None:
    row = migration(BUILD)
    query("ALTER ROLE book_stranger SET default_transaction_read_only = on")
    query("ALTER ROLE book_worker SET default_transaction_read_only = off")
    assert "read_only" not in codes(row)
    query("ALTER ROLE book_worker SET default_transaction_read_only = on")
    warned = found(row, "read_only")
    assert (warned.level, warned.detail["settings"][0]["roles"]) == (WARNING, ["book_worker"])


def test_a_pooler_in_between(migration, multiplexer) -> None:  # noqa: F811
    row = migration(BUILD)
    assert [(each.code, each.level) for each in preflight.look(row)] == [("transaction_pooler", WARNING)]
    preflight.require(row)


def test_a_target_that_does_not_answer_is_a_warning_and_can_be_asked_to_run(migration, monkeypatch) -> None:
    row = migration(BUILD)
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["default"].settings_dict, "PORT", "1")
    assert [(each.code, each.level) for each in preflight.look(row)] == [("target_unavailable", WARNING)]
    preflight.require(row)


def test_a_target_that_this_process_does_not_know() -> None:
    row = AsyncMigrationStatus(name="x", database="nowhere", sql_forwards=BUILD, status=Status.SCHEDULED)
    assert [each.code for each in preflight.look(row)] == ["unknown_database"]


def test_sql_that_cannot_be_read() -> None:
    row = AsyncMigrationStatus(name="x", database="default", sql_forwards="SELECT 'x", status=Status.SCHEDULED)
    assert [(each.code, each.level) for each in preflight.look(row)] == [("invalid_definition", ERROR)]


def test_a_backfill_without_options() -> None:
    row = AsyncMigrationStatus(name="x", database="default", kind=Kind.BACKFILL, status=Status.SCHEDULED)
    assert [each.code for each in preflight.look(row)] == ["invalid_definition"]


# --- the migration file ---


def test_a_file_that_is_not_applied(project) -> None:
    name = project.sql("0001_index", BUILD)
    row = lifecycle.take_over(Request("schedule", name, "default", BUILD, "SELECT 1"))
    missing = found(row, "migration_not_applied")
    assert (missing.level, missing.detail) == (WARNING, {"app": "bookshop", "name": "0001_index"})
    query("INSERT INTO django_migrations (app, name, applied) VALUES ('bookshop', '0001_index', now())")
    assert codes(row) == set()
    second = lifecycle.take_over(Request("schedule", f"{name}.second", "default", BUILD, "SELECT 1"))
    assert "migration_not_applied" not in codes(second)


# --- the linter ---


@pytest.fixture
def squawk() -> None:
    """The linter, where it is installed."""
    if shutil.which("squawk") is None and not (Path(sys.executable).parent / "squawk").exists():
        pytest.skip("squawk is not installed (extra `lint`)")


def rules(row: AsyncMigrationStatus) -> set[str]:
    """Return the rules that the SQL breaks."""
    return {each.detail["rule"] for each in preflight.look(row) if each.code == "lint"}


@pytest.mark.usefixtures("squawk")
def test_the_linter_warns(migration, settings) -> None:
    row = migration("SELECT 1;\nALTER TABLE book ADD COLUMN x int NOT NULL")
    assert rules(row) == {"adding-required-field", "prefer-bigint-over-int"}
    assert {each.detail["line"] for each in preflight.look(row) if each.code == "lint"} == {2}
    settings.ASYNC_MIGRATIONS_SQUAWK_EXCLUDE = (*conf.squawk_exclude, "prefer-bigint-over-int")
    assert rules(row) == {"adding-required-field"}
    settings.ASYNC_MIGRATIONS_SQUAWK_EXCLUDE = ()
    assert "require-lock-timeout" in rules(row)


@pytest.mark.usefixtures("squawk")
def test_the_linter_has_nothing_to_say(migration) -> None:
    assert rules(migration(BUILD)) == rules(backfill()) == set()
    assert "not_linted" not in {each.code for each in preflight.look(migration(BUILD))}


@pytest.mark.usefixtures("squawk")
def test_a_rule_that_does_not_exist_is_told(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_SQUAWK_EXCLUDE = ("no-such-rule",)
    assert "no-such-rule" in found(migration(BUILD), "not_linted").detail["reason"]


def test_without_the_linter_it_says_so(migration, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert found(migration(BUILD), "not_linted").level == INFO


# --- backfills ---


def test_a_backfill_with_its_rows() -> None:
    query("ANALYZE book")
    row = backfill()
    assert codes(row) == {"rows"}
    rows = found(row, "rows")
    assert (rows.level, rows.detail["rows"]) == (INFO, 500)
    assert found(row, "duration").detail["seconds"] is None


def test_how_long_a_backfill_takes_by_what_earlier_ones_took() -> None:
    assert carried_out(backfill()).status == Status.FINISHED
    text = update_text("book", "n = 2", "n = 1")
    request = Request("schedule", "b", "default", text, "", {"table": "book", "where": "n = 1"}, Kind.BACKFILL)
    basis = found(lifecycle.take_over(request), "duration").detail["basis"]
    assert basis["migrations"] == 1
    assert basis["rows_per_second"] > 0


def test_a_backfill_without_a_table_a_key_or_a_condition_that_can_be_read() -> None:
    assert found(backfill(table="nowhere"), "undefined_table").level == ERROR
    query("CREATE TABLE keyless (n int)")
    try:
        assert found(backfill(table="keyless"), "no_key").level == ERROR
    finally:
        query("DROP TABLE keyless")
    assert found(backfill("colour = 0"), "invalid_statement").level == ERROR


def test_a_backfill_of_a_table_that_it_may_not_change(settings) -> None:
    row = backfill()
    settings.ASYNC_MIGRATIONS_PREFLIGHT_ROLE = "looker"
    with role("SELECT ON book"):
        assert found(row, "not_allowed").detail["missing"] == ["UPDATE"]
    with role("SELECT, UPDATE ON book"):
        assert codes(row) == {"rows"}


# --- standbys ---


@pytest.fixture
def replica() -> Iterator[Standby]:
    """A standby of the test's server that replays each commit a second late."""
    if urlsplit(os.environ["DATABASE_URL"]).hostname:
        pytest.skip("only the embedded server can be copied: unset DATABASE_URL")
    with standby(os.environ["DATABASE_URL"]) as made:
        eventually(lambda: query("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), what="it streams")
        asked(made.url, "ALTER SYSTEM SET recovery_min_apply_delay = '1s'")
        asked(made.url, "SELECT pg_reload_conf()")
        yield made


def test_a_standby_that_is_behind(migration, replica, settings) -> None:
    row = migration(BUILD)
    settings.ASYNC_MIGRATIONS_THROTTLE_REPLICA_LAG_SECONDS = 0.2

    def lag() -> list[Finding]:
        query("UPDATE book SET n = n + 1 WHERE id = 1")
        return [each for each in preflight.look(row) if each.code == "replica_lag"]

    (behind,) = eventually(lag, what="the standby says that it is behind")
    assert (behind.level, behind.detail["limit"]) == (WARNING, 0.2)
    settings.ASYNC_MIGRATIONS_THROTTLE_REPLICA_LAG_SECONDS = None
    assert "replica_lag" not in codes(row)


# --- what it does itself ---


def test_it_holds_nothing_and_leaves_nothing(migration) -> None:
    row = migration(UNIQUE)
    before = query("SELECT count(*) FROM pg_class"), AsyncMigrationCheckpoint.objects.count(), row.events.count()
    preflight.look(row)
    sessions = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%preflight'"
    eventually(lambda: not query(sessions), what="the session is gone")
    after = query("SELECT count(*) FROM pg_class"), AsyncMigrationCheckpoint.objects.count(), row.events.count()
    assert after == before


def test_a_run_is_refused_where_it_would_fail(migration) -> None:
    row = migration("UPDATE nowhere SET n = 1")
    with pytest.raises(PreflightFailed, match="nowhere") as refusal:
        asking.ask("run", row.pk, Origin("test"))
    assert [each["code"] for each in refusal.value.findings] == ["undefined_table"]
    assert lifecycle.get(row.pk).status == Status.SCHEDULED
    assert asking.ask("run", row.pk, Origin("test"), force=True).migration.status == Status.STARTED
    assert not asking.ask("run", row.pk, Origin("test")).changed


def test_a_run_forwards_is_looked_at_forwards(migration) -> None:
    row = carried_out(migration("SELECT 1", "UPDATE nowhere SET n = 1"))
    lifecycle.rollback(row.pk, Origin("test"))
    lifecycle.cancel(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert found(lifecycle.get(row.pk), "undefined_table").level == ERROR
    assert asking.ask("run", row.pk, Origin("test")).changed


def test_a_run_is_not_refused_for_what_could_not_be_seen_in_time(migration, monkeypatch) -> None:
    monkeypatch.setattr(preflight, "_QUICK_SECONDS", 0.5)
    query(
        "CREATE FUNCTION slowly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.1); RETURN $1; END'"
    )
    try:
        row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (slowly(n))")
        assert asking.ask("run", row.pk, Origin("test")).changed
    finally:
        query("DROP FUNCTION slowly")


def test_a_run_is_not_refused_while_the_table_is_locked(migration) -> None:
    row = migration(UNIQUE)
    with held("BEGIN", "LOCK TABLE book"):
        preflight.require(row)
    with pytest.raises(PreflightFailed):
        preflight.require(row)


def hangs(alias: str) -> int:
    """Say nothing for a minute."""
    time.sleep(60)
    return 1


def test_a_run_is_not_refused_for_a_monitoring_that_hangs(migration, settings, monkeypatch) -> None:
    query("ANALYZE book")
    monkeypatch.setattr(preflight, "_QUICK_SECONDS", 0.5)
    settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.hangs"
    preflight.require(migration(BUILD))


@pytest.mark.parametrize(
    ("sql", "further"),
    [
        ("SELECT 1", []),
        ("UPDATE book SET n = 1", ["preflight_subject"]),
        ("ALTER TABLE book ADD x int", ["preflight_subject"]),
        ("SET search_path = public; SELECT 1", ["SET search_path = public", "limits"]),
        ("SELECT 1; SET search_path = public", ["SET search_path = public"]),
    ],
)
def test_a_run_asks_nothing_that_does_not_concern_it(migration, monkeypatch, sql, further) -> None:
    monkeypatch.setattr(preflight, "_QUICK_SECONDS", 60)
    row, asked = migration(sql), []
    for name in ("all", "execute", "select", "set", "change"):
        method = getattr(Session, name)

        def spied(session: Session, what: str, *args: Any, method: Any = method, **kwargs: Any) -> Any:
            asked.append(what)
            return method(session, what, *args, **kwargs)

        monkeypatch.setattr(Session, name, spied)
    preflight.require(row)
    assert asked == ["backend", "limits", "preflight_role", "limits", *further]


# --- its session ---


@pytest.fixture
def lasting(nobody_rests: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have Django, and so the preflight, keep connections to the target."""
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", 60)
    yield
    preflight._sessions.close_old(0)
    eventually(lambda: not query(IDLE))


@pytest.mark.usefixtures("lasting")
def test_the_session_is_kept_without_what_a_migration_has_set_in_it(migration) -> None:
    assert codes(migration(f"SET search_path = nowhere; {BUILD}")) == {"undefined_table"}
    kept = query(IDLE)
    assert codes(migration(BUILD)) == set()
    assert query(IDLE) == kept != []


@pytest.mark.usefixtures("lasting")
def test_a_kept_session_whose_server_process_is_gone_is_replaced(migration) -> None:
    row = migration(BUILD)
    assert codes(row) == set()
    query(f"SELECT pg_terminate_backend(pid) FROM ({IDLE}) AS idle")
    eventually(lambda: not query(IDLE))
    assert codes(row) == set()


@pytest.mark.usefixtures("nobody_rests")
def test_no_session_is_kept_where_django_keeps_none(migration) -> None:
    assert codes(migration(BUILD)) == set()
    assert query(IDLE) == []
