"""What the tests of this folder share: SQL, a table to work on, a host project whose migration files a test writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connections

from async_migrations import lifecycle, tasks
from async_migrations.execution.attempt import table_key
from async_migrations.execution.session import Session
from async_migrations.lifecycle import Origin, Request
from async_migrations.models import AsyncMigrationStatus
from tests.conftest import eventually

Backfill = Callable[..., AsyncMigrationStatus]

HEADER = """
from django.db import migrations, models
from async_migrations.migration_helpers import make_backfill_migration, make_sql_migration, require_finished

class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    atomic = {atomic}
    operations = [{operations}]
"""


def query(sql: str, using: str = "default") -> list[tuple[Any, ...]]:
    """Run one statement on a test database, committed at once; return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def index_is_valid(name: str, using: str = "default") -> bool | None:
    """Return whether an index is valid, None when there is none."""
    found = query(f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')", using)
    return found[0][0] if found else None


def kinds(row: AsyncMigrationStatus) -> list[str]:
    """Return the kinds of a migration's events, oldest first."""
    return list(row.events.values_list("kind", flat=True))


def carried_out(row: AsyncMigrationStatus, *, backwards: bool = False) -> AsyncMigrationStatus:
    """Ask for a migration and carry it out in this process; return the row as it is then."""
    ask = lifecycle.rollback if backwards else lifecycle.run
    ask(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    return lifecycle.get(row.pk)


@contextmanager
def at_work_on(table: str) -> Iterator[None]:
    """Have another migration at work on a table, as far as ours can tell."""
    with Session("default", "async-migrations/0/1") as other:
        ((oid,),) = query(f"SELECT '{table}'::regclass::oid::bigint")
        assert other.one("try_advisory_lock", key=table_key(oid))["locked"]
        yield


@pytest.fixture
def book(control: None) -> Iterator[None]:
    """A table of 500 books in both databases."""
    for using in ("default", "second"):
        query("DROP TABLE IF EXISTS book CASCADE", using)
        query(
            "CREATE TABLE book "
            "(id bigserial PRIMARY KEY, title text, n int NOT NULL DEFAULT 0, body jsonb DEFAULT '{}')",
            using,
        )
        query("INSERT INTO book (title) SELECT 'title ' || g FROM generate_series(1, 500) AS g", using)
    yield
    for using in ("default", "second"):
        query("DROP TABLE IF EXISTS book CASCADE", using)


@pytest.fixture
def migration(control: None) -> Callable[..., AsyncMigrationStatus]:
    """Schedule: `migration(forwards, backwards, name=..., **options)` -> the row."""

    def make(forwards: str, backwards: str = "SELECT 1", *, name: str = "books.migrations.0002_x", **options: Any):
        return lifecycle.take_over(Request("schedule", name, "default", forwards, backwards, options))

    return make


class Project:
    """A host project: `file` writes a migration file of the app `bookshop`, `migrate` applies them."""

    def __init__(self, folder: Path) -> None:
        self.package = f"bookshop_{uuid4().hex}"
        self.folder = folder / self.package
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()

    def file(self, name: str, operations: str, *, atomic: bool = True) -> str:
        """Write a migration file behind those that are there; return the name of its async migration."""
        before = sorted(path.stem for path in self.folder.glob("0*.py") if path.stem < name)
        dependencies = [("bookshop", before[-1])] if before else [("async_migrations", "0001_initial")]
        text = HEADER.format(dependencies=dependencies, atomic=atomic, operations=operations)
        (self.folder / f"{name}.py").write_text(text)
        sys.modules.pop(f"{self.package}.{name}", None)
        return f"{self.package}.{name}"

    def sql(self, name: str, forwards: str, backwards: str = "SELECT 1", **options: Any) -> str:
        """Write a migration file with one SQL migration; return its name."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        made = f"make_sql_migration({forwards!r}, {backwards!r}, migration_name=__name__, {arguments})"
        return self.file(name, f"migrations.RunPython(*{made})")

    def migrate(self, to: str | None = None, *, database: str = "default") -> None:
        """Run `migrate` on the app, up or down to a file."""
        call_command("migrate", "bookshop", *([to] if to else []), database=database, verbosity=0)


@pytest.fixture
def project(book: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Project]:
    """A host project without a migration file, on a table of books."""
    made = Project(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    settings.MIGRATION_MODULES = {"bookshop": made.package}
    yield made
    for using in ("default", "second"):
        query("DELETE FROM django_migrations WHERE app = 'bookshop'", using)


def row_of(name: str, database: str = "default") -> AsyncMigrationStatus:
    """Return the row of a migration."""
    return lifecycle.rows().get(name=name, database=database)


@pytest.fixture
def backfill(project: Project) -> Backfill:
    """Schedule a backfill by applying a migration file: `backfill(table="book", update=...)` -> the row."""

    def make(name: str = "0001_fill", *, database: str = "default", **options: Any) -> AsyncMigrationStatus:
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        file = project.file(
            name, f"migrations.RunPython(*make_backfill_migration({arguments}, migration_name=__name__))"
        )
        project.migrate(database=database)
        return row_of(file, database)

    return make


IDLE = "SELECT pid FROM pg_stat_activity WHERE application_name = 'async-migrations idle'"


@pytest.fixture
def nobody_rests(transactional_db: None) -> None:
    """End the sessions that a live API of other tests keeps: it opens new ones when it is asked again."""
    query(f"SELECT pg_terminate_backend(pid) FROM ({IDLE}) AS idle")
    eventually(lambda: not query(IDLE))
