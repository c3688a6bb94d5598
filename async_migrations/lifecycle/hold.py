"""The switch that keeps migrations from going on: on all databases or one, with who set it, why, and until when.

While it is in force nothing is claimed but what is to be stopped, and what is in progress is given back where it can go
on later. It is in force or not by the clock of the control database, whoever looks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import connections, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from ..conf import conf
from ..models import AsyncMigrationHold
from . import audit
from .audit import Origin
from .moves import rows

logger = logging.getLogger("async_migrations")


def holds() -> QuerySet[AsyncMigrationHold]:
    """Return all holds that there ever were, the newest first."""
    return AsyncMigrationHold.objects.using(conf.control_database)


def holds_in_force(database: str | None = None) -> QuerySet[AsyncMigrationHold]:
    """Return the holds that are in force, those for all databases first; with `database` only what applies there."""
    found = holds().filter(_in_force()).order_by("database", "pk")
    return found if database is None else found.filter(database__in=("", database))


def held(database: str) -> AsyncMigrationHold | None:
    """Return what keeps the migrations of a database from going on now, None when nothing does."""
    return holds_in_force(database).first()


def is_held() -> Exists:
    """Match the migrations whose database is held now."""
    here = Q(database="") | Q(database=OuterRef("database"))
    return Exists(holds().filter(_in_force(), here).order_by())


def is_kept_back() -> Q:
    """Match the migrations that no worker may claim for a hold; who only has one to stop may."""
    return Q(is_held(), stop_requested=None)


def databases() -> list[str]:
    """Return the targets that can be held: those that are configured here, and those that migrations name."""
    return sorted({*connections, *rows().order_by("database").distinct().values_list("database", flat=True)})


@contextmanager
def changing_holds() -> Iterator[None]:
    """Let the block look and write in one transaction, while nobody else sets or lifts a hold."""
    connection = connections[conf.control_database]
    with transaction.atomic(using=connection.alias):
        if connection.vendor == "postgresql":  # Another one has no API, and one who writes at a time.
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('async-migrations/hold', 0))")
        yield


def set_hold(database: str, reason: str, origin: Origin, *, expires_at: datetime | None = None) -> AsyncMigrationHold:
    """Keep every migration of a database from going on until somebody lifts it, and return the hold.

    database: Django alias, empty for all. expires_at: aware; it ends by itself then. One that is in force there is
    replaced; the same once more changes nothing.
    """
    with changing_holds():
        current = holds_in_force().filter(database=database).first()
        if current is not None and (current.reason, current.expires_at) == (reason, expires_at):
            audit.enter("hold", origin, database=database, outcome=audit.Outcome.UNCHANGED, before=_said(current))
            return current
        _end(database, origin)
        wanted = {"reason": reason, "by": origin.by, "request_id": origin.request_id, "expires_at": expires_at}
        made = holds().create(database=database, **wanted)
        before = _said(current) if current else {}
        audit.enter("hold", origin, database=database, before=before, after=_said(made))
    _log("hold", made, origin)
    return made


def lift_hold(database: str, origin: Origin, *, seen: int | None = None) -> AsyncMigrationHold | None:
    """End the hold that was set for exactly this database, or for all (empty), and return it; None: there was none.

    seen: id of the hold that is meant; one that has replaced it stays. None for whichever is in force.
    """
    with changing_holds():
        current = holds_in_force().filter(database=database).first()
        if current is None or seen not in (None, current.pk):
            audit.enter("lift", origin, database=database, outcome=audit.Outcome.UNCHANGED)
            return None
        holds().filter(pk=current.pk).update(lifted_at=Now(), lifted_by=origin.by)
        audit.enter("lift", origin, database=database, before=_said(current))
    _log("lift", current, origin)
    return current


def _end(database: str, origin: Origin) -> None:
    """Write the end of what was set for a database; nobody has lifted what was over by itself."""
    unended = holds().filter(database=database, lifted_at=None)
    unended.filter(expires_at__lte=Now()).update(lifted_at=F("expires_at"))
    unended.update(lifted_at=Now(), lifted_by=origin.by)


def _in_force() -> Q:
    return Q(lifted_at=None) & (Q(expires_at=None) | Q(expires_at__gt=Now()))


def _said(hold: AsyncMigrationHold) -> dict[str, Any]:
    return {"reason": hold.reason, "by": hold.by, "expires_at": hold.expires_at}


def _log(kind: str, which: AsyncMigrationHold, origin: Origin) -> None:
    logger.info(
        kind,
        extra={
            "database": which.database or "all",
            "reason": which.reason,
            "expires_at": which.expires_at,
            "by": origin.by,
            "request_id": origin.request_id,
        },
    )
