"""GET /metrics, for Prometheus: how things stand, as the control database says, and what the processes have counted.

    path("metrics", MetricsDoor.as_view())

A token is needed, which Prometheus can send, unless ASYNC_MIGRATIONS_METRICS_PUBLIC says otherwise: the names of
databases, how many migrations fail and how busy the API is are nobody's business who may not see the migrations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.exceptions import NotFound
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from .. import counting, lifecycle
from ..conf import conf
from ..states import Status
from . import schema
from .door import Door
from .parsers import JSONOnly

if counting.INSTALLED:
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.openmetrics import exposition as openmetrics

NOT_INSTALLED = "There are no metrics here: prometheus_client is missing. Run: pip install prometheus-client"

#: Of holds on all databases.
ALL = "*"

#: What the control database says: name without our prefix -> (labels, help).
STATE: dict[str, tuple[tuple[str, ...], str]] = {
    "control_database_up": ((), "Whether the control database answered; if not, the five below are missing."),
    "migrations": (("database", "status"), "Migrations by status."),
    "oldest_in_line_seconds": (("database",), "How long the first in line has waited; 0 when nothing waits."),
    "heartbeat_age_seconds": (("database",), "Since the oldest heartbeat of what is in progress; 0 for nothing."),
    "hold_age_seconds": (("database",), f"How old each hold in force is; {ALL} for one on all databases."),
    "throttled": (("database", "reason"), "Backfills that wait for a healthier database now."),
}


class State:
    """A collector of prometheus_client: four queries, however much there is."""

    def collect(self) -> Iterator[Any]:
        families = {
            name: GaugeMetricFamily(f"async_migrations_{name}", text, labels=labels)
            for name, (labels, text) in STATE.items()
        }
        try:
            for name, labels, value in list(_samples()):
                families[name].add_metric(labels, value)
            families["control_database_up"].add_metric((), 1)
        except (DatabaseError, InterfaceError):
            families["control_database_up"].add_metric((), 0)
        yield from families.values()


def _samples() -> Iterator[tuple[str, tuple[str, ...], float]]:
    counted = {(database, status): count for database, status, count in lifecycle.counts()}
    waits, under_way = lifecycle.waits(), lifecycle.under_way()
    for database in sorted({database for database, _ in counted}):
        for status in Status.values:
            yield "migrations", (database, status), counted.get((database, status), 0)
        silences = (row.silence.total_seconds() for row in under_way if row.database == database)
        yield "oldest_in_line_seconds", (database,), waits.get(database, 0)
        yield "heartbeat_age_seconds", (database,), max(0.0, *silences, 0.0)
    for database, seconds in lifecycle.held_for():
        yield "hold_age_seconds", (database or ALL,), seconds
    reasons = Counter((row.database, counting.reason_of(row.throttled["reason"])) for row in under_way if row.throttled)
    for labels, count in reasons.items():
        yield "throttled", labels, count


def counters(registry: Any) -> None:
    """Have a registry hold what was counted: by all processes that share PROMETHEUS_MULTIPROC_DIR, else by this one."""
    try:
        counting.Collector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # There is no such directory.
        for metric in counting.METRICS:
            registry.register(metric)


class Text(BaseRenderer):
    """What Prometheus has always read, and what whoever accepts anything gets."""

    media_type = "text/plain"
    format = "txt"


class OpenMetrics(Text):
    """What whoever names it gets."""

    media_type = "application/openmetrics-text"


class TextUnlessOpenMetrics(JSONOnly):
    """OpenMetrics is for whoever names it, in whatever version and with whatever weight: Prometheus names both."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        if OpenMetrics.media_type in request.headers.get("Accept", ""):
            return OpenMetrics(), OpenMetrics.media_type
        return super().select_renderer(request, [Text()], format_suffix)


class MetricsDoor(Door):
    renderer_classes = (Text, OpenMetrics)  # type: ignore[assignment]
    content_negotiation_class = TextUnlessOpenMetrics

    def get_authenticators(self) -> list[Any]:
        return [] if conf.metrics_public else super().get_authenticators()

    def get_permissions(self) -> Any:
        return [] if conf.metrics_public else super().get_permissions()

    def get_throttles(self) -> list[Any]:
        return [] if conf.metrics_public else super().get_throttles()

    @schema.documented(
        "metrics",
        "Metrics for Prometheus",
        "As text, or as OpenMetrics for whoever accepts that. docs/monitoring.md says what each means. Without a token "
        "if the service is set so.",
        answers={200: OpenApiTypes.STR},
        problems=schema.OF_ONE,
        forms=(Text.media_type, OpenMetrics.media_type),
    )
    def get(self, request: Request) -> HttpResponse:
        if not counting.INSTALLED:
            raise NotFound(NOT_INSTALLED)
        registry = CollectorRegistry()
        registry.register(State())
        counters(registry)
        if isinstance(request.accepted_renderer, OpenMetrics):
            text = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return HttpResponse(text, content_type=openmetrics.CONTENT_TYPE_LATEST)
        return HttpResponse(exposition.generate_latest(registry), content_type=exposition.CONTENT_TYPE_PLAIN_0_0_4)
