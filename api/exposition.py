"""A worker's own /metrics, for where it shares no directory with a web server: what its processes have counted.

Dramatiq starts it once for all processes of a worker. It asks no database and no token: there are counters only, at an
address that METRICS_BIND names, and none unless it does. How things stand is on the web server's page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import dramatiq

logger = logging.getLogger(__name__)


class Exposition(dramatiq.Middleware):
    """Has a worker start `expose` beside its processes."""

    @property
    def forks(self) -> list[Callable[[], int]]:
        return [expose]


def expose() -> int:
    """Answer HTTP until the worker ends; without a free address, or nothing to show, say so and leave it at that."""
    # Imported here: this process has no settings yet, and the others no use for a server.
    from prometheus_client import CollectorRegistry, start_http_server

    from api.settings import METRICS_BIND
    from async_migrations.counting import Collector

    assert METRICS_BIND is not None
    host, port = METRICS_BIND
    registry = CollectorRegistry()
    try:
        Collector(registry)  # type: ignore[no-untyped-call]
        _, thread = start_http_server(port, host, registry)
    except ValueError:
        logger.error("no metrics: METRICS_BIND needs PROMETHEUS_MULTIPROC_DIR, which `python -m api worker` sets")
        return 1
    except OSError as exc:
        logger.error("no metrics: METRICS_BIND=%s:%s cannot be listened on: %s", host, port, exc.strerror)
        return 1
    thread.join()
    return 0
