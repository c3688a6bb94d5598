"""What Prometheus and a collector of traces see of real processes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from api.processes import wait_until_ready
from tests.conftest import eventually, free_port
from tests.db.conftest import book  # noqa: F401 - a fixture
from tests.driving import ended, scheduled
from tests.e2e.test_backfills import begun

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]


@pytest.fixture(autouse=True)
def only_recorded(settings: Any) -> None:
    """Let a migration file record its migration, so that nobody holds it back until `migrate` is through."""
    settings.ALLOW_SCHEDULED_MIGRATIONS = True


def scraped(client: httpx.Client) -> dict[str, float]:
    """Return the sums over all labels of what is exposed, by name without our prefix."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            name = sample.name.removeprefix("async_migrations_")
            sums[name] = sums.get(name, 0) + sample.value
    return sums


def test_web_and_worker_are_seen_in_one_scrape_while_the_collector_of_traces_is_away(
    processes, start_worker, api, tmp_path
) -> None:
    # Given two web processes and a worker that share a directory, in it a file of a process that is gone, and one that
    # a process has made this moment
    shared = tmp_path / "metrics"
    shared.mkdir()
    stale = shared / "counter_4194305.db"  # Linux has no process ids above 4194304.
    stale.touch()
    (shared / f"counter_{os.getpid()}.db").touch()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(shared), "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    port = free_port()
    web = processes([sys.executable, "-m", "api", "web", "--port", str(port), "--workers", "2"], **env)
    web.url = f"http://127.0.0.1:{port}"
    wait_until_ready(web.url, alive=web.is_alive)
    assert not stale.exists()
    own = free_port()
    worker = start_worker(**env, METRICS_BIND=f"127.0.0.1:{own}", ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.1")
    client = api("operator", at=web)
    # When a backfill is carried out
    pk = begun(client, table="book", update="n = n + 1", throttle=False)
    assert ended(client, pk)["status"] == "FINISHED"
    # Then the page of the web server has what the worker counted, how things stand, and every request of both processes
    seen = scraped(client)
    assert (seen["attempts_total"], seen["duration_seconds_count"], seen["time_in_line_seconds_count"]) == (1, 1, 1)
    assert seen["rows_done_total"] == 500
    assert seen["migrations"] == seen["control_database_up"] == 1
    assert eventually(lambda: scraped(client).get("worker_seen_timestamp_seconds"))
    requests = scraped(client)["request_seconds_count"]
    assert [scraped(client)["request_seconds_count"] for _ in range(10)] == [requests + n for n in range(1, 11)]
    # And the worker's own page has what was counted, without the database
    with httpx.Client(base_url=f"http://127.0.0.1:{own}") as scraper:
        eventually(lambda: _reachable(scraper))
        counted = scraped(scraper)
    assert counted["attempts_total"] == 1
    assert "control_database_up" not in counted
    # And both end as they always do, and nothing that was counted is lost with them
    assert worker.stop(15) == 0
    assert scraped(client)["attempts_total"] == 1
    assert web.stop(15) == 0


def _reachable(client: httpx.Client) -> bool:
    try:
        return client.get("/metrics").is_success
    except httpx.ConnectError:
        return False


class Collector(ThreadingHTTPServer):
    """A collector of traces: keeps every span that is sent to it, and the service that sent it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[tuple[str, Span]] = []

    def named(self, trace: str, name: str) -> Span | None:
        """Return the span of a trace with this name."""
        found = (span for _, span in self.spans if span.trace_id.hex() == trace and span.name == name)
        return next(found, None)


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in sent.resource_spans:
            (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            self.server.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_one_trace_leads_from_the_request_to_the_statement(collector, start_api, start_worker, api) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    client = api("operator", at=start_api(**env))
    start_worker(**env)
    pk = scheduled("UPDATE book SET title = 'secret'")
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    answer = client.post(f"/api/async-migrations/{pk}/run", headers={"traceparent": f"00-{trace}-{caller}-01"})

    assert answer.status_code == 202
    names = ("POST /api/async-migrations/{id}/run", "send message", "attempt", "statement")
    door, message, attempt, statement = (eventually(partial(collector.named, trace, name)) for name in names)
    assert door.parent_span_id.hex() == caller
    assert message.parent_span_id == attempt.parent_span_id == door.span_id
    assert statement.parent_span_id == attempt.span_id
    told = {a.key: a.value.string_value or a.value.int_value for a in attempt.attributes}
    begun(client, table="book", update="n = 1", throttle=False)
    lane = eventually(lambda: next((span for _, span in collector.spans if span.name == "lane"), None))
    assert {a.key: a.value.int_value for a in lane.attributes}["async_migrations.rows"] == 500
    assert (told["async_migrations.id"], told["async_migrations.outcome"]) == (pk, "Succeeded")
    assert {service for service, _ in collector.spans} == {"async-migrations"}
    assert "secret" not in str(collector.spans)
