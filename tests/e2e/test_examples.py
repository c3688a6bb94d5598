"""The host project in examples/ does what a user's would: its files only record, run and go back as `migrate` says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from examples.demo.service import EXAMPLES, Place, place

pytestmark = pytest.mark.e2e

ASYNC = (
    "tasks.migrations.0003_task_proj_octlen_idx_async",
    "tasks.migrations.0004_task_total_async",
    "tasks.migrations.0005_task_number_uniq_async",
    "tasks.migrations.0006_task_checksum_async",
)
INDEXES = "SELECT count(*) FROM pg_class WHERE relname IN ('task_proj_octlen_idx', 'task_project_number_uniq')"


@pytest.fixture
def where() -> Iterator[Place]:
    """Return a database of its own on the tests' server, with the service's tables."""
    with place("examples_test") as made:
        made.migrate_service()
        yield made


def rows(where: Place, sql: str) -> list[tuple]:
    with closing(where.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def statuses(where: Place) -> dict[str, str]:
    return dict(rows(where, "SELECT name, status FROM async_migrations_asyncmigrationstatus"))


@pytest.mark.parametrize("project", ["tracker.settings", "tracker.showroom"])
def test_no_migration_file_is_missing(project):
    env = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "BROKER_URL")}
    command = [
        sys.executable,
        str(EXAMPLES / "manage.py"),
        "makemigrations",
        "--check",
        "--dry-run",
        "--settings",
        project,
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_migrate_with_scheduling_records_a_row_for_each_and_runs_nothing(where):
    where.migrate_host()
    assert statuses(where) == dict.fromkeys(ASYNC, "SCHEDULED")
    assert rows(where, INDEXES) == [(0,)]


def test_going_backwards_over_what_never_ran_leaves_rolled_back(where):
    where.migrate_host()
    where.migrate_host("tasks", "0002_task_total")
    assert statuses(where) == dict.fromkeys(ASYNC, "ROLLED BACK")


def test_migrate_without_scheduling_and_without_a_broker_runs_everything_and_goes_back_again(where):
    where.env["ALLOW_SCHEDULED_MIGRATIONS"] = "false"
    where.migrate_host()
    assert statuses(where) == dict.fromkeys(ASYNC, "FINISHED")
    assert rows(where, INDEXES) == [(2,)]
    where.migrate_host("tasks", "0002_task_total")
    assert statuses(where) == dict.fromkeys(ASYNC, "ROLLED BACK")
    assert rows(where, INDEXES) == [(0,)]
