"""What tells an open page that it is no longer what it shows: a few columns of the rows that are on it.

Each page that is open asks every second and a half, and nearly always nothing has changed. So none of this grows with
the number of migrations: what is shown is found by an index, and counted up to a bound; what no index finds is looked
for when something has happened, and not before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial, reduce
from itertools import chain
from operator import or_
from typing import Any, TypeVar

from django.db import connections
from django.db.models import CharField, F, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce, Now
from django.http import QueryDict

from .. import lifecycle
from ..conf import conf
from ..models import AsyncMigrationEvent, AsyncMigrationStatus
from ..rest.door import OF_THE_TAG
from ..states import Status

#: How many are shown: migrations on a page of the list, and of each kind in the overview.
LISTED, FEW = 50, 12

#: How far is counted what may be very many.
MOST = 1_000

#: A migration that could have begun this long ago, and has not, wants somebody to look.
LONG_IN_LINE = timedelta(minutes=15)

#: So many events tell that something has happened: also one that commits after others that were written after it.
NEWEST = 20

#: For so long what was found is taken for true while nothing has happened, in seconds: a row may go, a day may end.
TRUE_FOR = 60.0

#: How many questions are remembered with what was found.
REMEMBERED = 500

#: A session that has kept one waiting, and has done the same for so long, is none that comes to its end by itself soon:
#: a transaction of an application takes seconds, and a report minutes.
LONG_IN_THE_WAY = timedelta(minutes=5)

#: How many of the sessions that a migration waits for are looked at: who is first in the way of it.
_IN_THE_WAY = 5

#: Every write of `lifecycle` sets `updated_at`.
_TAG = ("pk", *OF_THE_TAG)
_LAST_CHANGED = (F("updated_at").desc(), "pk")

# Stands in the parameters for the id that is asked for; of several for the first, the next numbers for the others.
_PK = -(2**62)

# By question: when it was looked for, what it depended on, and what was found.
_FOUND: dict[Hashable, tuple[float, Any, Any]] = {}

T = TypeVar("T")
Tag = tuple[Any, ...]
Rows = QuerySet[Any, Any]
Migrations = QuerySet[AsyncMigrationStatus]


@dataclass(frozen=True)
class Page:
    """A page of the list. tags: of its rows, in order. further: whether there is a next page. count: up to MOST + 1."""

    number: int
    tags: list[Tag]
    further: bool
    count: int

    @property
    def first(self) -> int:
        """Place of its first row among all."""
        return (self.number - 1) * LISTED + 1

    @property
    def last(self) -> int:
        """Place of its last row."""
        return self.first + len(self.tags) - 1


def overview() -> tuple[dict[str, list[Tag]], dict[str, tuple[int, int]]]:
    """Return the tags of what wants a person, what goes on and what waits, each at most FEW and the first one first.

    And of each kind, how many were found, which are FEW where there may be more, and how many of them are among those.
    """
    found: dict[str, list[Tag]] = {name: [] for name in _PARTS}
    together = connections[conf.control_database].features.supports_slicing_ordering_in_compound
    for part, *tag in _ask(_all_parts) if together else chain.from_iterable(map(_ask, _EACH_PART)):
        found[part].append(tuple(tag))
    # Those in progress by their ids: they change with each heartbeat, and would change places on the page.
    stuck = sorted({*found["blocked"], *found["queue"]}, reverse=True)
    others = chain(found["failed"], found["set_aside"], found["late"])
    troubled = stuck + sorted(others, key=lambda tag: tag[_TAG.index("updated_at")], reverse=True)
    parts = {"troubled": troubled[:FEW], "going": sorted(found["going"], reverse=True), "waiting": found["waiting"]}
    shown = {kind: parts.get(kind, parts["troubled"]) for kind in found}
    return parts, {kind: (len(tags), len({*tags} & {*shown[kind]})) for kind, tags in found.items()}


def listing(rows: Callable[[], Migrations], asked: QueryDict) -> Page:
    """Return a page of the rows that are asked for.

    asked: the address, with the number of the page: the first where that makes no sense, the last where it is less.
    """
    question = asked.urlencode()
    # What a heartbeat writes moves a row in no other order.
    changed = _ask(_changed) if "updated_at" in question else None
    key = ("list", conf.control_database, question)
    look = partial(remembered, key, lambda: _page(rows(), asked.get("page")), changed)
    found = look()
    tags = _tags(found.tags)
    if len(tags) < len(found.tags):
        _FOUND.pop(key, None)  # What is deleted by hand has no event.
        found = look()
        tags = _tags(found.tags)
    return replace(found, tags=tags)


def remembered(question: Hashable, look: Callable[[], T], depends: Any = None) -> T:
    """Return what is found by a look that may take long; it is not taken again while nothing has happened.

    question: what is looked for. depends: what else the answer depends on, beside what has an event.
    """
    # Asked before the look: what happens meanwhile is then looked for once more, and never missed.
    depends = (_ask(_newest_events), depends)
    at, before, found = _FOUND.get(question, (0.0, None, None))
    if before == depends and time.monotonic() - at < TRUE_FOR:
        return found  # type: ignore[no-any-return]
    now, looked = time.monotonic(), look()
    if len(_FOUND) >= REMEMBERED:
        _FOUND.clear()
    _FOUND[question] = now, depends, looked
    return looked


def going(among: Migrations) -> list[Tag]:
    """Return what a gate says of those that are in progress, and which of those in line is the next to come due."""
    waits = _waiting().alias(wanted_at=Coalesce("run_at", "requested_at")).filter(wanted_at__gt=Now())
    under_way = among.filter(status=Status.IN_PROGRESS).order_by("pk").values_list("pk", "phase", "progress_percent")
    return [*under_way, *waits.order_by("wanted_at").values_list("run_at")[:1]]


def one(pk: int) -> tuple[str, Tag]:
    """Return the database of a migration and its tag, which tells of a new event too; DoesNotExist if there is none."""
    for database, *tag in _ask(_of_one, pk):
        return database, tuple(tag)
    raise AsyncMigrationStatus.DoesNotExist


def holds(database: str | None = None) -> list[int]:
    """Return the ids of the holds in force, with `database` of those that apply there; a changed one is another one."""
    return [pk for pk, of in _ask(_holds) if database is None or of in ("", database)]


def tag_of_row(row: AsyncMigrationStatus) -> Tag:
    """Return the tag of a row."""
    return tuple(getattr(row, name) for name in _TAG)


def in_full(tags: Iterable[Tag]) -> list[AsyncMigrationStatus]:
    """Return the rows with these tags, in their order, without what is long; one that is gone is left out."""
    order = [tag[0] for tag in tags]
    found = lifecycle.rows().defer("sql_forwards", "sql_backwards", "sql_digest", "options").in_bulk(order)
    return [found[pk] for pk in order if pk in found]


# --- what is asked for: its SQL is made once in a process, which takes longer than the answer does ---


def _ask(make: Callable[..., Rows], *pks: int) -> list[Tag]:
    """Return what is found; pks: what `make` is called with."""
    sql, parameters = _sql(make, conf.control_database, len(pks))
    wanted = dict(enumerate(pks, _PK))
    with connections[conf.control_database].cursor() as cursor:
        cursor.execute(sql, [wanted.get(given, given) for given in parameters] if wanted else parameters)
        return list(cursor.fetchall())


@cache
def _sql(make: Callable[..., Rows], using: str, count: int) -> tuple[str, tuple[Any, ...]]:
    sql, parameters = make(*range(_PK, _PK + count)).query.get_compiler(using).as_sql()
    return sql, tuple(parameters)


def _failed() -> Migrations:
    return lifecycle.rows().filter(status=Status.ERROR).order_by(*_LAST_CHANGED)


def _set_aside() -> Migrations:
    return lifecycle.rows().filter(status=Status.FINISHED, quarantined__gt=0).order_by(*_LAST_CHANGED)


def _blocked() -> Migrations:
    least = LONG_IN_THE_WAY.total_seconds()
    ages = (Q(**{f"waiting_on__{place}__seconds__gte": least}) for place in range(_IN_THE_WAY))
    return _going().exclude(waiting_on=[]).filter(reduce(or_, ages))


def _late() -> Migrations:
    wanted = _waiting().alias(wanted_at=Coalesce("run_at", "requested_at"))
    return wanted.filter(wanted_at__lt=Now() - LONG_IN_LINE).order_by("wanted_at")


def _queue() -> Migrations:
    return _going().exclude(queued_behind=[])


def _going() -> Migrations:
    return lifecycle.rows().filter(status=Status.IN_PROGRESS).order_by(*_LAST_CHANGED)


def _waiting() -> Migrations:
    return lifecycle.rows().filter(status=Status.STARTED).order_by("-priority", "requested_at", "pk")


def _part(name: str) -> Rows:
    return _PARTS[name]().annotate(part=Value(name, CharField())).values_list("part", *_TAG)[:FEW]


def _all_parts() -> Rows:
    first, *others = (make() for make in _EACH_PART)
    return first.union(*others, all=True)


def _of_one(pk: int) -> Rows:
    events = AsyncMigrationEvent.objects.filter(migration_id=pk).order_by("-id").values("pk")[:1]
    return lifecycle.rows().filter(pk=pk).order_by().values_list("database", *_TAG, Subquery(events))


def _of_these(*pks: int) -> Rows:
    return lifecycle.rows().filter(pk__in=pks).order_by().values_list(*_TAG)


def _holds() -> Rows:
    return lifecycle.holds_in_force().values_list("pk", "database")


_PARTS: dict[str, Callable[[], Migrations]] = {
    "failed": _failed,
    "set_aside": _set_aside,
    "late": _late,
    "blocked": _blocked,
    "queue": _queue,
    "going": _going,
    "waiting": _waiting,
}
_EACH_PART = tuple(partial(_part, name) for name in _PARTS)


def _newest_events() -> Rows:
    return AsyncMigrationEvent.objects.order_by("-id").values_list("pk", "created_at")[:NEWEST]


def _changed() -> Rows:
    return lifecycle.rows().order_by("-updated_at", "-id").values_list("pk", "updated_at")[:LISTED]


def _page(rows: Migrations, asked: str | None) -> Page:
    """Return a page with the keys of its rows, which an index says by itself, in the place of their tags."""
    number = max(1, int(asked)) if asked and asked.isdecimal() and len(asked) < 10 else 1
    keys = _keys(rows, number)
    if not keys and number > 1:
        number = max(1, -(-rows.count() // LISTED))
        keys = _keys(rows, number)
    further = len(keys) > LISTED
    count = (number - 1) * LISTED + len(keys)
    if further and count <= MOST:
        count = rows.order_by()[: MOST + 1].count()
    return Page(number, keys[:LISTED], further, count)


def _keys(rows: Migrations, number: int) -> list[Tag]:
    """Return the keys of a page and of one row more."""
    start = (number - 1) * LISTED
    return list(rows.values_list("pk")[start : start + LISTED + 1])


def _tags(keys: Iterable[Tag]) -> list[Tag]:
    """Return the tags of the rows with these keys, in their order, as they are now."""
    order = [pk for pk, *_ in keys]
    found = {tag[0]: tuple(tag) for tag in _ask(_of_these, *order)} if order else {}
    return [found[pk] for pk in order if pk in found]
