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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.utils import timezone

from . import counting, lifecycle, tracing
from .conf import conf
from .errors import BrokerAway, ExecutionError, NotALeftover
from .execution import backfill, executor, heartbeat, janitor
from .execution.attempt import Postponed
from .execution.pool import sessions
from .lifecycle import Origin
from .models import AsyncMigrationStatus
from .states import Status
from .webhooks.couriers import Couriers

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


class _UnderWay:
    """How many attempts this process carries out on each database.

    Where there is no room because of these alone, a message need not be looked into: whichever of them ends, its thread
    looks at the line afterwards, and the row that the message is about was committed before the message was sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()

    @contextmanager
    def on(self, database: str) -> Iterator[None]:
        """Count one more on this database for the length of the block."""
        with self._lock:
            self._count[database] += 1
        try:
            yield
        finally:
            with self._lock:
                self._count[database] -= 1

    def everywhere(self) -> bool:
        """Whether no database has room; a message does not say which one it is about."""
        room = conf.max_running_per_database
        with self._lock:
            return all(self._count[alias] >= room for alias in connections)


_under_way = _UnderWay()


def carry_out(pk: int) -> None:
    """Carry out what is first in line on the migration's database, and so on until nothing waits or others do it.

    Which message arrives first says nothing about whose turn it is.
    """
    if _under_way.everywhere():
        return
    while _carry_out_first(pk):
        pass


def carry_out_up_to(pk: int) -> None:
    """Do the same, but leave what comes behind this migration in line to others."""
    while lifecycle.get(pk).status == Status.STARTED and _carry_out_first(pk):
        pass


def _carry_out_first(beside: int) -> bool:
    """Carry out what is first in line on the database of this migration; False when nothing is, or others do it."""
    if heartbeat.shutdown.is_set() or (lease := lifecycle.claim_first(beside, _worker_name())) is None:
        return False
    with _under_way.on(lease.migration.database):
        executor.execute(lease, partial(_ask_for_help, pk=lease.pk))
    if heartbeat.shutdown.is_set():
        _send(lease.pk)  # If it was given back, somebody else may begin with it at once.
    return True


def send_soon(pk: int) -> None:
    """Send the message when the current transaction has committed; without a broker carry the migration out then.

    A broker that is away is logged and harmless: the reconciler sends the message when it is back.
    """
    transaction.on_commit(partial(_send, pk), using=conf.control_database)


def send_as_read(row: AsyncMigrationStatus) -> None:
    """Do the same for a row that was read in this transaction, without reading it again."""
    transaction.on_commit(partial(_send_row, row), using=conf.control_database)


def send_first() -> None:
    """Send messages for what is first in line on each database, as many as there are places: whoever ends goes on.

    For what concerns many at once, also with a broker that is away and takes its time to be found so.
    """
    databases = lifecycle.in_line().order_by("database").distinct().values_list("database", flat=True)
    for database in databases:
        for row in lifecycle.in_line(database)[: conf.max_running_per_database]:
            send_as_read(row)


def _send(pk: int) -> None:
    if (row := lifecycle.rows().filter(pk=pk, status=Status.STARTED).first()) is not None:
        _send_row(row)


def _send_row(row: AsyncMigrationStatus) -> None:
    to_stop = row.stop_requested and not row.attempt
    if row.run_at is not None and row.run_at > timezone.now() and not to_stop:
        return  # What has a time to begin at is sent by the reconciler when it has come.
    if not broker_is_configured():
        _carry_out_here(row.pk)
    elif _enqueue(row) and row.dispatched_at is None:
        lifecycle.mark_dispatched(row)  # First the message, then the mark: one too many does no harm, and nobody waits.


def _enqueue(row: AsyncMigrationStatus) -> bool:
    """Send the message; False when the broker is away, whatever its client raises then: the row is what counts."""
    about = {"id": row.pk, "messaging.system": "dramatiq", "messaging.destination.name": conf.queue}
    try:
        with tracing.span("send message", about, kind="producer", parent=row.traceparent):
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
        if lifecycle.held(row.database) is not None:
            break  # Whoever lifts the hold carries it out.
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


def _ask_for_help(count: int, *, pk: int) -> None:
    """Ask so many workers to help with the lanes of a backfill; whoever does not come is done without."""
    if not broker_is_configured():
        return
    try:
        for _ in range(count):
            carry_out_lanes.send(pk)
    except Exception:  # Whatever a broker's client raises.
        logger.warning("help not asked for, will be asked again", extra={"migration_id": pk}, exc_info=True)


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
            break  # The broker is away for the others too.
    lifecycle.note_waiting()
    lifecycle.note_held()


def _collect(alias: str) -> None:
    try:
        lifecycle.collect_requests(alias)
    except (DatabaseError, InterfaceError, ImproperlyConfigured):
        # Not migrated yet, not PostgreSQL, no database at all, or away: the next round looks again.
        logger.debug("outbox not readable", extra={"database": alias}, exc_info=True)
    except Exception:  # What one target asks for must not keep the others from being looked after.
        logger.warning("request of migrate not taken over yet", extra={"database": alias}, exc_info=True)


if broker_is_configured():

    @dramatiq.actor(queue_name=conf.queue, max_retries=0, time_limit=float("inf"))
    def execute_migration(pk: int) -> None:
        """Carry out the migration with this id, if nobody else does."""
        carry_out(pk)

    @dramatiq.actor(queue_name=conf.queue, max_retries=0, time_limit=float("inf"))
    def carry_out_lanes(pk: int) -> None:
        """Work in the lanes of the backfill with this id that nobody is at work in."""
        try:
            backfill.help_out(pk, _worker_name())
        except (ExecutionError, Postponed) as exc:  # Who holds the lease meets the same, and writes it down.
            logger.warning("lane left", extra={"migration_id": pk, "reason": str(exc)})

    @dramatiq.actor(queue_name=conf.queue, max_retries=0, time_limit=float("inf"))
    def drop_leftover(database: str, schema: str, name: str, by: str, request_id: str) -> None:
        """Drop what a build left behind, if it still is left over."""
        try:
            janitor.drop(database, schema, name, Origin(by, request_id))
        except (NotALeftover, ExecutionError) as error:
            asked = {"database": database, "index": f"{schema}.{name}", "by": by, "request_id": request_id}
            logger.warning("leftover stays", extra={**asked, "reason": str(error)})

    class Reconciler(dramatiq.Middleware):
        """A thread of every worker: runs `reconcile`, has webhooks sent, tells attempts when the worker is to end."""

        def __init__(self) -> None:
            self._ended = threading.Event()
            self._couriers = Couriers(self._ended.is_set)

        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            sessions.keep()
            threading.Thread(target=self._run, name="reconciler", daemon=True).start()

        def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
            self._ended.set()
            heartbeat.begin_shutdown()
            sessions.end()

        def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
            self._couriers.wait()

        def _run(self) -> None:
            while not self._ended.wait(conf.reconcile_seconds):
                sessions.close_old()
                try:
                    reconcile()
                    counting.worker_seen(conf.queue)
                    self._couriers.send_out()
                except Exception:  # A thread that died of it would look after nothing any more.
                    logger.warning("reconciler could not look", exc_info=True)
                finally:
                    connections.close_all()

    dramatiq.get_broker().add_middleware(Reconciler())
