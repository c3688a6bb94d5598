"""SQL that is made once says, filled in, what Django says each time; and who a user may be."""

from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from django.db import connection
from django.db.backends.postgresql.psycopg_any import mogrify
from django.db.models import F, Q
from django.db.models.functions import Now
from django.db.models.sql import UpdateQuery
from django.utils.encoding import force_str

from async_migrations import lifecycle
from async_migrations.lifecycle import compiled
from async_migrations.models import AsyncMigrationStatus

pytestmark = pytest.mark.usefixtures("control")

TOKEN = uuid.UUID(int=7)
AT = datetime(2026, 11, 22, 22, 1, tzinfo=UTC)
NOW = Now()


def rendered(sql: str, parameters: Any) -> str:
    connection.ensure_connection()
    return force_str(mogrify(sql, parameters, connection))


def by_django(changes: dict[str, Any], known: dict[str, Any], *conditions: Q) -> str:
    query = cast("UpdateQuery", lifecycle.rows().filter(*conditions, **known).query.chain(UpdateQuery))
    query.add_update_values(changes)
    return rendered(*query.get_compiler("default").as_sql())


SHAPES: list[tuple[dict[str, Any], dict[str, Any], tuple[Q, ...]]] = [
    ({"status": "FINISHED", "updated_at": NOW}, {"id": 3, "status": "IN PROGRESS", "lease_token": TOKEN}, ()),
    ({"meta": {"error": {"code": 'it is "%s"'}}, "throttled": None, "waiting_on": []}, {"id": 3, "attempt": 0}, ()),
    ({"lease_token": None, "run_at": AT, "slot": 2}, {"id": 4, "lease_token": None, "run_at": AT}, (Q(priority=1),)),
    ({"progress_done": F("progress_total"), "phase": "50 %s"}, {"id": 4, "phase": ""}, (Q(lease_expires_at__lt=NOW),)),
    ({"lease_token": TOKEN, "run_at": None, "slot": None}, {"id": 4, "lease_token": TOKEN, "run_at": None}, ()),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_works(shape):
    changes, known, conditions = shape
    for _ in range(2):  # As it is made, and as it is found again.
        wheres = rendered(*compiled.update(changes, known, conditions))
        # Django has what it compares in an order of its own.
        assert sorted(_terms(wheres)) == sorted(_terms(by_django(changes, known, *conditions)))


def _terms(sql: str) -> list[str]:
    update, where = sql.split(" WHERE ")
    return [*update.split(", "), *where.strip("()").replace(")", "").replace("(", "").split(" AND ")]


def test_the_same_shape_takes_other_values():
    for attempt, worker in ((1, "a"), (2, "b")):
        assert f"'{worker}'" in rendered(*compiled.update({"worker": worker}, {"id": attempt, "attempt": attempt}, ()))


def test_a_row_is_read_as_django_reads_it(migration):
    row = migration("SELECT 1")
    assert vars(lifecycle.get(row.pk)) | {"_state": None} == vars(AsyncMigrationStatus.objects.get(pk=row.pk)) | {
        "_state": None
    }
    with pytest.raises(AsyncMigrationStatus.DoesNotExist):
        lifecycle.get(0)


def test_permissions_are_found_for_a_user_model_of_the_project(tmp_path):
    app = tmp_path / "accounts"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(
        "from django.contrib.auth.models import AbstractUser\n\n\nclass Account(AbstractUser): ...\n"
    )
    code = """
import django
from django.conf import settings
settings.configure(
    AUTH_USER_MODEL="accounts.Account", SECRET_KEY="x",
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "accounts"],
)
django.setup()
from async_migrations.rest import granted
assert granted.in_one_query("default")
print(granted._lookup("default")[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"account_id" = ' in done.stdout
