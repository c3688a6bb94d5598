"""How many requests a minute one token, or one person's session, may make.

The count is in the control database, so that it holds for all processes and machines. It is not written with every
request: a process has a share of the minute granted at a time, and spends that from its memory. So the limit is never
exceeded; what a process was granted and does not need is lost to the others for the rest of the minute, which at the
default is at most half a percent for each.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from django.db import connections
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from ..conf import conf
from ..models import AsyncMigrationRate
from .origin import token_of

_SHARES = 200  # in a minute; also the most that one caller has us write in it
_GRANT = """
WITH clock AS (SELECT extract(epoch FROM statement_timestamp()) AS now),
granted AS (
    INSERT INTO {table} AS rate (caller, minute, granted)
    SELECT %(caller)s, floor(now / 60), %(share)s FROM clock
    ON CONFLICT (caller) DO UPDATE
    SET minute = EXCLUDED.minute,
        granted = CASE WHEN rate.minute = EXCLUDED.minute THEN rate.granted ELSE 0 END + EXCLUDED.granted
    WHERE rate.minute <> EXCLUDED.minute OR rate.granted + EXCLUDED.granted <= %(limit)s
    RETURNING 1
)
SELECT EXISTS (SELECT FROM granted), (60 - mod(now, 60))::float FROM clock
"""


@dataclass
class _Share:
    """What is left of what this process was granted, until a time of its monotonic clock."""

    until: float
    left: int = 0
    last: bool = False  # The database has said that there is no more.

    def spend(self) -> float:
        """Spend one request; return 0.0, or the seconds until the minute is over."""
        if not self.left:
            return max(0.001, self.until - time.monotonic())
        self.left -= 1
        return 0.0


class Shares:
    """The shares of this process, by caller."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, _Share] = {}

    def spend(self, caller: str, limit: int) -> float:
        """Spend one request of so many a minute; return 0.0, or the seconds until there is something to spend again."""
        with self._lock:
            share = self._lasting(caller)
            if share is not None and (share.left or share.last):
                return share.spend()
        granted, seconds = _grant(caller, limit)
        with self._lock:
            share = self._lasting(caller)
            if share is None:
                self._forget_expired()
                share = self._of[caller] = _Share(time.monotonic() + seconds)
            # Added, not set: another thread may have had one granted at the same moment.
            share.left += granted
            share.last = not granted
            return share.spend()

    def _lasting(self, caller: str) -> _Share | None:
        share = self._of.get(caller)
        return share if share is not None and share.until > time.monotonic() else None

    def _forget_expired(self) -> None:
        now = time.monotonic()
        self._of = {caller: share for caller, share in self._of.items() if share.until > now}


class RateLimit(BaseThrottle):
    """Refuse, for the rest of the minute, who has made as many requests as `ASYNC_MIGRATIONS_RATE_LIMIT` says."""

    shares = Shares()
    seconds = 0.0

    def allow_request(self, request: Request, view: APIView) -> bool:
        if (limit := conf.rate_limit) is not None:
            self.seconds = self.shares.spend(_caller(request), limit)
        return not self.seconds

    def wait(self) -> float:
        """Return the seconds until the next minute of the database's clock."""
        return self.seconds


def _caller(request: Request) -> str:
    """Name the token, or for a session the user."""
    token = token_of(request)
    return f"token:{token}" if token else f"user:{request.user.pk}"


def _grant(caller: str, limit: int) -> tuple[int, float]:
    """Have a share of this minute granted; return its size, 0 when there is none, and the seconds until it is over."""
    share = max(1, limit // _SHARES)
    statement = _GRANT.format(table=AsyncMigrationRate._meta.db_table)
    with connections[conf.control_database].cursor() as cursor:
        cursor.execute(statement, {"caller": caller, "share": share, "limit": limit})
        granted, seconds = cursor.fetchone()
    return (share if granted else 0), seconds
