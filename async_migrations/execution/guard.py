"""During a statement that takes its time: who queues behind it for the table, and what is done about that.

A statement of the SHARE UPDATE EXCLUSIVE class blocks neither readers nor writers. But an ALTER TABLE that queues
behind it does, for as long as it waits, and it would kill a concurrent build in its last wait.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from .. import lifecycle
from ..errors import ExecutionError
from ..lifecycle import Lease
from .session import Backend, Session

#: Seconds that a session may queue before it counts. A careful one, with a `lock_timeout` of its own, is mostly gone by
#: then; and it bounds the stall of the application.
QUEUED_SECONDS = 0.3

#: Seconds between two looks.
POLL_SECONDS = 0.1


#: How the names of our own sessions begin.
OURS = "async-migrations/"


class Mode(Enum):
    """What the guard does about a session that queues."""

    OFF = "off"
    REPORT = "report"
    PROTECT = "protect"


class Guard:
    """Looks after the tables of one statement while it runs."""

    def __init__(self, lease: Lease, mode: Mode, backend: Backend, tables: list[int]) -> None:
        self.lease, self.mode, self.backend, self.tables = lease, mode, backend, tables
        self._told: set[tuple[Any, ...]] = set()

    def look(self, session: Session) -> list[dict[str, Any]]:
        """Return who has queued for too long; tell of each once, and cancel it when protecting."""
        queued = session.all("queued", pid=self.backend.pid, tables=self.tables, seconds=QUEUED_SECONDS)
        for waiter in queued:
            cancelled, refusal = self._cancelled(session, waiter)
            key = (waiter["pid"], waiter["backend_start"], waiter["query"], cancelled)
            if key not in self._told:
                self._told.add(key)
                told = {**waiter, **({"not_cancelled": refusal} if refusal else {})}
                lifecycle.note(self.lease, "guard_cancel" if cancelled else "guard_report", **told)
        return queued

    def _cancelled(self, session: Session, waiter: dict[str, Any]) -> tuple[bool, str]:
        """Cancel who queues, when protecting; return whether that was done, and why it may not be."""
        if self.mode is not Mode.PROTECT or waiter["application_name"].startswith(OURS):
            return False, ""  # Another migration gives way by itself, and tries again.
        try:
            return bool(session.one("cancel_backend", **waiter)), ""
        except ExecutionError as error:
            if error.code != "not_allowed":
                raise
            return False, f"{error.message}; {error.detail or 'it takes the role pg_signal_backend'}"
