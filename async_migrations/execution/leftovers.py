"""What an attempt that did not succeed leaves behind, and how it is removed."""

from __future__ import annotations

import logging
import time

from .. import lifecycle
from . import verify
from .attempt import POLL_SECONDS, Attempt
from .heartbeat import Stop
from .session import Session
from .statements import Effect, Index, IndexAction

logger = logging.getLogger("async_migrations")


def remove_leftovers(attempt: Attempt, *, orphans: bool) -> None:
    """Drop the INVALID index that this attempt made and did not finish, by building it or by dropping it.

    orphans: also end what earlier attempts left running, and drop what those built.

    On a connection of its own, for a cancel may still be on its way to the first. Raises nothing: how the attempt ended
    is known and must be written down; what cannot be removed now is left to the next attempt, which repairs it.
    """
    attempt.heartbeat.phase = "removing leftovers"
    try:
        # A build of ours that came to its end as the cancel arrived is whole, but nothing says that it is done.
        cancelled = attempt.heartbeat.stop is Stop.CANCEL
        for index in attempt.leftovers:
            _remove(attempt, index, whole=cancelled and index.action is IndexAction.CREATE)
        if orphans:
            _end_orphans(attempt)
        if attempt.reindexed:
            _sweep(attempt)
    except Exception:
        logger.warning("leftovers stay", extra={"migration_id": attempt.lease.pk}, exc_info=True)


def _end_orphans(attempt: Attempt) -> None:
    """Cancel what an earlier attempt left running, wait until it is gone, and drop what it built."""
    ours = f"async-migrations/{attempt.lease.pk}/"
    with Session(attempt.migration.database, f"{ours}cleanup") as session:
        while holders := session.all("advisory_lock_holder", key=attempt.lock_key):
            for holder in holders:
                if holder["application_name"].startswith(ours):
                    session.one("cancel_backend", **holder)
            time.sleep(POLL_SECONDS)
        begun = session.one("begun", name=attempt.migration.name, migration_id=attempt.lease.pk).get("begun")
    for statement in attempt.statements[len(attempt.done) :]:
        for index in statement.indexes if statement.effect is Effect.CATALOGUE else ():
            if index.action is IndexAction.CREATE:
                _remove(attempt, index, whole=statement.digest == begun)


def _sweep(attempt: Attempt) -> None:
    with Session(attempt.migration.database, f"async-migrations/{attempt.lease.pk}/cleanup") as session:
        if swept := verify.sweep(session, attempt.reindexed):
            lifecycle.note(attempt.lease, "leftover_removed", indexes=swept)


def _remove(attempt: Attempt, index: Index, *, whole: bool = False) -> None:
    """Drop an index that is INVALID and that nobody builds; `whole`: also one that is valid."""
    with Session(attempt.migration.database, f"async-migrations/{attempt.lease.pk}/cleanup") as session:
        found = verify.find(session, index)
        if found is not None and found.on_table and (whole or not found.valid) and not verify.builders(session, found):
            verify.drop(session, found)
            lifecycle.note(attempt.lease, "leftover_removed", index=str(index.name))
