"""What people ask for on the pages and at the command line, and what they are told, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import QuerySet

from . import lifecycle, states, tasks, words
from .conf import conf
from .errors import NotAllTried, PreflightFailed, TransitionRefused
from .execution import janitor, preflight
from .lifecycle import Answer, Origin, audit
from .limits import OutOfLimits
from .models import AsyncMigrationHold, AsyncMigrationStatus
from .states import RUN, Status, StopRequest

#: What may become of one of many.
OUTCOMES = ("accepted", "unchanged", "refused", "not_found")

#: How many may be asked for at once.
MOST = 500

#: What the button of each verb says.
LABELS = {"run": "Run", "pause": "Pause", "resume": "Go on", "cancel": "Cancel", "rollback": "Roll back…"}


_VERBS: dict[str, Callable[[int, Origin], Answer]] = {
    "run": lifecycle.run,
    "pause": lifecycle.pause,
    "resume": lifecycle.resume,
    "cancel": lifecycle.cancel,
    "rollback": lifecycle.rollback,
}


def offered(row: AsyncMigrationStatus) -> tuple[str, ...]:
    """Return the verbs that a person may want now, in the order of their buttons."""
    if row.stop_requested == StopRequest.CANCEL:
        return ()
    if row.stop_requested == StopRequest.PAUSE:
        return ("resume", "cancel")
    retry = ("run",) if row.status in states.RETRY.sources and row.quarantined else ()
    return retry + states.verbs_from(row.status)


def ask(
    verb: str,
    pk: int,
    origin: Origin,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    force: bool = False,
    looked: bool = False,
    looks: preflight.Looks | None = None,
) -> Answer:
    """Carry out one of `states.VERBS` on one migration, by its name, and nudge a worker.

    run_at, priority, max_attempts: with "run", as `lifecycle.run` takes them. force: with "run": whatever stands in the
    way. looked: with "run": who asks has looked whether something does. looks: those of all that are asked
    for together, None where it is one. Returns the row as it is after the nudge, which without a broker has carried the
    migration out already. Raises TransitionRefused, PreflightFailed, OutOfLimits, and
    AsyncMigrationStatus.DoesNotExist.
    """
    if verb == RUN.name:
        terms: dict[str, Any] = {"run_at": run_at, "priority": priority, "max_attempts": max_attempts}
        terms["sent"] = run_at is None and tasks.broker_is_configured()
        require = None if force or looked else (looks or preflight.Looks()).require
        answer = lifecycle.run(pk, origin, **terms, forced=force, require=require)
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
    become of each as it is now. Raises NotAllTried where the control database fails in between.
    """
    known = among.in_bulk(pks)
    looks = preflight.Looks()

    def not_found(pk: int) -> Item:
        if not dry_run:
            audit.refuse(verb, origin, "not_found", "", id=pk)
        return Item(pk, None, "not_found")

    def carried_out(pk: int) -> Item:
        row = known.get(pk)
        if row is None:
            return not_found(pk)
        try:
            if verb == RUN.name:
                looks.require(row)
            answer = Answer(row, lifecycle.foresee(verb, row)) if dry_run else _VERBS[verb](pk, origin)
        except (TransitionRefused, PreflightFailed) as exc:
            if not dry_run:
                refused(verb, origin, exc, row)
            return Item(pk, row, "refused", exc)
        except AsyncMigrationStatus.DoesNotExist:
            return not_found(pk)
        return Item(pk, answer.migration, "accepted" if answer.changed else "unchanged")

    return [carried_out(pk) for pk in pks] if dry_run else _carry_out(carried_out, pks, among)


def _carry_out(each: Callable[[int], Item], pks: Sequence[int], among: QuerySet[AsyncMigrationStatus]) -> list[Item]:
    """Carry out each, then nudge workers; return what became of them by then. Raises NotAllTried."""
    items: list[Item] = []
    try:
        items.extend(map(each, pks))  # When one fails, those before it are in the list.
        tasks.send_first()
        now = among.in_bulk(pks)  # Without a broker they have been carried out already.
    except (DatabaseError, InterfaceError) as exc:
        with suppress(DatabaseError, InterfaceError):  # Without a connection no worker could begin either.
            connections[conf.control_database].close_if_unusable_or_obsolete()
            tasks.send_first()
        raise NotAllTried([item.id for item in items if item.outcome in ("accepted", "unchanged")], len(pks)) from exc
    return [replace(item, migration=now.get(item.id)) for item in items]


def refused(action: str, origin: Origin, exc: Exception, row: AsyncMigrationStatus) -> None:
    """Enter in the audit that what was asked of a migration was not done, where no door answers and does so."""
    code = "validation_error" if isinstance(exc, OutOfLimits) else getattr(exc, "code", "not_found")
    audit.refuse(action, origin, code, str(exc), row=row)


def drop(
    database: str, schema: str, name: str, origin: Origin, carry_out: Callable[[str, str, str, Origin], object]
) -> bool:
    """Have what a build has left behind dropped; True when it is gone.

    carry_out: `janitor.drop`, or `tasks.ask_to_drop` to have a worker do it. Raises what these and `janitor.look` do.
    """
    index = {"index": f"{schema}.{name}"}
    if janitor.look(database, schema, name) is None:
        outcome = audit.Outcome.UNCHANGED
        audit.enter("drop_leftover", origin, database=database, outcome=outcome, detail=index)
        return True
    # Before it is done: that could not be taken back if entering failed.
    audit.enter("drop_leftover", origin, database=database, detail=index)
    return bool(carry_out(database, schema, name, origin))


def lift(database: str, origin: Origin, *, seen: int | None = None) -> AsyncMigrationHold | None:
    """End the hold on a database, or on all (empty), and have go on what it held; return it, None: there was none.

    seen: as `lifecycle.lift_hold` takes it.
    """
    lifted = lifecycle.lift_hold(database, origin, seen=seen)
    if lifted is not None:
        lifecycle.note_held()
        tasks.send_first()
    return lifted


def tell(answer: Answer) -> str:
    """Say in one sentence what became of a request."""
    row = answer.migration
    now = words.state({name: getattr(row, name) for name in words.OF_THE_STATE})
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


def as_json(value: Any) -> str:
    """Return the value as indented JSON, readable in any language."""
    return json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False)


def facts(detail: dict[str, Any]) -> str:
    """Return the detail of an event, one fact a line."""
    return "\n".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)}"
        for key, value in detail.items()
    )
