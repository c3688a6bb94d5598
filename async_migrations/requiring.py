"""The operation that makes a later migration file wait for async migrations: what `require_finished` returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import Q
from django.utils import timezone

from . import lifecycle
from .conf import conf
from .errors import NotFinished
from .execution import session
from .handing_over import collect, let_go
from .lifecycle import Channel, Origin, Verdict, Wanted, gate
from .states import Direction, Status

_POLL_SECONDS = 0.2


class RequireFinished(Operation):
    """Goes on, forwards on PostgreSQL, when all of these migrations are FINISHED on the database that is migrated.

    names: of the migrations. wait: seconds to wait for them.
    """

    reversible = True
    elidable = True

    def __init__(self, names: Sequence[str], wait: float) -> None:
        self.names, self.wait = names, wait

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Change nothing about the models."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Return when all of them are FINISHED. Raises NotFinished, TablesMissing."""
        connection = schema_editor.connection
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(f"-- {self.describe()}")
        elif connection.vendor == "postgresql" and router.allow_migrate(connection.alias, app_label):
            let_go(connection.alias)
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="require-finished") as aside:
                self._pass(connection, aside)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Do nothing: what is undone needs nothing to be FINISHED."""

    def describe(self) -> str:
        return f"Require that async migrations are FINISHED: {', '.join(self.names)}"

    def _pass(self, connection: BaseDatabaseWrapper, aside: ThreadPoolExecutor) -> None:
        """Wait at the gate. What is to be written meanwhile is written aside, for this file's transaction is open."""
        wanted = Wanted(names=self.names, database=connection.alias)
        deadline = time.monotonic() + self.wait
        work: Future[None] | None = None
        if not session.has_written(connection):
            aside.submit(_alone, collect, connection.alias).result()
        while (verdict := lifecycle.judge(wanted)).state != gate.PASS:
            if work is not None and work.done():
                work.result()
                work = None
            if verdict.state == gate.FAILED:
                raise NotFinished(_refusal(verdict, connection.alias))
            mine = _to_carry_out(verdict, connection.alias) if work is None else []
            if work is None and not mine and time.monotonic() >= deadline:
                if lifecycle.judge(wanted) == verdict:
                    raise NotFinished(_refusal(verdict, connection.alias))
                continue  # It went on between the two looks.
            _refuse_to_stand_in_the_way(connection)
            if mine:
                work = aside.submit(_alone, _carry_out, mine)
            time.sleep(_POLL_SECONDS)


def _to_carry_out(verdict: Verdict, alias: str) -> list[int]:
    """Return which of them this process carries out itself.

    With scheduling off, all that nobody has stopped: a `migrate` from nothing comes before any worker. With it on, what
    is in line (`execute_immediately`) if there is no broker.
    """
    from . import tasks  # Not before: importing it binds the actor to the broker, see `handing_over.after_migrate`.

    scheduling = conf.allow_scheduled_migrations
    if (scheduling and tasks.broker_is_configured()) or lifecycle.held(alias) is not None:
        return []
    # What is in a back-off is waited for; not what somebody wants to begin later.
    in_line = Q(status=Status.STARTED) & (Q(run_at=None) | Q(run_at__lte=timezone.now()) | Q(attempt__gt=0))
    ours = in_line if scheduling else in_line | Q(status__in=(Status.SCHEDULED, Status.IN_PROGRESS))
    pks = [reason.id for reason in verdict.reasons if reason.id is not None]
    found = lifecycle.rows().filter(ours, pk__in=pks, direction=Direction.FORWARDS)
    return list(found.order_by("-priority", "pk").values_list("pk", flat=True))


def _carry_out(pks: list[int]) -> None:
    """Carry these out, and what comes before them in line; leave to its worker what is in progress elsewhere."""
    from . import tasks

    lifecycle.reap()
    for pk in pks:
        if lifecycle.get(pk).status == Status.SCHEDULED:
            lifecycle.run(pk, Origin("migrate", channel=Channel.MIGRATE))
        tasks.carry_out_up_to(pk)


def _alone(work: Callable[..., None], *arguments: Any) -> None:
    """Work on connections of this thread's own, and close them."""
    try:
        work(*arguments)
    finally:
        connections.close_all()


def _refuse_to_stand_in_the_way(connection: BaseDatabaseWrapper) -> None:
    """Raise NotFinished where waiting would have no end: an index build waits for transactions that have written."""
    if session.has_written(connection):
        raise NotFinished(
            "require_finished would wait within a transaction that has changed something already, and what it waits "
            "for might wait for that transaction. Put it first in its file, or into a file of its own before it."
        )


def _refusal(verdict: Verdict, alias: str) -> str:
    lines = [
        f"This migration file needs async migrations to be FINISHED on database {alias!r} first, and they are not:",
        *(_line(reason) for reason in verdict.reasons),
        "Then migrate again.",
    ]
    return "\n".join(lines)


def _line(reason: gate.Reason) -> str:
    if reason.id is None:
        return f"- {reason.name}: {reason.detail} This file has to depend on the one that makes it."
    return f"- {reason.name} (id {reason.id}) is {reason.status}. {reason.detail} {_what_to_do(reason)}"


def _what_to_do(reason: gate.Reason) -> str:
    if reason.state == gate.PENDING:
        return f"Wait: manage.py async_migrations wait {reason.id}"
    if reason.status == Status.STARTED:
        return "Wait, or lift the hold."
    forwards = reason.id is not None and lifecycle.get(reason.id).direction == Direction.FORWARDS
    verb = "resume" if reason.status == Status.PAUSED and forwards else "run"
    return f"manage.py async_migrations {verb} {reason.id} --wait, or POST .../async-migrations/{reason.id}/{verb}"
