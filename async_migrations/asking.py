"""What people ask for in the admin and at the command line, and how the answer is told in words."""

from __future__ import annotations

from datetime import datetime

from . import lifecycle, tasks
from .lifecycle import Answer, Origin
from .models import AsyncMigrationStatus
from .states import Direction, Status


def ask(verb: str, pk: int, origin: Origin, *, run_at: datetime | None = None) -> Answer:
    """Carry out "run", "cancel" or "rollback" on one migration and nudge a worker.

    run_at: aware; with "run": not to begin before. Returns the row as it is after the nudge, which without a broker has
    carried the migration out already. Raises TransitionRefused, and AsyncMigrationStatus.DoesNotExist.
    """
    if verb == "run":
        answer = lifecycle.run(pk, origin, run_at=run_at)
    elif verb == "cancel":
        answer = lifecycle.cancel(pk, origin)
    else:
        answer = lifecycle.rollback(pk, origin)
    if answer.migration.status == Status.STARTED:
        tasks.send_soon(pk)
        answer = Answer(lifecycle.get(pk), answer.changed)
    return answer


def tell(answer: Answer) -> str:
    """Say in one sentence what became of a request."""
    row = answer.migration
    now = _state(row)
    return (
        f"{row.name} on {row.database}: {now}."
        if answer.changed
        else f"{row.name} on {row.database}: nothing to do, {now}."
    )


def _state(row: AsyncMigrationStatus) -> str:
    backwards = row.direction == Direction.BACKWARDS
    if row.stop_requested:
        return "asked to stop; the worker cleans up, then it is CANCELLED"
    if row.status == Status.STARTED:
        when = f", not before {row.run_at.isoformat(timespec='seconds')}" if row.run_at else ""
        return f"in line for a worker{', to be rolled back' if backwards else ''}{when}"
    if row.status == Status.IN_PROGRESS:
        return f"{'being rolled back' if backwards else 'in progress'}, attempt {row.attempt}"
    if row.status == Status.ERROR:
        return f"ERROR: {row.meta.get('error', {}).get('message', 'no reason is recorded')}"
    return str(row.status)
