"""No query of ours reads a large table from its beginning to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle, tasks
from async_migrations.dashboard import watch
from async_migrations.lifecycle import Origin
from async_migrations.rest.filters import ORDERABLE
from async_migrations.states import Status
from bench.filled import EVENTS, TABLE, fill

ROWS, EVENTS_EACH = 50_000, 3
# What is cheaper than that by the planner's reckoning stops after the first rows, as an EXISTS does.
CHEAP = 100
# Rows that a poll may read, of the 50,000 there are: the overview counts up to a bound in each status.
MOST_READ = 500
MOST_COUNTED = len(Status) * (watch.MOST + 1) + MOST_READ
ORIGIN = Origin("somebody")

FILTERS = (
    "", "status=ERROR", "status=ERROR&status=FINISHED", "status=FINISHED&database=default", "database=second",
    "kind=backfill", "name=app_7.migrations.0000007_async", "search=APP_77.", "search=nothing",
    "search=app&status=ERROR&kind=sql&database=default", "created_after=2099-01-01T00:00:00Z",
    "created_before=2001-01-01T00:00:00Z", "page=300", "page_size=500&page=40",
)  # fmt: skip
ORDERINGS = tuple(f"ordering={sign}{name}" for name in ORDERABLE for sign in ("", "-"))
COMBINED = (
    "ordering=status,-created_at,name", "ordering=-status&search=app_7", "ordering=name&status=FINISHED&page=100",
    "ordering=-updated_at&database=default&kind=sql", "ordering=status,updated_at,-name",
)  # fmt: skip
GATES = (
    "name=app_7.migrations.0000007_async", "name=nothing", "prefix=app_7.", "prefix=nothing", "app=app_7",
    "prefix=app_7.&database=second", "prefix=app_",
    "name=app_7.migrations.0000007_async&prefix=app_9.&app=app_11&database=default",
)  # fmt: skip
PAGES = (
    "/", "/migrations?page=1000", "/migrations?ordering=-name&status=FINISHED&page=500", "/migrations?search=APP_77.",
    "/migrations?search=nothing", "/migrations?status=STARTED", "/migrations?age=1&kind=sql", "/migrations/{pk}",
    "/migrations?search=app&database=second&ordering=updated_at", "/migrations?app=app_7", "/migrations/{pk}/chart",
    "/gates", "/gates?database=second", "/gates?prefix=app_&name=nothing", "/janitor",
)  # fmt: skip


@pytest.fixture
def filled(control):
    with connection.cursor() as cursor:
        fill(cursor, ROWS, EVENTS_EACH)


def scanned(sql: str) -> bool:
    """Whether the planner would have it read one of the large tables in full."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql.replace('%', '%%')}", ())
        plan = cursor.fetchone()[0][0]["Plan"]
    return plan["Total Cost"] > CHEAP and any(
        node["Node Type"] == "Seq Scan" and node["Relation Name"] in (TABLE, EVENTS) for node in nodes(plan)
    )


def read(sql: str) -> int:
    """Return how many rows PostgreSQL has looked at, of tables and of indexes, to answer this."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.replace('%', '%%')}", ())
        plan = cursor.fetchone()[0][0]["Plan"]
    return sum(
        node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(f"Rows Removed by {by}", 0) for by in _REMOVED))
        for node in nodes(plan)
        if node.get("Relation Name", node.get("Index Name", "")).startswith("async_migration")
    )


_REMOVED = ("Filter", "Index Recheck")


def nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


class Looked:
    """What was asked, and the queries that would read too much."""

    def __init__(self, client: Client) -> None:
        self.client, self.scans, self.queries, self.read = client, [], 0, 0

    def ask(self, method: str, path: str, **body: object) -> None:
        with self.queries_of(f"{method} {path}"):
            url = f"/api/async-migrations{path}"
            answer = self.client.generic(method, url, json.dumps(body), "application/json")
        assert answer.status_code < 400, (path, answer.content)

    def queries_of(self, what: str):
        looked = self

        class Captured(CaptureQueriesContext):
            def __exit__(self, *exc):
                super().__exit__(*exc)
                ours = [q["sql"] for q in self.captured_queries if TABLE in q["sql"] or EVENTS in q["sql"]]
                looked.queries += len(ours)
                looked.scans += [(what, sql) for sql in ours if scanned(sql)]
                looked.read = sum(read(sql) for sql in ours if sql.startswith(("SELECT", "(SELECT")))

        return Captured(connection)


def look_at_pages(pk: int) -> Looked:
    """Open each page and poll it."""
    client = Client()
    client.force_login(User.objects.create_superuser("looker"))
    looked = Looked(client)
    for page in PAGES:
        path = page.format(pk=pk)
        with looked.queries_of(f"all of {path}"):
            shown = client.get(path)
        with looked.queries_of(f"a poll of {path}"):
            polled = client.get(path, headers={"HX-Request": "true", "If-None-Match": shown.headers["ETag"]})
        assert (shown.status_code, polled.status_code) == (200, 304), path
        assert looked.read <= (MOST_COUNTED if path == "/" else MOST_READ), path
    return looked


def test_no_large_table_is_read_in_full(filled, token, settings):
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 3
    opened = look_at_pages(lifecycle.rows().earliest("id").pk)
    assert opened.scans == []
    assert opened.queries > 2 * len(PAGES)

    looked = Looked(Client(headers={"Authorization": f"Bearer {token('operator')}"}))
    first = lifecycle.rows().filter(status="SCHEDULED").earliest("id")

    for parameters in (*FILTERS, *ORDERINGS, *COMBINED):
        looked.ask("GET", f"?{parameters}")
    for parameters in GATES:
        looked.ask("GET", f"/gate?{parameters}")
    for path in ("/summary", "/hold", "/hold?database=second", "/janitor"):
        looked.ask("GET", path)
    page = Client()
    page.force_login(User.objects.create_superuser("alice"))
    with looked.queries_of("/hold"):
        assert page.get("/hold").status_code == 200
    for path in ("", "/events", "/events?page=2&page_size=2", "/quarantine", "/preflight"):
        looked.ask("GET", f"/{first.pk}{path}")
    looked.ask("POST", "/run", filter={"search": "app_77.", "status": ["SCHEDULED"]})
    looked.ask("POST", "/cancel", filter={"name": first.name}, dry_run=True)
    looked.ask("PUT", "/hold?database=second", reason="a test")
    tasks.reconcile()
    looked.ask("DELETE", "/hold?database=second")
    for verb in ("cancel", "run", "pause", "resume"):
        looked.ask("POST", f"/{first.pk}/{verb}")

    with looked.queries_of("the line"):
        lease = lifecycle.claim_first(first.pk, "worker-1")
        assert lease is not None
        lifecycle.next_in_line(first.database)
        list(lifecycle.unclaimed())
        tasks.reconcile()
    with looked.queries_of("the attempt"):
        lifecycle.renew(lease)
        lifecycle.note(lease, "noted")
        lifecycle.reap()
        lifecycle.succeed(lease)
    looked.ask("POST", f"/{first.pk}/rollback")
    assert looked.scans == []
    assert looked.queries > 100
