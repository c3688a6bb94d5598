"""The Dramatiq actor, and the reconciler that makes it no matter what becomes of a message.

A message is a nudge and holds an id alone. Losing the claim is the normal way in which a doubled message ends; a
message that got lost is sent again.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.utils import timezone

from . import lifecycle
from .conf import conf
from .errors import BrokerAway, ExecutionError, NotALeftover
from .execution import executor, heartbeat, janitor
from .lifecycle import Origin
from .models import AsyncMigrationStatus
from .states import Status

try:
    import dramatiq
except ImportError:  # The extra `worker` is not installed: everything is carried out where it is asked for.
    dramatiq = None  # type: ignore[assignment]

logger = logging.getLogger("async_migrations")


def broker_is_configured() -> bool:
    """Whether this project has named a broker: django_dramatiq's by its setting, others by `dramatiq.set_broker`."""
    if dramatiq is None or dramatiq.broker.global_broker is None:
        return False
    # Without the setting, django_dramatiq falls back to a RabbitMQ on this machine that nobody asked for.
    return hasattr(settings, "DRAMATIQ_BROKER") or not apps.is_installed("django_dramatiq")


def carry_out(pk: int) -> None:
    """Carry out what is first in line on the migration's database, and so on until nothing waits or others do it.

    Which message arrives first says nothing about whose turn it is.
    """
    row = lifecycle.rows().filter(pk=pk).first()
    while row is not None and not heartbeat.shutdown.is_set():
        following = lifecycle.next_in_line(row.database)
        lease = lifecycle.claim(pk if following is None else following, _worker_name())
        if lease is None:
            return
        executor.execute(lease)
        if heartbeat.shutdown.is_set():
            _send(lease.pk)  # If it was given back, somebody else may begin with it at once.


def send_soon(pk: int) -> None:
    """Send the message when the current transaction has committed; without a broker carry the migration out then.

    A broker that is away is logged and harmless: the reconciler sends the message when it is back.
    """
    transaction.on_commit(partial(_send, pk), using=conf.control_database)


def _send(pk: int) -> None:
    row = lifecycle.rows().filter(pk=pk, status=Status.STARTED).first()
    if row is None or (row.run_at is not None and row.run_at > timezone.now()):
        return  # What has a time to begin at is sent by the reconciler when it has come.
    if not broker_is_configured():
        _carry_out_here(pk)
    elif _enqueue(row):  # First the message, then the mark: a message too many does no harm, and nobody waits.
        lifecycle.mark_dispatched(row)


def _enqueue(row: AsyncMigrationStatus) -> bool:
    """Send the message; False when the broker is away, whatever its client raises then: the row is what counts."""
    try:
        execute_migration.send(row.pk)
    except Exception:
        logger.warning("message not sent, will be sent again", extra={"migration_id": row.pk}, exc_info=True)
        lifecycle.mark_unsent(row)
        return False
    return True


def _carry_out_here(pk: int) -> None:
    """Carry a migration out in this thread, back-offs included, since there is no worker that would come back to it."""
    carry_out(pk)
    while (row := lifecycle.get(pk)).status == Status.STARTED and row.attempt and row.run_at:
        time.sleep(max(0.0, (row.run_at - timezone.now()).total_seconds()))
        carry_out(pk)
    if row.status == Status.ERROR:
        error = row.meta["error"]
        logger.error("%s on %s ended in ERROR: %s %s", row.name, row.database, error["message"], error["hint"] or "")


def ask_to_drop(database: str, schema: str, name: str, origin: Origin) -> bool:
    """Have a worker drop a leftover; True when it is gone already, for without a broker it is dropped here.

    Raises BrokerAway, since no row would have it asked for again; without a broker what `janitor.drop` raises.
    """
    if not broker_is_configured():
        janitor.drop(database, schema, name, origin)
        return True
    try:
        drop_leftover.send(database, schema, name, origin.by, origin.request_id)
    except Exception as exc:  # Whatever a broker's client raises.
        raise BrokerAway(
            "The broker does not answer, so no worker can be asked. Nothing was done; ask again when it is back."
        ) from exc
    return False


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def reconcile() -> None:
    """One round: take over what `migrate` left in the targets, reap what lost its worker, send what got lost."""
    for alias in connections:
        if alias != conf.control_database:
            _collect(alias)
    lifecycle.reap()
    for row in lifecycle.unclaimed():
        nudge = lifecycle.next_in_line(row.database) is not None and lifecycle.mark_dispatched(row)
        if nudge and not _enqueue(row):
            return  # The broker is away for the others too.


def _collect(alias: str) -> None:
    try:
        lifecycle.collect_requests(alias)
    except (DatabaseError, InterfaceError):  # Not migrated yet, not PostgreSQL, or away: the next round looks again.
        logger.debug("outbox not readable", extra={"database": alias}, exc_info=True)


if broker_is_configured():

    @dramatiq.actor(queue_name=conf.queue, max_retries=0, time_limit=float("inf"))
    def execute_migration(pk: int) -> None:
        """Carry out the migration with this id, if nobody else does."""
        carry_out(pk)

    @dramatiq.actor(queue_name=conf.queue, max_retries=0, time_limit=float("inf"))
    def drop_leftover(database: str, schema: str, name: str, by: str, request_id: str) -> None:
        """Drop what a build left behind, if it still is left over."""
        try:
            janitor.drop(database, schema, name, Origin(by, request_id))
        except (NotALeftover, ExecutionError) as error:
            asked = {"database": database, "index": f"{schema}.{name}", "by": by, "request_id": request_id}
            logger.warning("leftover stays", extra={**asked, "reason": str(error)})

    class Reconciler(dramatiq.Middleware):
        """Runs `reconcile` in a thread of every worker, and tells the attempts when the worker is to end."""

        def __init__(self) -> None:
            self._ended = threading.Event()

        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            threading.Thread(target=self._run, name="reconciler", daemon=True).start()

        def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
            self._ended.set()
            heartbeat.begin_shutdown()

        def _run(self) -> None:
            while not self._ended.wait(conf.reconcile_seconds):
                try:
                    reconcile()
                except (DatabaseError, InterfaceError):
                    logger.warning("reconciler could not look", exc_info=True)
                finally:
                    connections.close_all()

    dramatiq.get_broker().add_middleware(Reconciler())
