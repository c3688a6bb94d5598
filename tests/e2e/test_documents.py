"""The commands of docs/ as a reader types them, in the project of the README, with its web server and its worker.

Only what a reader has to replace is replaced: addresses, ids, names of roles. The tests follow one another: what one
has begun is what the next looks at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import psycopg2
import pytest
import yaml

from api.processes import ROOT
from tests.conftest import eventually, forget_messages, need
from tests.receiver import Receiver, receiving
from tests.test_docs import CI, MONITORING, NOTIFICATIONS, PREFLIGHT, block, is_like

from .test_readme import BROKER, CLIENT, NAME, Host, empty_database, start_web

pytestmark = pytest.mark.e2e

AUDIT, DEPLOYMENT = ROOT / "docs" / "audit.md", ROOT / "docs" / "deployment.md"
SECURITY = ROOT / "docs" / "security.md"
SETTINGS = """
ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = "shop.monitoring.free_bytes"
ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES = True
"""
LATER = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("shop", "0002_order_customer_idx_async")]
    operations = operations
"""
METRICS = 'from django.urls import include\nurlpatterns += [path("", include("mysite.metrics"))]\n'
# pip resolves what is asked for with what is installed here, and changes nothing.
PIP = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}


class Shop(Host):
    """The project of the README while its web server and its worker run; `receiver` gets its webhooks."""

    def __init__(self, *place: object, receiver: Receiver) -> None:
        super().__init__(*place)  # type: ignore[arg-type]
        self.receiver, self.address = receiver, ""

    def ask(self, method: str, path: str, token: str) -> int:
        """Return the status of an answer of the API."""
        url = f"{self.address}/api/async-migrations{path}"
        return httpx.request(method, url, headers={"Authorization": f"Bearer {token}"}).status_code

    def id(self) -> int:
        return int(str(self.query("SELECT id FROM async_migrations_asyncmigrationstatus")[0][0]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    need("bash", "jq")
    forget_messages()
    with ExitStack() as stack:
        url, receiver = stack.enter_context(empty_database()), stack.enter_context(receiving())
        made = Shop(tmp_path_factory.mktemp("shop") / "host", stack, receiver=receiver)
        made.use(url)
        made.install()
        made.append("mysite/settings.py", SETTINGS)
        made.write("shop/monitoring.py", block("shop/monitoring.py", PREFLIGHT))
        made.write("mysite/metrics.py", block("urls.py", MONITORING))
        made.append("mysite/urls.py", METRICS)
        (made.folder / "django-async-migrations").symlink_to(ROOT)
        made.sh(block("migrate"), **BROKER)
        made.address = start_web(made)
        made.start_worker(block("worker"))
        yield made


@pytest.mark.parametrize("line", [block("install"), block("client"), block("install", CI)], ids=["app", "client", "ci"])
def test_what_is_to_be_installed_can_be(shop: Shop, line: str) -> None:
    done = shop.try_sh(f"{CLIENT}set -e\n{line}", **PIP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Would install django-async-migrations" in done.stdout
    assert "does not provide the extra" not in done.stderr


def test_the_preflight(shop: Shop) -> None:
    said = shop.sh(block("look", PREFLIGHT), **BROKER)
    assert "Statement 1 takes SHARE UPDATE EXCLUSIVE" in said
    assert "disk_" in said
    assert "shop.monitoring" not in said, "a function that does not work would be named"


def test_a_webhook_is_added_and_tested(shop: Shop) -> None:
    url = "https://hooks.example.com/migrations"
    text = block("webhook", NOTIFICATIONS)
    assert url in text
    said = shop.sh(text.replace(url, f"{shop.receiver.url}/migrations"), **BROKER)
    secret = next(line for line in said.splitlines() if line.startswith("whsec_"))
    (message,) = shop.receiver.messages
    assert message.is_signed_with(secret)


def test_the_client_is_told_where_the_service_is_and_has_everything_carried_out(shop: Shop) -> None:
    token = shop.sh(block("token"), **BROKER).strip()
    exports = block("client").partition("\n")[2].replace("TOKEN=TOKEN", f"TOKEN={token}")
    exports = exports.replace("http://127.0.0.1:8000", shop.address)
    assert token in exports
    assert shop.address in exports
    said = shop.sh(CLIENT + exports + block("many", CI))
    assert f"{NAME} on default: FINISHED, 100.0 %" in said
    assert shop.index_is_valid() is True
    waited = block("wait", CI)
    assert " 12 " in waited
    said = shop.sh(CLIENT + exports + waited.replace("12", str(shop.id())))
    assert said.startswith(f"{shop.id()}\tFINISHED\t100")


def test_the_webhook_hears_of_it_in_the_documented_shape(shop: Shop) -> None:
    messages = shop.receiver.messages
    eventually(lambda: any(b'"migration.succeed"' in message.body for message in messages), what="it is told")
    assert is_like(json.loads(block("payload", NOTIFICATIONS)), json.loads(messages[-1].body))


def test_a_later_file_that_needs_it_is_applied(shop: Shop) -> None:
    shop.write("shop/migrations/0003_later.py", f"{block('later migration file')}{LATER}")
    shop.sh("python manage.py migrate shop 0003", **BROKER)
    assert shop.query("SELECT 1 FROM django_migrations WHERE name = '0003_later'") == [(1,)]


def test_prometheus_is_let_in_with_the_token_that_is_made_for_it(shop: Shop) -> None:
    shop.sh(block("token", MONITORING), **BROKER)
    (job,) = yaml.safe_load(block("prometheus.yml", MONITORING))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    token = (shop.folder / job["authorization"]["credentials_file"]).read_text().strip()
    answer = httpx.get(f"{shop.address}/metrics", headers={"Authorization": f"Bearer {token}"})
    assert 'async_migrations_migrations{database="default",status="FINISHED"} 1' in answer.text
    assert httpx.get(f"{shop.address}/metrics").status_code == 401


def test_the_audit_is_read_and_kept(shop: Shop) -> None:
    said = shop.sh(block("audit", AUDIT), **BROKER)
    assert "run" in said
    entries = [json.loads(line) for line in (shop.folder / "audit.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in entries if entry["action"] == "run"] == [NAME]
    shop.sh(block("retention", AUDIT), **BROKER)
    pruned = "SELECT outcome FROM async_migrations_asyncmigrationaudit WHERE action = 'prune'"
    assert shop.query(pruned) == [("accepted",)]


def test_a_role_that_only_adds_to_the_audit(shop: Shop) -> None:
    text = block("least", AUDIT)
    assert "api_role" in text
    with closing(psycopg2.connect(shop.url)) as database, database.cursor() as cursor:
        cursor.execute("CREATE ROLE docs_api_role")
        cursor.execute(text.replace("api_role", "docs_api_role"))
        can = "has_table_privilege('docs_api_role', 'async_migrations_asyncmigrationaudit', '{}')"
        cursor.execute(f"SELECT {', '.join(can.format(verb) for verb in ('INSERT', 'SELECT', 'UPDATE', 'DELETE'))}")
        assert cursor.fetchall() == [(True, True, False, False)]
        database.rollback()


def test_the_index_for_searching(shop: Shop) -> None:
    """The extension is no part of the PostgreSQL out of a wheel; without it the same index of another kind is made."""
    extension, _, index = block("search", DEPLOYMENT).partition("\n")
    if shop.query("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"):
        shop.query(f"{extension} SELECT 1")
    else:
        index = index.replace(" gin_trgm_ops", "").replace("USING gin", "USING btree")
    with closing(psycopg2.connect(shop.url)) as database, database.cursor() as cursor:
        database.autocommit = True
        cursor.execute(index)
    assert shop.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'async_migration_search_idx'::regclass") == [
        (True,)
    ]


def test_a_token_has_less_than_its_role_and_is_taken_out_of_force(shop: Shop) -> None:
    token = shop.sh(block("scoped token", SECURITY), **BROKER).strip()
    assert shop.ask("GET", f"/{shop.id()}", token) == 200
    assert shop.ask("POST", f"/{shop.id()}/run", token) == 200
    assert shop.ask("POST", f"/{shop.id()}/rollback", token) == 403
    said = shop.sh(block("revoke", SECURITY), **BROKER)
    assert token[:8] in said
    assert shop.ask("GET", f"/{shop.id()}", token) == 401
