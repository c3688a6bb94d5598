"""The ranges of a backfill in the target: who is at work in one, and how far it is there.

A lane has a lease of its own, on the target's clock, that every batch renews as it commits, and a thread beside it. The
token in it is what a batch needs to commit; whoever takes the lane over changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from ..conf import conf
from ..models import AsyncMigrationStatus
from .definition import Definition
from .keyset import Key, Keyset
from .session import Session


@dataclass(frozen=True)
class Piece:
    """Rows behind `after` up to `upto`, all of them or those of one part."""

    after: Key | None
    upto: Key
    part: int | None = None


@dataclass(frozen=True)
class Place:
    """How far a lane is: what commits together with the rows of a batch.

    cursor: the last key behind which nothing is left but what is deferred; None: nothing is done. stretch: the last key
    of the stretch under way behind the cursor, and part: the first of its parts that is not done; None: there is no
    such. deferred: what was passed over, because others had rows of it locked or rows of it are bad.
    """

    cursor: Key | None
    stretch: Key | None = None
    part: int = 0
    deferred: tuple[Piece, ...] = ()

    def deferring(self, piece: Piece) -> Place:
        """Return the place with one more piece passed over."""
        return replace(self, deferred=(*self.deferred, piece))

    def without(self, piece: Piece, *instead: Piece) -> Place:
        """Return the place with others instead of a piece that is deferred, or none."""
        at = self.deferred.index(piece)
        return replace(self, deferred=(*self.deferred[:at], *instead, *self.deferred[at + 1 :]))


@dataclass
class Lane:
    """One range, as it is known to whoever holds it: the rows behind `first` up to `last`."""

    number: int
    first: Key | None
    last: Key
    place: Place
    batch_size: int | None
    token: str = field(repr=False)

    @property
    def reached(self) -> Key | None:
        """The key behind which the walk goes on."""
        return self.first if self.place.cursor is None else self.place.cursor

    @property
    def walked(self) -> bool:
        """Whether the walk has come to the last key; what was deferred may be left."""
        return self.place.cursor == self.last


@dataclass(frozen=True)
class State:
    """All lanes together.

    free: those that nobody is at work in. rows_done: changed in all of them. batch_size: rows, on average of those that
    somebody is at work in, None before the first batch.
    """

    lanes: int
    unfinished: int
    rows_done: int
    free: int
    bad_rows: int
    batch_size: int | None


class Lanes:
    """The lanes of one migration. Each method raises ExecutionError where the target does not answer."""

    def __init__(self, session: Session, migration: AsyncMigrationStatus) -> None:
        self._session = session
        self._name, self._migration_id = migration.name, migration.pk

    def prepare(self, definition: Definition, keyset: Keyset, count: int) -> bool:
        """Let the lanes be those of this definition: the ones that are there, or new ones from the start.

        Returns whether they are new.
        """
        with self._session.transaction():
            known = self._session.all("lanes", name=self._name)
            ours = {(lane["digest"], lane["migration_id"]) for lane in known} == {
                (definition.digest, self._migration_id)
            }
            if ours:
                self._session.change("open_lanes", name=self._name)
                return False
            self.drop()
            last = keyset.last()
            bounds = [None, *(keyset.cuts(count) if count > 1 else []), last]
            for number, (first, upto) in enumerate(pairwise(bounds)):
                if upto is not None and first != upto:
                    self._add(definition, number, first, upto)
        return True

    def add_sweep(self, definition: Definition) -> None:
        """Add a lane over all of them, for rows that were written meanwhile."""
        known = self._session.all("lanes", name=self._name)
        self._add(definition, known[-1]["number"] + 1, None, self.last() or [])

    def last(self) -> Key | None:
        """Return the last key of the walk: that of the table when it began; None when the table was empty."""
        found = self._session.all("last_key", name=self._name)
        return found[0]["last"] if found else None

    def drop(self) -> None:
        """Remove the lanes, and the rows that were set aside in them."""
        self._session.change("drop_lanes", name=self._name)
        self._session.change("drop_bad_rows", name=self._name)

    def take(self, definition: Definition, token: str, worker: str) -> Lane | None:
        """Take a lane of this definition that nobody is at work in, or return None: there is none."""
        holder = {"token": token, "worker": worker[:255], "lease": conf.lease_seconds}
        found = self._session.all("take_lane", **self._whose, digest=definition.digest, **holder)
        if not found:
            return None
        row = found[0]
        deferred = tuple(Piece(**piece) for piece in row["deferred"])
        place = Place(row["cursor"], row["stretch"], row["part"], deferred)
        return Lane(row["number"], row["first"], row["last"], place, row["batch_size"], token)

    def keep(self, token: str) -> None:
        """Renew the lease of the lanes that are held by a token: a batch may take longer than one."""
        self._session.change("keep_lanes", name=self._name, token=token, lease=conf.lease_seconds)

    def leave(self, lane: Lane) -> None:
        """Give a lane back, if it still is the holder's."""
        self._session.change("leave_lane", **self._which(lane))

    def shut(self) -> None:
        """See that nobody commits in any lane any more, and end what other workers have under way in them."""
        self._session.change("shut_lanes", name=self._name)
        for backend in self._session.all("lane_backends", pattern=f"{lane_application_name(self._migration_id)}%"):
            self._session.one("cancel_backend", **backend)

    def state(self) -> State:
        """Return how far all of them are."""
        return State(**self._session.one("lanes_state", **self._whose))

    @property
    def _whose(self) -> dict[str, Any]:
        return {"name": self._name, "migration_id": self._migration_id}

    def _which(self, lane: Lane) -> dict[str, Any]:
        return {"name": self._name, "number": lane.number, "token": lane.token}

    def _add(self, definition: Definition, number: int, first: Key | None, last: Key) -> None:
        self._session.change("add_lane", **self._whose, number=number, digest=definition.digest, first=first, last=last)


def lane_application_name(migration_id: int) -> str:
    """Return how the session of a worker is called that helps with a lane."""
    return f"async-migrations/{migration_id}/lane"
