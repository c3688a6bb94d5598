"""Spans from the request to the statement, if OpenTelemetry is there; nothing otherwise.

Only its API is used: without an SDK, which the deployment sets up, all of it does nothing. A span never holds SQL nor
the text of an error, which may repeat values: digests, numbers and error codes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # The extra `otel` is not installed.
    INSTALLED = False
else:
    INSTALLED = True
    _tracer = trace.get_tracer("async_migrations")
    _propagator = TraceContextTextMapPropagator()

Attributes = Mapping[str, Any]
#: Adds to a span what is known only in its course.
Tell = Callable[[Attributes], None]

ERROR = "error.type"


@contextmanager
def span(name: str, attributes: Attributes, *, kind: str = "internal", parent: str = "") -> Iterator[Tell]:
    """Make the block a span below the current one; an exception that leaves it is told by its code alone.

    attributes: a name without a dot is one of ours; None is left out. kind: OpenTelemetry's, such as "server".
    parent: a `traceparent`, for where there is no current span.
    """
    if not INSTALLED:
        yield _tell_nobody
        return
    apart = parent and not trace.get_current_span().get_span_context().is_valid
    with _tracer.start_as_current_span(
        name,
        context=_propagator.extract({"traceparent": parent}) if apart else None,
        kind=trace.SpanKind[kind.upper()],
        attributes=_named(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:

        def mark(more: Attributes) -> None:
            current.set_attributes(_named(more))
            if more.get(ERROR):
                current.set_status(trace.Status(trace.StatusCode.ERROR))

        try:
            yield mark
        except Exception as exc:
            # What has no code is mostly no error: somebody asked to stop, or it is not its turn.
            code = getattr(exc, "code", None)
            mark({ERROR: str(code)} if code else {"ended_by": type(exc).__name__})
            raise


def carried() -> str:
    """Return the current span as a `traceparent`, to be kept with what is done later; empty outside of a span."""
    carrier: dict[str, str] = {}
    if INSTALLED:
        _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def _named(attributes: Attributes) -> dict[str, Any]:
    given = {name: value for name, value in attributes.items() if value is not None}
    return {name if "." in name else f"async_migrations.{name}": value for name, value in given.items()}


def _tell_nobody(more: Attributes) -> None:
    """Do nothing."""
