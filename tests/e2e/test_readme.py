"""The README as a newcomer uses it: a project of another author's making, and every block carried out word for word.

The project knows nothing of this repository: a folder, a database and an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from api import variables
from api.processes import ROOT, Running, child_environment, run_to_end, running, wait_until_ready
from tests.conftest import eventually, free_port, need
from tests.servers import database_named
from tests.test_docs import BACKFILLS, block

pytestmark = pytest.mark.e2e

NAME = "shop.migrations.0002_order_customer_idx_async"
FILE = "shop/migrations/0002_order_customer_idx_async.py"
MODELS = """
class Order(models.Model):
    customer_id = models.BigIntegerField()
    placed_at = models.DateTimeField()
"""
BACKFILL = "shop.migrations.0004_order_placed_on_async"
BACKFILL_FILES = (
    "shop/migrations/0004_order_placed_on_async.py",
    "shop/migrations/0005_order_purge_async.py",
    "shop/migrations/0006_order_season_async.py",
)
# An order a day: a thousand before 2015, and a thousand from then on.
ORDERS = """
INSERT INTO shop_order (customer_id, placed_at)
SELECT n, timestamptz '2015-01-01 12:00+00' + (n - 1001) * interval '1 day' FROM generate_series(1, 2000) AS n
RETURNING id
"""
SEASON = """
(ARRAY['winter', 'spring', 'summer', 'autumn'])[1 + extract(month FROM placed_at AT TIME ZONE 'UTC')::int % 12 / 3]
"""
CURL = (ROOT / "examples" / "ci" / "curl.sh").read_text()
# The console script, also where this checkout was installed before it had one.
CLIENT = 'async-migrations() { python -m async_migrations.client "$@"; }\n'
BROKER = {"BROKER_URL": os.environ["BROKER_URL"]}


class Host:
    """A plain `django-admin startproject` with an app `shop`; commands are lines of a shell in its folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self._started = folder, stack, 0
        self.url = ""
        folder.mkdir()
        self.sh("django-admin startproject mysite . && python manage.py startapp shop")
        self.append("mysite/settings.py", 'INSTALLED_APPS += ["shop"]\n')
        self.append("shop/models.py", MODELS)
        self.sh("python manage.py makemigrations shop")

    def install(self, *, settings: str | None = None) -> None:
        """Do what the README says under "Install it into a Django project", and write its first migration file."""
        self.append("mysite/settings.py", settings or block("settings.py"))
        self.append("mysite/urls.py", block("urls.py"))
        self.write(FILE, block(FILE))

    def write(self, file: str, text: str) -> None:
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / file).write_text(text)

    def append(self, file: str, text: str) -> None:
        with (self.folder / file).open("a") as output:
            output.write(f"\n{text}")

    def use(self, url: str) -> None:
        """Point the project at a database."""
        self.url = url
        self.append("mysite/settings.py", f"DATABASES = {variables.databases({'DATABASE_URL': url})!r}\n")

    def try_sh(self, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a line until it ends; its output is in the answer."""
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self._env(env), capture_output=True, text=True, check=False
        )

    def sh(self, line: str, **env: str) -> str:
        """Run a line that must succeed; return what it wrote to stdout."""
        done = self.try_sh(line, **env)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str, **env: str) -> Running:
        """Run a line that stays; stopped at the end of the test."""
        command = ["bash", "-c", f"cd '{self.folder}' && exec env {line.strip()}"]
        return self.start_beside(command, self._env(env))

    def start_beside(self, command: list[str], env: dict[str, str]) -> Running:
        """Run a command of this repository that stays; stopped at the end of the test."""
        self._started += 1
        log = self.folder.with_name(f"{self.folder.name}-{self._started}.log")
        return self._stack.enter_context(running(command, env, log))

    def start_worker(self, line: str) -> Running:
        worker = self.start(line, **BROKER)
        eventually(lambda: "ready for action" in worker.output or not worker.is_alive(), what="the worker is ready")
        assert worker.is_alive(), worker.output
        return worker

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query on the project's PostgreSQL."""
        with closing(psycopg2.connect(self.url)) as database, database.cursor() as cursor:
            database.autocommit = True
            cursor.execute(sql)
            return list(cursor.fetchall())

    def status(self, name: str = NAME) -> str | None:
        """Return the status of a migration, that of the README unless named; None when there is no row."""
        found = self.query(f"SELECT status FROM async_migrations_asyncmigrationstatus WHERE name = '{name}'")
        return str(found[0][0]) if found else None

    def index_is_valid(self) -> bool | None:
        """Return whether the README's index is valid, None when there is none."""
        found = self.query(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('public.shop_order_customer_idx')"
        )
        return bool(found[0][0]) if found else None

    def _env(self, env: dict[str, str]) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": programs, "HOME": str(self.folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **env}


@pytest.fixture
def host(tmp_path):
    """A project on SQLite, as `startproject` makes it, without this app."""
    with ExitStack() as stack:
        yield Host(tmp_path / "host", stack)


@contextmanager
def empty_database() -> Iterator[str]:
    """Return the URL of a new, empty database on the tests' PostgreSQL."""
    name = f"host_{uuid4().hex[:12]}"
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as server, server.cursor() as cursor:
        server.autocommit = True
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield database_named(os.environ["DATABASE_URL"], name)
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(control):
    with empty_database() as url:
        yield url


@pytest.fixture
def shop(database, host):
    """The project on PostgreSQL, with everything that the README says."""
    host.use(database)
    host.install()
    return host


# --- with scheduling, a broker, and CI ---


def start_web(shop: Host) -> str:
    """Start the web server as the README does, on a free port; return its address."""
    port = free_port()
    line = block("web")
    assert "8000" in line
    web = shop.start(line.replace("8000", f"127.0.0.1:{port} --noreload"), **BROKER)
    url = f"http://127.0.0.1:{port}"
    eventually(
        lambda: shop.try_sh(f"curl -s -o /dev/null {url}/api/async-migrations").returncode == 0 or not web.is_alive(),
        what="the web server answers",
    )
    assert web.is_alive(), web.output
    return url


def test_from_the_migration_file_to_finished_over_rest(shop):
    need("bash", "curl", "jq")
    shop.sh(block("migrate"), **BROKER)
    assert shop.status() == "SCHEDULED"
    assert shop.index_is_valid() is None

    url = start_web(shop)
    shop.start_worker(block("worker"))
    token = shop.sh(block("token"), **BROKER).strip()
    said = shop.sh(CLIENT + block("ci"), ASYNC_MIGRATIONS_URL=url, ASYNC_MIGRATIONS_TOKEN=token)

    assert f"{NAME} on default: FINISHED, 100.0 %" in said
    assert said.endswith("pass: 1 migrations looked at\n")
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True
    assert shop.query("SELECT by FROM async_migrations_asyncmigrationevent WHERE kind = 'run'") == [("ci",)]
    asked = "SELECT by, channel, outcome FROM async_migrations_asyncmigrationaudit WHERE action = 'run'"
    assert shop.query(asked) == [("ci", "api", "accepted")]
    kept = "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'async\\_migrations\\_keep\\_all\\_%' ORDER BY tgname"
    assert [name for (name,) in shop.query(kept)] == [
        "async_migrations_keep_all_audit",
        "async_migrations_keep_all_events",
    ]

    # And again, with curl in a plainer shell: nothing to do is not an error.
    shop.write("curl.sh", CURL)
    assert '"status": "FINISHED"' in shop.sh("sh curl.sh", URL=url, TOKEN=token, NAME=NAME)


def test_backfills_as_their_document_has_them(shop):
    need("bash", "curl", "jq")
    # Given 2,000 orders, files of all three kinds, and a function that could be a reason to wait
    add_columns(shop)
    for file in (*BACKFILL_FILES, "shop/backfills.py", "shop/health.py"):
        shop.write(file, block(file, BACKFILLS))
    shop.append("mysite/settings.py", block("settings.py, reasons to wait", BACKFILLS))
    shop.sh("python manage.py migrate shop 0003", **BROKER, ALLOW_SCHEDULED_MIGRATIONS="true")
    shop.query(ORDERS)
    shop.sh(block("migrate"), **BROKER)

    # When the first is run at a low rate, paused in the middle, and resumed at full speed
    url = start_web(shop)
    shop.start_worker(block("worker"))
    token = shop.sh(block("token"), **BROKER).strip()
    (pk,) = shop.query(f"SELECT id FROM async_migrations_asyncmigrationstatus WHERE name = '{BACKFILL}'")[0]

    def say(name: str) -> str:
        return str(shop.sh(block("api", BACKFILLS) + block(name, BACKFILLS), URL=url, TOKEN=token, ID=str(pk)))

    say("tune")
    shop.sh(f"python manage.py async_migrations run {pk}", **BROKER)
    eventually(lambda: filled(shop) > 0, what="it has begun")
    say("pause")
    eventually(lambda: shop.status(BACKFILL) == "PAUSED", what="it is paused")
    paused_at = filled(shop)
    say("as the file says")
    assert filled(shop) == paused_at < 2000
    say("resume")
    done = shop.sh(CURL, URL=url, TOKEN=token, NAME=BACKFILL)

    # Then all orders have the new value, and so it is with the others
    assert '"status": "FINISHED"' in done
    assert filled(shop) == 2000
    assert '"count":0' in say("quarantine").replace(" ", "")
    shop.sh("python manage.py async_migrations run --wait --timeout 60 0005_order_purge_async", **BROKER)
    shop.sh("python manage.py async_migrations run --wait --timeout 60 0006_order_season_async", **BROKER)
    assert shop.query("SELECT count(*), min(placed_at)::date::text FROM shop_order") == [(1000, "2015-01-01")]
    assert shop.query(f"SELECT count(*) FROM shop_order WHERE season = {SEASON}") == [(1000,)]
    # And back: what is left is the column's own file
    shop.sh("python manage.py migrate shop 0003", **BROKER)
    eventually(lambda: shop.status(BACKFILL) == "ROLLED BACK", what="it is rolled back")


def add_columns(shop: Host) -> None:
    columns = "    placed_on = models.DateField(null=True)\n    season = models.CharField(max_length=6, null=True)\n"
    shop.append("shop/models.py", columns)
    shop.sh("python manage.py makemigrations shop --name order_placed_on")


def filled(shop: Host) -> int:
    rows = shop.query("SELECT count(*) FROM shop_order WHERE placed_on = (placed_at AT TIME ZONE 'UTC')::date")
    return int(str(rows[0][0]))


def test_the_exit_code_tells_ci_what_became_of_it(shop):
    need("bash", "curl", "jq")
    text = block(FILE)
    shop.write(FILE, text.replace("customer_id, placed_at", "customer_id, nothing_of_that_name"))
    shop.sh(block("migrate"), **BROKER)
    url = start_web(shop)
    shop.start_worker(block("worker"))
    token = shop.sh(block("token"), **BROKER).strip()

    failed = shop.try_sh(CURL, URL=url, TOKEN=token, NAME=NAME)
    assert failed.returncode == 1
    assert '"status": "ERROR"' in failed.stdout
    assert "nothing_of_that_name" in failed.stdout
    ci = {"ASYNC_MIGRATIONS_URL": url, "ASYNC_MIGRATIONS_TOKEN": token}
    again = shop.try_sh(CLIENT + "set -e\n" + block("ci"), **ci)
    assert again.returncode == 1
    assert "ended as ERROR, not FINISHED" in again.stderr


def test_dramatiq_without_django_dramatiq(database, host):
    whole = block("settings.py")
    host.use(database)
    host.install(
        settings=whole[: whole.index("# The broker of the workers")] + block("settings.py, without django_dramatiq")
    )
    host.write("worker.py", block("worker.py"))
    host.start_worker(block("worker, without django_dramatiq"))

    host.sh("python manage.py migrate", **BROKER)
    eventually(lambda: host.status() == "FINISHED", what="the worker carried it out")
    assert host.index_is_valid() is True

    # A worker whose connections to the control database were cut goes on by itself.
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    assert host.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    host.sh("python manage.py async_migrations rollback --wait --timeout 90 0002_order_customer_idx_async", **BROKER)
    assert host.status() == "ROLLED BACK"
    assert host.index_is_valid() is None


def test_the_service_beside_a_project_that_only_has_the_app(database, host):
    need("bash", "curl", "jq")
    host.use(database)
    host.install(settings='INSTALLED_APPS += ["async_migrations"]\n')
    host.write("mysite/urls.py", "urlpatterns = []\n")
    host.sh(block("migrate"))
    assert host.status() == "SCHEDULED"

    service = Service(host)
    service.manage("migrate")
    token = service.manage("create_api_token", "ci", "--role", "operator").strip()
    url = service.start()
    assert '"status": "FINISHED"' in host.sh(CURL, URL=url, TOKEN=token, NAME=NAME)
    assert host.index_is_valid() is True


class Service:
    """The control-plane service on a project's database, as `docs/deployment.md` has it."""

    def __init__(self, host: Host) -> None:
        self._host, self._env = host, child_environment(host.url, BROKER["BROKER_URL"])

    def manage(self, *arguments: str) -> str:
        done = run_to_end([sys.executable, "-m", "api", "manage", *arguments], self._env)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def start(self) -> str:
        """Start web and worker; return the address."""
        port = free_port()
        for arguments in (["web", "--port", str(port)], ["worker"]):
            self._host.start_beside([sys.executable, "-m", "api", *arguments], self._env)
        wait_until_ready(f"http://127.0.0.1:{port}")
        return f"http://127.0.0.1:{port}"


# --- without a broker ---


def test_without_a_broker_and_without_scheduling_migrate_carries_it_out(shop):
    shop.sh("python manage.py migrate")
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True

    shop.sh("python manage.py migrate shop 0001")
    assert shop.status() == "ROLLED BACK"
    assert shop.index_is_valid() is None

    shop.sh("python manage.py migrate")
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True


def test_without_a_broker_a_failure_is_in_the_row_and_can_be_corrected(shop):
    shop.write(FILE, block(FILE).replace("customer_id, placed_at", "nothing_of_that_name, placed_at"))
    shop.sh("python manage.py migrate")
    assert shop.status() == "ERROR"
    assert "nothing_of_that_name" in shop.sh("python manage.py async_migrations show 0002_order_customer_idx_async")

    shop.write(FILE, block(FILE))
    shop.sh(block("correct", ROOT / "docs" / "errors.md"))
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True


def test_migrate_alone_needs_no_extra(shop):
    absent = ["dramatiq", "django_dramatiq", "rest_framework", "knox", "django_filters", "drf_spectacular"]
    shop.write("absent/sitecustomize.py", f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n")
    settings = shop.folder / "mysite" / "settings.py"
    settings.write_text(settings.read_text().replace('"rest_framework", "knox", ', ""))
    (shop.folder / "mysite" / "urls.py").write_text("urlpatterns = []\n")
    shop.sh("python manage.py migrate && python manage.py async_migrations list", PYTHONPATH="absent")
    assert shop.status() == "FINISHED"


def test_a_file_written_for_label_studio_works_by_changing_one_import(shop):
    text = block(FILE).replace("from async_migrations.migration_helpers import", "from core.migration_helpers import")
    shop.write(FILE, text.replace('        ("async_migrations", "0001_initial"),\n', ""))
    shop.sh(block("drop-in"))
    shop.sh("python manage.py migrate async_migrations && python manage.py migrate")
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True


def test_an_index_that_is_in_the_model_too(shop):
    text = block(FILE).replace("import migrations\n", "import migrations, models\n", 1)
    (call,) = (line.strip().rstrip(",") for line in text.splitlines() if "RunPython" in line)
    index = 'models.Index("customer_id", models.F("placed_at").desc(), name="shop_order_customer_idx")'
    both = f"database_operations=[{call}], state_operations=[migrations.AddIndex('order', {index})]"
    shop.write(FILE, text.replace(call, f"migrations.SeparateDatabaseAndState({both})"))
    shop.append("shop/models.py", f"    class Meta:\n        indexes = [{index}]\n")
    shop.sh("python manage.py migrate && python manage.py makemigrations --check")
    assert shop.status() == "FINISHED"
    assert shop.index_is_valid() is True


def test_the_projects_own_tests_have_the_index(shop):
    shop.write("shop/tests.py", TESTS)
    shop.sh("python manage.py test --no-input")


def test_times_are_right_in_a_project_without_time_zones(shop):
    shop.append("mysite/settings.py", "USE_TZ = False\nTIME_ZONE = 'America/New_York'\n")
    shop.sh("python manage.py migrate")
    told = datetime.fromisoformat(shop.sh(CREATED).strip())
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=5)


def test_sqlmigrate_shows_the_sql_as_a_comment(shop):
    shown = shop.sh("python manage.py sqlmigrate shop 0002")
    assert "-- CREATE INDEX CONCURRENTLY shop_order_customer_idx" in shown


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_a_nonsensical_switch_is_refused_in_plain_words(shop, command):
    refused = shop.try_sh(f"python manage.py {command}", ALLOW_SCHEDULED_MIGRATIONS="maybe")
    assert refused.returncode != 0
    assert "ALLOW_SCHEDULED_MIGRATIONS is 'maybe': say true, 1 or yes, or false, 0 or no." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert shop.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


TESTS = """
from django.db import connection
from django.test import TestCase

class IndexTest(TestCase):
    def test_it_is_there(self):
        with connection.cursor() as cursor:
            names = connection.introspection.get_constraints(cursor, "shop_order")
        self.assertIn("shop_order_customer_idx", names)
"""
CREATED = """python manage.py shell --no-imports -c "
from async_migrations import lifecycle
from async_migrations.rest.serializers import MigrationSerializer
print(MigrationSerializer(lifecycle.rows().get()).data['created_at'])
" """


# --- on SQLite ---


LOOK = 'python manage.py shell --no-imports -c "from django.db import connection as c; k = c.cursor(); {}"'
STATUS = LOOK.format("print(k.execute('SELECT status FROM async_migrations_asyncmigrationstatus').fetchall())")
INDEX = LOOK.format("print(k.execute('PRAGMA index_info(shop_order_customer_idx)').fetchall() != [])")


def test_on_sqlite_nothing_runs_and_there_is_no_row(host):
    host.install()
    host.sh("python manage.py migrate")
    assert (host.sh(STATUS), host.sh(INDEX)) == ("[]\n", "False\n")
    host.sh("python manage.py migrate shop 0001")
    assert host.sh(STATUS) == "[]\n"


@pytest.mark.parametrize("scheduling", ["true", "false"])
def test_on_sqlite_the_sql_runs_where_the_file_says_so(host, scheduling):
    host.install()
    text = block(FILE).replace(" CONCURRENTLY", "")
    host.write(FILE, text.replace("migration_name=__name__", "migration_name=__name__, apply_on_sqlite=True"))
    host.sh("python manage.py migrate", ALLOW_SCHEDULED_MIGRATIONS=scheduling)
    assert (host.sh(STATUS), host.sh(INDEX)) == ("[('FINISHED',)]\n", "True\n")
    host.sh("python manage.py migrate shop 0001", ALLOW_SCHEDULED_MIGRATIONS=scheduling)
    assert (host.sh(STATUS), host.sh(INDEX)) == ("[('ROLLED BACK',)]\n", "False\n")
    host.sh("python manage.py migrate", ALLOW_SCHEDULED_MIGRATIONS=scheduling)
    assert (host.sh(STATUS), host.sh(INDEX)) == ("[('FINISHED',)]\n", "True\n")
