"""Waiting on the control database for migrations, and for a gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connections

from async_migrations import lifecycle, words
from async_migrations.client.watching import Exit, View, Watch, verdict
from async_migrations.conf import conf
from async_migrations.lifecycle import Verdict, Wanted, gate
from async_migrations.models import AsyncMigrationStatus

from ..contract import as_dict

T = TypeVar("T")

POLL_SECONDS = 0.5
#: A database server that is restarted is back by then; one that is away for longer is reported.
PATIENCE_SECONDS = 30.0
GATE_EXITS = {
    gate.PASS: Exit.DONE,
    gate.FAILED: Exit.FAILED,
    gate.PENDING: Exit.STILL_GOING,
    gate.BLOCKED: Exit.FAILED,  # It waits for somebody: trying again would not help.
}


def wait(watches: Sequence[Watch], timeout: float | None, view: View) -> Exit:
    """Look at the migrations until each is over, or until `timeout` seconds are over.

    Brings the row of each watch up to date. Raises OperationalError when the database is away for too long.
    """
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    with view:
        while True:
            _refresh(watches, deadline)
            view.show(watch.row for watch in watches)
            left = deadline - time.monotonic()
            if left <= 0 or all(watch.over for watch in watches):
                return verdict(watches)
            time.sleep(min(POLL_SECONDS, left))


def _refresh(watches: Iterable[Watch], deadline: float) -> None:
    """Read again what is not over; what is stays as it was, whatever somebody asks of it next."""
    going = {watch.row["id"]: watch for watch in watches if not watch.over}
    found = {row.pk: row for row in _read(list(going), deadline)}
    for pk, watch in going.items():
        if pk not in found:
            raise AsyncMigrationStatus.DoesNotExist(
                f"{watch.row['name']} on {watch.row['database']} is not there any more."
            )
        watch.row = as_dict(found[pk])


def wait_at_gate(wanted: Wanted, timeout: float, tell: Callable[[str], None]) -> Verdict:
    """Look at a gate until it is open, or one of its migrations has failed, or `timeout` seconds are over.

    tell: gets a line whenever something has changed. Raises OperationalError when the database is away for too long.
    """
    deadline = time.monotonic() + timeout
    told: list[str] = []
    while True:
        verdict = _patiently(lambda: lifecycle.judge(wanted), deadline)
        lines = words.gate(asdict(verdict))
        for line in lines:
            if line not in told:
                tell(line)
        told, left = lines, deadline - time.monotonic()
        if left <= 0 or verdict.state in (gate.PASS, gate.FAILED):
            return verdict
        time.sleep(min(POLL_SECONDS, left))


def _read(pks: list[int], deadline: float) -> list[AsyncMigrationStatus]:
    return _patiently(lambda: list(lifecycle.rows().filter(pk__in=pks)), deadline)


def _patiently(read: Callable[[], T], deadline: float) -> T:
    """Return what is read, also from a database that is restarted meanwhile."""
    give_up = min(deadline, time.monotonic() + PATIENCE_SECONDS)
    while True:
        try:
            return read()
        except (OperationalError, InterfaceError):
            connections[conf.control_database].close()
            if time.monotonic() >= give_up:
                raise
            time.sleep(POLL_SECONDS)
