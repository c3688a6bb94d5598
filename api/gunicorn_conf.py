"""What gunicorn does for every installation; address, workers and threads are on its command line."""

from pathlib import Path
from typing import Any

from django.urls import get_resolver

from api import tracing
from api.settings import LOGGING

wsgi_app = "api.wsgi"
worker_class = "gthread"
_memory = Path("/dev/shm")  # noqa: S108 - a worker's heartbeat file must not wait for a disk
worker_tmp_dir = str(_memory) if _memory.is_dir() else None
timeout = 60  # seconds
graceful_timeout = 5  # seconds; whoever waits for news asks again
keepalive = 15  # seconds, longer than who polls is told to rest
control_socket_disable = True  # nobody needs another door, nor a socket left behind in the home directory
logconfig_dict = {
    **LOGGING,
    "loggers": {
        **LOGGING["loggers"],
        # gunicorn's default has a handler of its own, beside the service's.
        "gunicorn.error": {"handlers": [], "propagate": True},
        # A poller asks every few seconds; what changes something is in the log and in the events.
        "gunicorn.access": {"handlers": [], "propagate": False, "level": "CRITICAL"},
    },
}


def post_worker_init(worker: Any) -> None:
    """Load every door before the first request, which would wait for it, and say who may wait, and until when."""
    tracing.set_up()
    _ = get_resolver().url_patterns
    # Imported here: models cannot be loaded before the application is.
    from async_migrations.rest.waiting import places

    places.fit(threads=worker.cfg.threads, closed=lambda: not worker.alive)
