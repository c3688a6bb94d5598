"""OpenTelemetry's SDK in the processes of the service; what is traced is decided in `async_migrations.tracing`.

Each process sets it up after it was forked, since it has a thread that sends. All else, such as sampling, headers and
timeouts, is what OpenTelemetry's own variables say.
"""

from __future__ import annotations

import logging
from typing import Any

import dramatiq

from api.settings import TRACES_EXPORTER

logger = logging.getLogger(__name__)

SERVICE = "async-migrations"

_provider: Any = None


def set_up() -> None:
    """Send spans from now on, if the environment says where to; without the packages, say that they are missing."""
    global _provider
    if TRACES_EXPORTER == "none" or _provider is not None:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        # No reason not to start: operators of clusters set the variables for every container there is.
        logger.warning("no traces: OpenTelemetry is missing; pip install 'django-async-migrations[otel]'")
        return
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(_provider)


def _exporter() -> Any:
    if TRACES_EXPORTER == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Tracing(dramatiq.Middleware):
    """Sets it up in each process of a worker, and sends what is left when one ends."""

    def after_process_boot(self, broker: Any) -> None:
        set_up()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        if _provider is not None:
            _provider.shutdown()
