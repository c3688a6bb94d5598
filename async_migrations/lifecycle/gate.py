"""Whether what depends on migrations may go on: asked over HTTP, at the command line, and by `require_finished`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from django.apps import apps
from django.db.migrations.loader import MigrationLoader
from django.db.models import Case, Count, IntegerField, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Length, Reverse, StrIndex, Substr
from django.utils import timezone

from ..models import AsyncMigrationHold, AsyncMigrationStatus
from ..states import Direction, Status, StopRequest
from .hold import databases, holds_in_force
from .moves import rows

PASS, PENDING, BLOCKED, FAILED = "pass", "pending", "blocked", "failed"
#: The states, from the best to the worst; a gate is as good as the worst that it asks for.
STATES = (PASS, PENDING, BLOCKED, FAILED)

#: How many names, prefixes and app labels may be asked for at once, and how many reasons are given at most.
MOST = 100

_STATE_OF = {
    Status.FINISHED: PASS,
    Status.STARTED: PENDING,
    Status.IN_PROGRESS: PENDING,
    Status.SCHEDULED: BLOCKED,
    Status.PAUSED: BLOCKED,
    Status.ERROR: FAILED,
    Status.CANCELLED: FAILED,
    Status.ROLLED_BACK: FAILED,
}


@dataclass(frozen=True)
class Wanted:
    """The migrations that have to be FINISHED: all that have one of the names, begin so, or are of one of the apps.

    database: only on this target; without it the rows of a name on several targets all count. known: only these
    targets are there for who asks; None: all.
    """

    names: Sequence[str] = ()
    prefixes: Sequence[str] = ()
    apps: Sequence[str] = ()
    database: str | None = None
    known: Collection[str] | None = None


@dataclass(frozen=True)
class Reason:
    """Why a gate is shut, for one migration. id, status: None where there is no such migration."""

    id: int | None
    name: str
    database: str | None
    status: str | None
    state: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What a gate says: one of STATES, how many migrations it has looked at, and why it is not open, worst first.

    `more` reasons are left out.
    """

    state: str
    checked: int
    reasons: list[Reason]
    more: int


@dataclass(frozen=True)
class Standing:
    """How the migrations of one package stand: all whose names begin with `prefix` and go on without a dot.

    app: label of the installed app whose they are, None for a package that is nobody's here. state: what a gate for
    them says. finished, count: how many are FINISHED, and how many there are.
    """

    prefix: str
    app: str | None
    state: str
    finished: int
    count: int


def judge(wanted: Wanted) -> Verdict:
    """Say whether all that is wanted is FINISHED. What nobody has recorded yet keeps the gate shut."""
    asked_for = matched(wanted)
    holds = list(holds_in_force())
    # Before what is there is counted: what is recorded between the two looks is then in both, and never in neither.
    names = set(asked_for.filter(name__in=wanted.names).order_by().values_list("name", flat=True))
    unknown = list(_unknown(wanted, names, _begun(wanted)))
    counts = list(asked_for.order_by().values_list("status", "database").annotate(count=Count("pk")))
    if not counts:  # Also where somebody has deleted all of it between the two.
        unknown = list(_unknown(wanted, (), ()))
    states = {_state(status, database, holds) for status, database, _ in counts} | {reason.state for reason in unknown}
    shut = sum(count for status, _, count in counts if status != Status.FINISHED)
    found = [_reason(row, holds) for row in _worst(asked_for)] if shut else []
    reasons = sorted([*unknown, *found], key=lambda reason: -STATES.index(reason.state))[:MOST]
    return Verdict(
        state=max(states, key=STATES.index, default=PASS),
        checked=sum(count for _, _, count in counts),
        reasons=reasons,
        more=max(0, shut + len(unknown) - len(reasons)),
    )


def survey(database: str | None = None) -> list[Standing]:
    """Say how the migrations of each package stand, on one database or on all, the worst first.

    One query, which an index answers by itself.
    """
    holds = list(holds_in_force())
    here = rows() if database is None else rows().filter(database=database)
    upto_last_dot = Substr("name", 1, Length("name") - StrIndex(Reverse("name"), Value(".")) + 1)
    by = here.order_by().annotate(prefix=upto_last_dot).values_list("prefix", "status", "database")
    counts: dict[str, list[tuple[str, str, int]]] = {}
    for prefix, *count in by.annotate(count=Count("*")):
        counts.setdefault(prefix, []).append(tuple(count))
    labels = {prefix_of_app(label): label for label in apps.app_configs}
    found = [_standing(prefix, labels.get(prefix), its, holds) for prefix, its in counts.items()]
    return sorted(found, key=lambda standing: (-STATES.index(standing.state), standing.prefix))


def prefix_of_app(label: str) -> str:
    """Return how the migrations of an app begin; an app that is not installed here has them where Django looks."""
    module = MigrationLoader.migrations_module(label)[0] if label in apps.app_configs else None
    return f"{module or f'{label}.migrations'}."


def _standing(
    prefix: str, app: str | None, counts: Sequence[tuple[str, str, int]], holds: Sequence[AsyncMigrationHold]
) -> Standing:
    state = max((_state(status, database, holds) for status, database, _ in counts), key=STATES.index)
    finished = sum(count for status, _, count in counts if status == Status.FINISHED)
    return Standing(prefix, app, state, finished, sum(count for _, _, count in counts))


def _here(wanted: Wanted) -> QuerySet[AsyncMigrationStatus]:
    here = rows() if wanted.database is None else rows().filter(database=wanted.database)
    return here if wanted.known is None else here.filter(database__in=wanted.known)


def matched(wanted: Wanted) -> QuerySet[AsyncMigrationStatus]:
    """Return all migrations that are asked for."""
    any_of = Q(name__in=wanted.names)
    for prefix in _prefixes(wanted):
        any_of |= Q(name__startswith=prefix)
    return _here(wanted).filter(any_of)


def _prefixes(wanted: Wanted) -> list[str]:
    return [*wanted.prefixes, *map(prefix_of_app, wanted.apps)]


def _worst(matched: QuerySet[AsyncMigrationStatus]) -> QuerySet[AsyncMigrationStatus]:
    """Return the MOST worst of those that keep the gate shut, the worst first."""
    by_state = {state: [status for status, its in _STATE_OF.items() if its == state] for state in STATES}
    rank = Case(
        *(When(status__in=by_state[state], then=Value(-place)) for place, state in enumerate(STATES)),
        output_field=IntegerField(),
    )
    order = (rank, "name", "database")
    # Which they are an index says by itself; only they are read.
    worst = matched.exclude(status=Status.FINISHED).order_by(*order).values("pk")[:MOST]
    return rows().filter(pk__in=worst).defer("sql_forwards", "sql_backwards", "options").order_by(*order)


def _begun(wanted: Wanted) -> set[str]:
    """Return with which of the prefixes that are asked for some name begins.

    One query, for each prefix a part that an index answers with one row.
    """
    here = _here(wanted).order_by()
    parts = [
        here.filter(name__startswith=each).values_list(Value(each, TextField()), flat=True)[:1]
        for each in _prefixes(wanted)
    ]
    return set(here.none().values_list("name", flat=True).union(*parts, all=True))


def _unknown(wanted: Wanted, names: Collection[str], begun: Collection[str]) -> Iterator[Reason]:
    """Yield a reason for everything that is asked for and that no migration is.

    names: that some have. begun: prefixes with which some begin.
    """
    missing = [
        *((name, "of this name") for name in dict.fromkeys(wanted.names) if name not in names),
        *((prefix, "that begins like this") for prefix in dict.fromkeys(wanted.prefixes) if prefix not in begun),
        *(
            (label, f"of this app, none that begins with {prefix!r}")
            for label in dict.fromkeys(wanted.apps)
            if (prefix := prefix_of_app(label)) not in begun
        ),
    ]
    where = _where(wanted) if missing else ""
    for name, which in missing:
        detail = (
            f"There is no migration {which}{where}. Look at the spelling, or let `migrate` record it first. One whose "
            "file was renamed or squashed since goes by the name under which it was recorded. A file that was applied "
            "with --fake has recorded none: go back before it with --fake, then migrate."
        )
        yield Reason(None, name, wanted.database, None, BLOCKED, detail)


def _where(wanted: Wanted) -> str:
    """Say on which database was looked, and which there are if that is none of them."""
    if wanted.database is None:
        return ""
    there = [alias for alias in databases() if wanted.known is None or alias in wanted.known]
    other = "" if wanted.database in there else f", which is not a target here (there are: {', '.join(there)})"
    return f" on database {wanted.database}{other}"


def _state(status: str, database: str, holds: Sequence[AsyncMigrationHold]) -> str:
    held = status == Status.STARTED and _holding(database, holds)
    return BLOCKED if held else _STATE_OF[Status(status)]


def _holding(database: str, holds: Sequence[AsyncMigrationHold]) -> AsyncMigrationHold | None:
    return next((hold for hold in holds if hold.database in ("", database)), None)


def _reason(row: AsyncMigrationStatus, holds: Sequence[AsyncMigrationHold]) -> Reason:
    hold = _holding(row.database, holds) if row.status == Status.STARTED else None
    detail = f"It is {hold}. {_when_lifted(hold)}" if hold else _detail(row)
    return Reason(row.pk, row.name, row.database, row.status, _state(row.status, row.database, holds), detail)


def _when_lifted(hold: AsyncMigrationHold) -> str:
    option, query = (f" --database {hold.database}", f"?database={hold.database}") if hold.database else ("", "")
    ways = f"manage.py async_migrations lift{option}, or DELETE .../async-migrations/hold{query}"
    return f"It goes on when that ends, or somebody lifts it: {ways}."


def _detail(row: AsyncMigrationStatus) -> str:
    """Say what keeps a migration from being FINISHED, and what to do."""
    backwards = row.direction == Direction.BACKWARDS
    if row.status == Status.SCHEDULED:
        return "Nobody has asked for it yet: `run` does."
    if row.status == Status.PAUSED:
        turned = "Its rollback is paused: `run` carries it out again."
        return turned if backwards else "Somebody has paused it: `resume` goes on."
    if row.status == Status.ERROR:
        message = str(row.meta.get("error", {}).get("message", "no reason is recorded")).rstrip(".")
        return f"It ended in ERROR: {message}. Correct that, then `run`."
    if row.status == Status.CANCELLED:
        return "Somebody has cancelled it: `run` begins again."
    if row.status == Status.ROLLED_BACK:
        return "It was rolled back: `run` carries it out again."
    if row.stop_requested:
        return f"Somebody has asked to {StopRequest(row.stop_requested).value} it: when that is done, `run` goes on."
    if backwards:
        return "It is being rolled back: when that is through, `run` carries it out again."
    if row.status == Status.STARTED:
        later = row.run_at is not None and row.run_at > timezone.now()
        when = f", not before {row.run_at.isoformat(timespec='seconds')}" if row.run_at and later else ""
        return f"It is in line for a worker{when}."
    percent = "" if row.percent is None else f", {row.percent:.1f} %"
    return f"It is in progress{percent}: {row.phase or 'attempt ' + str(row.attempt)}."
