"""What the tests of the operators' page share: one worker for the tests of a module, and people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import Permission, User

from api.processes import worker_command
from async_migrations.lifecycle import Origin
from tests.conftest import Process, environment, eventually
from tests.db.conftest import Project, book, project, row_of  # noqa: F401 - fixtures
from tests.driving import QUICK
from tests.http.conftest import migration  # noqa: F401 - a fixture

PASSWORD = "correct horse"
SOMEBODY = Origin("somebody")


@pytest.fixture(scope="module")
def worker(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One worker for all tests of a module."""
    process = Process(worker_command(), environment(**QUICK), tmp_path_factory.mktemp("worker") / "log")
    try:
        eventually(lambda: "ready for action" in process.output or not process.is_alive(), what="the worker is ready")
        assert process.is_alive(), process.output
        yield process
    finally:
        process.stop()


@pytest.fixture
def person(control: None) -> Callable[..., User]:
    """Make somebody who may look and do as much: `person("alice", "run", "cancel")`; with no verb, everything."""

    def make(name: str, *verbs: str) -> User:
        # The server knows none of the quick ways to keep a password that tests use.
        password = PBKDF2PasswordHasher().encode(PASSWORD, "salt", 1000)
        made = User.objects.create(username=name, password=password, is_superuser=not verbs)
        wanted = [f"{verb}_asyncmigrationstatus" for verb in verbs]
        made.user_permissions.set(Permission.objects.filter(codename__in=wanted))
        return made

    return make


@pytest.fixture
def deployed(project: Project, settings: Any) -> Callable[[str, str], int]:  # noqa: F811
    """Write a migration file with what hands work over, and apply it as a deploy does: `deployed("0001_x", made)`.

    made: a call of `make_sql_migration` or `make_backfill_migration`. Returns the id of what is recorded.
    """
    settings.ALLOW_SCHEDULED_MIGRATIONS = True

    def deploy(file: str, made: str) -> int:
        name = project.file(file, f"migrations.RunPython(*{made})")
        project.migrate()
        return row_of(name).pk

    return deploy
