"""What people ask for in the admin and at the command line, and what they are told, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import QuerySet

from . import lifecycle, tasks
from .errors import PreflightFailed, TransitionRefused
from .execution import preflight
from .lifecycle import Answer, Origin
from .models import AsyncMigrationHold, AsyncMigrationStatus
from .states import RUN, Direction, Status, StopRequest

#: What may become of one of many.
OUTCOMES = ("accepted", "unchanged", "refused", "not_found")


_VERBS: dict[str, Callable[[int, Origin], Answer]] = {
    "run": lifecycle.run,
    "pause": lifecycle.pause,
    "resume": lifecycle.resume,
    "cancel": lifecycle.cancel,
    "rollback": lifecycle.rollback,
}


def ask(
    verb: str,
    pk: int,
    origin: Origin,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    force: bool = False,
) -> Answer:
    """Carry out one of `states.VERBS` on one migration, by its name, and nudge a worker.

    run_at, priority, max_attempts: with "run", as `lifecycle.run` takes them. force: with "run": whatever stands in the
    way. Returns the row as it is after the nudge, which without a broker has carried the migration out already. Raises
    TransitionRefused, PreflightFailed, OutOfLimits, and AsyncMigrationStatus.DoesNotExist.
    """
    if verb == RUN.name:
        if not force:
            preflight.require(lifecycle.get(pk))
        terms: dict[str, Any] = {"run_at": run_at, "priority": priority, "max_attempts": max_attempts}
        answer = lifecycle.run(pk, origin, **terms, forced=force)
    else:
        answer = _VERBS[verb](pk, origin)
    if answer.migration.status == Status.STARTED:
        tasks.send_as_read(answer.migration)
        if not tasks.broker_is_configured():
            answer = Answer(lifecycle.get(pk), answer.changed)
    return answer


@dataclass(frozen=True)
class Item:
    """What became of one of many migrations: one of OUTCOMES, and why it was refused.

    migration: None where there is none with this id.
    """

    id: int
    migration: AsyncMigrationStatus | None
    outcome: str
    error: TransitionRefused | PreflightFailed | None = None


def ask_each(
    verb: str,
    pks: Sequence[int],
    origin: Origin,
    *,
    among: QuerySet[AsyncMigrationStatus],
    dry_run: bool = False,
) -> list[Item]:
    """Carry out "run" or "cancel" on each migration by itself, and nudge workers when all are in line.

    What becomes of one keeps nothing from the others. among: what is there for who asks. dry_run: only say what would
    become of each as it is now.
    """
    known = among.in_bulk(pks)

    def carried_out(pk: int) -> Item:
        row = known.get(pk)
        if row is None:
            return Item(pk, None, "not_found")
        try:
            if verb == RUN.name:
                preflight.require(row)
            answer = Answer(row, lifecycle.foresee(verb, row)) if dry_run else _VERBS[verb](pk, origin)
        except (TransitionRefused, PreflightFailed) as exc:
            return Item(pk, row, "refused", exc)
        except AsyncMigrationStatus.DoesNotExist:
            return Item(pk, None, "not_found")
        return Item(pk, answer.migration, "accepted" if answer.changed else "unchanged")

    items = [carried_out(pk) for pk in pks]
    if dry_run:
        return items
    tasks.send_first()
    now = among.in_bulk(pks)  # Without a broker they have been carried out already.
    return [replace(item, migration=now.get(item.id)) for item in items]


def lift(database: str, origin: Origin) -> AsyncMigrationHold | None:
    """End the hold on a database, or on all (empty), and have go on what it held; return it, None: there was none."""
    lifted = lifecycle.lift_hold(database, origin)
    if lifted is not None:
        lifecycle.note_held()
        tasks.send_first()
    return lifted


def tell(answer: Answer) -> str:
    """Say in one sentence what became of a request."""
    row = answer.migration
    now = _state(row)
    return (
        f"{row.name} on {row.database}: {now}."
        if answer.changed
        else f"{row.name} on {row.database}: nothing to do, {now}."
    )


def tell_tuned(answer: Answer) -> str:
    """Say in one sentence what is set live now."""
    row = answer.migration
    values = [f"{name}={json.dumps(value)}" for name, value in {"priority": row.priority, **row.tuning}.items()]
    return f"{row.name} on {row.database}: {'tuned' if answer.changed else 'nothing to do'}, {', '.join(values)}."


def duration(seconds: float) -> str:
    """Say how long: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def blockers(row: AsyncMigrationStatus) -> list[str]:
    """Describe each session that keeps the statement waiting."""
    return [_blocker(session) for session in row.waiting_on]


def progress(row: AsyncMigrationStatus) -> str:
    """Say how far it is: "26.8 %, building index, about 35 s left"; empty when nothing is known."""
    percent = "" if row.percent is None else f"{row.percent:.1f} %"
    left = f"about {duration(row.eta_seconds)} left" if row.eta_seconds and not row.terminal else ""
    return ", ".join(filter(None, (percent, row.phase, left)))


def throttling(row: AsyncMigrationStatus) -> str:
    """Say why it waits for a healthier database: "throttled by lock_waiters: 12, limit 5"; empty when it does not."""
    if not row.throttled:
        return ""
    measured = [str(row.throttled["value"])] if row.throttled.get("value") is not None else []
    measured += [f"limit {row.throttled['limit']}"] if row.throttled.get("limit") is not None else []
    return ": ".join(filter(None, (f"throttled by {row.throttled['reason']}", ", ".join(measured))))


def asked_to(row: AsyncMigrationStatus) -> str:
    """Say what a stop request wants of the worker: "stop" for good, "pause"; empty when there is none."""
    return {StopRequest.CANCEL.value: "stop", StopRequest.PAUSE.value: "pause"}.get(row.stop_requested or "", "")


def as_json(value: Any) -> str:
    """Return the value as indented JSON, readable in any language."""
    return json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False)


def facts(detail: dict[str, Any]) -> str:
    """Return the detail of an event, one fact a line."""
    return "\n".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)}"
        for key, value in detail.items()
    )


def _state(row: AsyncMigrationStatus) -> str:
    backwards = row.direction == Direction.BACKWARDS
    if row.stop_requested == StopRequest.CANCEL:
        return "asked to stop; the worker cleans up, then it is CANCELLED"
    if row.stop_requested == StopRequest.PAUSE:
        return "asked to pause; the worker stops at the next checkpoint, then it is PAUSED"
    if row.status == Status.STARTED:
        when = f", not before {row.run_at.isoformat(timespec='seconds')}" if row.run_at else ""
        return f"in line for a worker{', to be rolled back' if backwards else ''}{when}"
    if row.status == Status.IN_PROGRESS:
        return f"{'being rolled back' if backwards else 'in progress'}, attempt {row.attempt}"
    if row.status == Status.ERROR:
        return f"ERROR: {row.meta.get('error', {}).get('message', 'no reason is recorded')}"
    return str(row.status)


def _blocker(session: dict[str, Any]) -> str:
    who = f"pid {session.get('pid')}"
    if session.get("application_name"):
        who += f" ({session['application_name']})"
    state = f" {session['state']}" if session.get("state") else ""
    since = f" for {duration(float(session['seconds']))}" if session.get("seconds") is not None else ""
    return f"{who}{state}{since}"
