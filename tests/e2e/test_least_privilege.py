"""Three roles of PostgreSQL, each with what `async_migrations grants` prints and no more: all works, and nothing else.

The control plane has a database of its own and the project another one, in which nobody but the worker may do anything.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg2
import pytest
from django.apps import apps
from django.core.management import call_command

from api.processes import manage_command, run_to_end
from async_migrations.management.grants import CONTROL, TARGET
from tests.conftest import environment
from tests.db.conftest import HEADER
from tests.driving import ask, ended
from tests.servers import database_named
from tests.test_docs import ROOT, block

pytestmark = pytest.mark.e2e

API, WORKER, MIGRATE, OWNER = ROLES = ("least_api", "least_worker", "least_migrate", "least_owner")
BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_title_idx"
SETTINGS = """
from api.settings import *
INSTALLED_APPS = [*INSTALLED_APPS, "tests.bookshop"]
MIGRATION_MODULES = {"bookshop": "least_files"}
"""


@dataclass
class Place:
    """Two databases, the three roles, and a host project whose files are for the second one."""

    folder: Path
    urls: dict[str, str] = field(default_factory=dict)

    def env(self, role: str, *, at_target: str | None = None, **extra: str) -> dict[str, str]:
        """Return the environment of a process that connects as this role."""
        target = _as(at_target or role, self.urls["shop"]) + ("&assume_role=" + OWNER if role == MIGRATE else "")
        given = environment(DATABASE_URL=_as(role, self.urls["control"]), DATABASE_URL_SHOP=target, **extra)
        del given["DATABASE_URL_SECOND"]
        return given | {"PYTHONPATH": f"{self.folder}{os.pathsep}{Path.cwd()}"}

    def manage(self, *arguments: str, role: str = MIGRATE, **extra: str) -> str:
        """Run a command of manage.py as a role; return what it printed."""
        extra = {"DJANGO_SETTINGS_MODULE": "least_settings", "ALLOW_SCHEDULED_MIGRATIONS": "yes", **extra}
        done = run_to_end(manage_command(*arguments), self.env(role, **extra))
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def query(self, sql: str, database: str, role: str | None = None) -> list[tuple[Any, ...]]:
        """Run statements as a role, or as the superuser."""
        url = self.urls[database] if role is None else _as(role, self.urls[database])
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


def _as(role: str, url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
def place(control: None, tmp_path: Path) -> Iterator[Place]:
    """Make what an administrator makes once, `docs/security.md` has it, and migrate both databases."""
    admin = os.environ["DATABASE_URL"]
    if urlsplit(admin).hostname:
        pytest.skip("roles are made on an embedded PostgreSQL only: unset DATABASE_URL")
    made = Place(tmp_path, {name: database_named(admin, f"least_{name}") for name in ("control", "shop")} | {"": admin})
    _drop(made)
    for statement in filter(str.strip, said("roles").split(";")):
        made.query(statement, "")
    _write_project(tmp_path)
    made.manage("migrate", "--verbosity=0", DJANGO_SETTINGS_MODULE="api.settings")
    made.manage("migrate", "bookshop", "--database=shop", "--verbosity=0")
    yield made
    _drop(made)


def _drop(place: Place) -> None:
    for name in ("control", "shop"):
        place.query(f"DROP DATABASE IF EXISTS least_{name} WITH (FORCE)", "")
    for role in ROLES:
        place.query(f"DROP ROLE IF EXISTS {role}", "")


def _write_project(folder: Path) -> None:
    files = folder / "least_files"
    files.mkdir()
    (files / "__init__.py").touch()
    (folder / "least_settings.py").write_text(SETTINGS)
    table = 'migrations.RunSQL("CREATE TABLE book AS SELECT g AS id, g::text AS title FROM generate_series(1, 9) AS g")'
    index = f"migrations.RunPython(*make_sql_migration({BUILD!r}, {DROP!r}, migration_name=__name__))"
    before: list[tuple[str, str]] = [("async_migrations", "0001_initial")]
    for name, operations in (("0001_book", table), ("0002_index_async", index)):
        (files / f"{name}.py").write_text(HEADER.format(dependencies=before, atomic=True, operations=operations))
        before = [("bookshop", name)]


def said(info: str) -> str:
    """Return a block of docs/security.md, with names that are only this test's."""
    least = {"api": API, "worker": WORKER, "migrator": MIGRATE, "shop_owner": OWNER}
    text = block(info, ROOT / "docs" / "security.md")
    for name in ("control", "shop"):
        text = re.sub(rf"(DATABASE(?: \w+,)?) {name}\b", rf"\1 least_{name}", text)
    return re.sub(rf"(?<!-)\b({'|'.join(least)})\b", lambda found: least[found[0]], text)


def apply_grants(place: Place) -> None:
    """Apply what the command prints, twice: the second time changes nothing."""
    commands = [shlex.split(line)[2:] for line in said("grants").splitlines()]
    with ThreadPoolExecutor() as pool:
        texts = pool.map(lambda command: place.manage(*command), commands)
    for name, text in zip(("control", "shop"), texts, strict=True):
        place.query(text, name)
        before = _privileges(place, name)
        place.query(text, name)
        assert _privileges(place, name) == before


def _privileges(place: Place, database: str) -> list[tuple[Any, ...]]:
    return place.query("SELECT oid, relacl::text FROM pg_class ORDER BY oid", database) + place.query(
        "SELECT attrelid, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL ORDER BY 1, attnum", database
    )


def test_it_works(place, start_api, start_worker, monkeypatch):
    # Given what an administrator does
    apply_grants(place)
    token = place.manage("create_api_token", "ci", "--role=operator").strip()

    # When API and worker run, each as its own role
    monkeypatch.setattr("tests.conftest.environment", place_environment(place))
    web = start_api(role=API, ASYNC_MIGRATIONS_PREFLIGHT_ROLE=WORKER)
    start_worker(role=WORKER)
    with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {token}"}, timeout=40) as client:
        # Then a migration has its whole life, and neither may do what is not its own
        (row,) = client.get("/api/async-migrations").json()["results"]
        pk = row["id"]
        looked = client.get(f"/api/async-migrations/{pk}/preflight").json()["findings"]
        assert not [found for found in looked if found["level"] == "error"], looked
        for verb in ("pause", "resume"):
            assert client.post(f"/api/async-migrations/{pk}/{verb}").status_code in (202, 409)
        for verb, end in (("run", "FINISHED"), ("rollback", "ROLLED BACK"), ("run", "FINISHED")):
            ask(client, pk, verb)
            assert ended(client, pk)["status"] == end, client.get(f"/api/async-migrations/{pk}").text
        for path in ("", "/summary", "/hold", "/janitor", f"/{pk}/events", f"/{pk}/quarantine", "/gate?app=bookshop"):
            assert client.get(f"/api/async-migrations{path}").status_code == 200, path
        assert client.put("/api/async-migrations/hold", json={"reason": "x"}).status_code == 200
        assert client.delete("/api/async-migrations/hold").status_code == 200
        keyed = client.post(f"/api/async-migrations/{pk}/rollback", headers={"Idempotency-Key": "k"})
        assert keyed.status_code == 202
        assert ended(client, pk)["status"] == "ROLLED BACK"
        assert_refused(place)
        assert_it_need_not_look(place, client, pk)
        assert ended(client, pk)["status"] == "FINISHED"
    assert place.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'book_title_idx'::regclass", "shop")


def assert_it_need_not_look(place: Place, client: httpx.Client, pk: int) -> None:
    """Take away what the API may see of the target, and then the target: the worker finds out, nothing is refused."""
    for lost, finding in (
        ("TABLE async_migrations_asyncmigrationcheckpoint", "not_checked"),
        ("DATABASE least_shop", "target_unavailable"),
    ):
        place.query(f"REVOKE ALL ON {lost} FROM {API}", "shop")
        # A session that the API has kept is let in already.
        place.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{API}'", "shop")
        found = client.get(f"/api/async-migrations/{pk}/preflight").json()["findings"]
        assert finding in {each["code"] for each in found}
        assert "error" not in {each["level"] for each in found}
    ask(client, pk)


def place_environment(place: Place) -> Callable[..., dict[str, str]]:
    return lambda role, **extra: place.env(role, **extra)


def assert_refused(place: Place) -> None:
    status, users = "async_migrations_asyncmigrationstatus", "(username, password) VALUES ('x', 'x')"
    refused = [
        (API, "shop", BUILD.replace("title_idx", "other_idx").replace("CONCURRENTLY", "")),
        (API, "shop", "SELECT title FROM book"),
        (API, "shop", "UPDATE book SET title = ''"),
        (API, "shop", "INSERT INTO async_migrations_asyncmigrationcheckpoint (name) VALUES ('x')"),
        (API, "shop", f"SET ROLE {OWNER}"),
        (API, "control", f"UPDATE {status} SET sql_forwards = 'DROP TABLE book'"),
        (API, "control", f"UPDATE {status} SET options = '{{}}'"),
        (API, "control", f"UPDATE {status} SET database = 'default'"),
        (API, "control", f"DELETE FROM {status}"),
        (API, "control", f"INSERT INTO {status} (name) VALUES ('x')"),
        (API, "control", "UPDATE async_migrations_asyncmigrationevent SET by = 'nobody'"),
        (API, "control", "DELETE FROM async_migrations_asyncmigrationevent"),
        (API, "control", "INSERT INTO knox_authtoken (digest) VALUES ('x')"),
        (API, "control", "DELETE FROM async_migrations_asyncmigrationtokenscope"),
        (API, "control", "CREATE TABLE mine (id int)"),
        (WORKER, "control", f"INSERT INTO auth_user {users}"),
        (WORKER, "control", "UPDATE auth_user SET is_superuser = true"),
        (WORKER, "control", "INSERT INTO knox_authtoken (digest) VALUES ('x')"),
        (WORKER, "control", "SELECT * FROM knox_authtoken"),
        (WORKER, "control", "SELECT * FROM django_session"),
        (WORKER, "control", "DELETE FROM async_migrations_asyncmigrationevent"),
        (WORKER, "control", "CREATE TABLE mine (id int)"),
        (WORKER, "control", f"SET ROLE {MIGRATE}"),
    ]
    for role, database, sql in refused:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            place.query(sql, database, role)


def test_every_table_of_this_app_is_decided_upon():
    ours = {model._meta.label for model in apps.get_app_config("async_migrations").get_models()}
    assert ours == {label for label in {**CONTROL, **TARGET} if label.startswith("async_migrations.")}


def test_no_database_is_asked_and_no_secret_is_printed():
    out = StringIO()
    call_command(
        "async_migrations", "grants", "--api=a", '--worker=w"x', "--migrate=m", "--database=second", stdout=out
    )
    assert 'TO "a", "w""x", "m";' in out.getvalue()
    assert 'GRANT "m" TO "w""x";' in out.getvalue()
    assert "auth_user" not in out.getvalue()
