"""Sessions that ended well, kept a while for the next use: connecting is most of what a short migration costs.

Whatever is unusual about a session closes it: nothing that one use left behind may meet the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..conf import conf
from ..errors import ExecutionError
from .session import Session

# From connecting, in use or not: what is set for a role or a database (ALTER ROLE ... SET) holds for new connections.
LONGEST_SECONDS = 60.0


class Pool:
    """The sessions that a process keeps for one purpose, none until it is told to.

    room: returns how many it keeps of a database. patience: as `Session` takes it.
    """

    def __init__(self, room: Callable[[], int], patience: int | None = None) -> None:
        self._room, self._patience = room, patience
        self._lock = threading.Lock()
        self._kept: list[Session] = []
        self._keeps = False

    def keep(self) -> None:
        """Keep sessions from now on."""
        self._keeps = True

    def end(self) -> None:
        """Close what is kept, and keep none any more."""
        self._keeps = False
        self.close_old(0)

    def borrow(self, alias: str, application_name: str) -> Session:
        """Return a session like a new one: one that was kept and still lives, or a new one. Raises ExecutionError."""
        while (session := self._take(alias)) is not None:
            try:
                if _is_young(session) and session.is_up_to_date():
                    session.begin(application_name)
                    return session
            except ExecutionError:  # Its server process has ended meanwhile, or its server.
                pass
            session.close()
        return Session(alias, application_name, patience=self._patience)

    def clear(self, session: Session) -> bool:
        """Free a session of all that was left in it, or close it; say whether it may be given back."""
        try:
            if self._keeps and _is_young(session):
                session.forget()
                return True
        except ExecutionError:
            pass
        session.close()
        return False

    def give_back(self, session: Session) -> None:
        """Keep a session that is clear, if there are not as many as can be used at once."""
        with self._lock:
            beside = sum(kept.alias == session.alias for kept in self._kept)
            if self._keeps and beside < self._room():
                self._kept.append(session)
                return
        session.close()

    def close_old(self, seconds: float = LONGEST_SECONDS) -> None:
        """Close what was opened longer ago."""
        with self._lock:
            old = [session for session in self._kept if not _is_young(session, seconds)]
            self._kept = [session for session in self._kept if session not in old]
        for session in old:
            session.close()

    def _take(self, alias: str) -> Session | None:
        with self._lock:
            found = next((session for session in reversed(self._kept) if session.alias == alias), None)
            if found is not None:
                self._kept.remove(found)
        return found


def _is_young(session: Session, seconds: float = LONGEST_SECONDS) -> bool:
    return time.monotonic() - session.opened_at < seconds


#: The sessions of the attempts that this process carries out; only a worker keeps any.
sessions = Pool(lambda: conf.max_running_per_database)
