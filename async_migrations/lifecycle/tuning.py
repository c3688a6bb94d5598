"""What may be changed about a migration while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from .. import limits, states
from ..conf import conf
from ..errors import TransitionRefused
from ..limits import OutOfLimits
from ..models import AsyncMigrationStatus
from ..states import TERMINAL, Kind, Status
from . import audit
from .audit import Origin
from .moves import Answer, get, record, same, unchanged
from .verbs import contended, until_settled


def tune(pk: int, origin: Origin, changes: Mapping[str, Any]) -> Answer:
    """Set values that win over the options of the file, also while a worker carries the migration out.

    changes: names of `limits.NAMES` to values, durations in seconds. None takes back what was set: then the value of
    the file counts again. What is not named stays; saying what is set already changes nothing. Raises OutOfLimits for
    values that cannot be used, for an SQL migration all but the priority, and TransitionRefused for what has ended,
    unless in ERROR.
    """
    limits.check(changes)
    for row in until_settled(pk):
        _refuse_what_has_ended(row)
        _refuse_what_it_does_not_have(row, changes)
        news = _news(row, changes)
        if not news:
            return unchanged("tune", row, origin, **changes)
        if _write(row, news, origin):
            return Answer(get(pk), changed=True)
    raise contended(row)


def _news(row: AsyncMigrationStatus, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what would be different from what is set."""
    wanted = dict(changes)
    if "priority" in wanted and wanted["priority"] is None:
        wanted["priority"] = int(row.options.get("priority") or 0)
    current = _current(row)
    return {name: value for name, value in wanted.items() if value != current.get(name)}


def _current(row: AsyncMigrationStatus) -> dict[str, Any]:
    return {**row.tuning, "priority": row.priority}


def _write(row: AsyncMigrationStatus, news: dict[str, Any], origin: Origin) -> bool:
    current = _current(row)
    tuning = {name: value for name, value in (current | news).items() if value is not None}
    priority = tuning.pop("priority")
    before = {name: current.get(name) for name in news}
    with transaction.atomic(using=conf.control_database):
        unchanged = same(row).filter(tuning=row.tuning, priority=row.priority)
        written = unchanged.update(tuning=tuning, priority=priority, updated_at=Now())
        if written:
            record(row, "tuned", origin, before=before, after=news)
            audit.enter("tune", origin, row=row, before=before, after=news)
    return bool(written)


def _refuse_what_has_ended(row: AsyncMigrationStatus) -> None:
    if row.status in TERMINAL - {Status.ERROR}:
        allowed = states.verbs_from(row.status)
        raise TransitionRefused(
            f"{row.name} is {row.status}: there is nothing left to tune; allowed now: {', '.join(allowed)}.",
            status=row.status,
            allowed=allowed,
        )


def _refuse_what_it_does_not_have(row: AsyncMigrationStatus, changes: Mapping[str, Any]) -> None:
    if row.kind == Kind.SQL and (foreign := set(changes) - {"priority"}):
        raise OutOfLimits(dict.fromkeys(sorted(foreign), "An SQL migration has no such value, only a priority."))
