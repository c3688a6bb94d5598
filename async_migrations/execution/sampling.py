"""What the heartbeat does for the chart: a point now and then, and never at the attempt's expense."""

from __future__ import annotations

import logging
import time

from .. import lifecycle
from ..lifecycle import Lease

logger = logging.getLogger("async_migrations")

# Seconds until the next try where a point could not be written.
_RETRY_SECONDS = 60.0


class Sampler:
    """Writes the points of an attempt. batch_size: rows, as the work reports it."""

    def __init__(self, lease: Lease) -> None:
        self.batch_size: int | None = None
        self._lease = lease
        self._due_at = 0.0

    def take(self) -> None:
        """Write a point when it is time; a look at the clock when it is not. Trouble is logged."""
        if time.monotonic() < self._due_at:
            return
        try:
            wait = lifecycle.take_sample(self._lease, self.batch_size)
        except Exception:
            # A chart with a gap is better than an attempt that fails for its chart.
            logger.warning("sample not taken", extra={"migration_id": self._lease.pk}, exc_info=True)
            wait = None
        self._due_at = time.monotonic() + (_RETRY_SECONDS if wait is None else wait)
