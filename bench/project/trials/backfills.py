"""The backfills that are measured, and the tables that they work on, which the bench makes and drops."""

from __future__ import annotations

COPY = "bench_copy"
NARROW = "bench_narrow"

UPDATE = "total = octet_length(data::text)"
WHERE = "total IS NULL"

_FILE = "bench.project.trials.migrations.0003_backfills_async"
DEFAULTS = f"{_FILE}_defaults"
UNTHROTTLED = f"{_FILE}_unthrottled"
INCREMENT = f"{_FILE}_increment"
