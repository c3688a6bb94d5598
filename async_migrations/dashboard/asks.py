"""What people press: each button asks `asking` or `lifecycle`, as everybody else does, and says what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect
from django.urls import reverse

from .. import asking, lifecycle
from ..errors import NotAllTried, PreflightFailed, TransitionRefused
from ..lifecycle import Channel
from ..models import AsyncMigrationHold, AsyncMigrationStatus
from ..rest.origin import origin_of
from ..states import Status
from .door import door, page, require, sorry
from .pages import OF_MANY

_SAID = 20  # refusals that are told one by one


@door("GET", "HEAD", "POST")
def one(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Ask for a verb; for a dangerous one after its name was typed. GET shows what would be asked for."""
    forced = verb == "force"
    if verb not in asking.LABELS and not forced:
        return sorry(request, 404, "There is no such page", "The address names nothing that can be asked for.")
    row = lifecycle.get(pk)
    require(request, verb, row)
    if forced:
        require(request, "run", row)
    typed = request.POST.get("name", "").strip()
    wrong = _is_dangerous(verb, row) and typed not in (row.name, last_part(row.name))
    if request.method != "POST" or wrong:
        context = {
            "row": row,
            "verb": verb,
            "named": _is_dangerous(verb, row),
            "wrong": typed,
            "last": last_part(row.name),
        }
        return page(request, "confirm", context, status=400 if typed else 200)
    return carry_out(request, row, "run" if forced else verb, force=forced)


def carry_out(request: HttpRequest, row: AsyncMigrationStatus, verb: str, **terms: Any) -> HttpResponseRedirect:
    """Ask for a verb, and lead to where what became of it is told. terms: what `asking.ask` takes besides."""
    origin = origin_of(request, Channel.DASHBOARD)
    try:
        answer = asking.ask(verb, row.pk, origin, **terms)
    except PreflightFailed as exc:
        asking.refused(verb, origin, exc, row)
        messages.error(request, str(exc))
        return redirect("dashboard:preflight", pk=row.pk)
    except TransitionRefused as exc:
        asking.refused(verb, origin, exc, row)
        messages.error(request, str(exc))
    else:
        messages.add_message(request, messages.SUCCESS if answer.changed else messages.INFO, asking.tell(answer))
    return redirect("dashboard:detail", pk=row.pk)


@door("POST")
def many(request: HttpRequest) -> HttpResponse:
    """Ask for a verb on each of the chosen migrations, after one page that lists them."""
    verb = request.POST.get("verb", "")
    if verb not in OF_MANY:
        return sorry(request, 400, "Nothing was asked for", f"What several can be asked for: {', '.join(OF_MANY)}.")
    require(request, verb)
    back = _list_before(request)
    pks = [int(pk) for pk in request.POST.getlist("pk") if pk.isdecimal() and len(pk) < 19][: asking.MOST]
    rows = list(lifecycle.rows().filter(pk__in=pks).order_by("-id"))
    if not rows:
        messages.warning(request, "No migration is chosen. Tick the boxes in front of some, then press the button.")
        return redirect(back)
    typed = request.POST.get("name", "").strip()
    if not request.POST.get("confirmed") or typed not in _words(verb, rows):
        fitting = [row for row in rows if verb in asking.offered(row)]
        others = [row for row in rows if row not in fitting]
        word = _words(verb, fitting)[0]
        context = {"verb": verb, "rows": fitting, "others": others, "word": word, "wrong": typed, "back": back}
        return page(request, "many", context, status=400 if typed else 200)
    try:
        _tell(request, _each(verb, rows, request))
    except NotAllTried as exc:
        return sorry(request, 503, "Not all were tried", str(exc))
    return redirect(back)


def _list_before(request: HttpRequest) -> str:
    """Return the address of the list on which the rows were chosen; the form says its query and nothing else."""
    return reverse("dashboard:list", query=QueryDict(request.POST.get("query", "")))


def _each(verb: str, rows: Sequence[AsyncMigrationStatus], request: HttpRequest) -> list[tuple[str, str]]:
    """Return for each what became of it, one of `asking.OUTCOMES`, and why it was refused."""
    origin = origin_of(request, Channel.DASHBOARD)
    if verb != "rollback":
        items = asking.ask_each(verb, [row.pk for row in rows], origin, among=lifecycle.rows())
        return [(item.outcome, str(item.error or "")) for item in items]
    outcomes = []
    for row in rows:
        try:
            outcomes.append(("accepted" if asking.ask(verb, row.pk, origin).changed else "unchanged", ""))
        except TransitionRefused as exc:
            asking.refused(verb, origin, exc, row)
            outcomes.append(("refused", str(exc)))
        except AsyncMigrationStatus.DoesNotExist as exc:
            asking.refused(verb, origin, exc, row)
            outcomes.append(("not_found", ""))
    return outcomes


def _tell(request: HttpRequest, outcomes: Sequence[tuple[str, str]]) -> None:
    counts = {outcome: [said for kind, said in outcomes if kind == outcome] for outcome in asking.OUTCOMES}
    told = ", ".join(f"{len(found)} {outcome.replace('_', ' ')}" for outcome, found in counts.items() if found)
    messages.add_message(request, messages.SUCCESS if counts["accepted"] else messages.INFO, f"{told}.".capitalize())
    for said in counts["refused"][:_SAID]:
        messages.error(request, said)


@door("POST")
def lift(request: HttpRequest) -> HttpResponse:
    """End the hold whose button was pressed; one that has replaced it meanwhile stays."""
    pk = request.POST.get("hold", "")
    seen = lifecycle.holds().filter(pk=int(pk)).first() if pk.isdecimal() and len(pk) < 19 else None
    require(request, "lift", database=seen.database if seen else "")
    if seen is None:
        return sorry(request, 404, "There is no such hold", "Nothing was lifted. The overview shows what is held now.")
    if asking.lift(seen.database, origin_of(request, Channel.DASHBOARD), seen=seen.pk):
        messages.success(request, f"Lifted: {seen.database or 'all databases'}. What was held goes on.")
    else:
        messages.info(request, _instead_of(seen))
    return redirect("dashboard:overview")


def _instead_of(seen: AsyncMigrationHold) -> str:
    """Say what is the case where a hold was to be lifted that is not in force any more."""
    now = lifecycle.holds_in_force().filter(database=seen.database).first()
    if now is None:
        return "It was over already."
    return (
        f"Nothing was lifted: meanwhile another hold has replaced the one that you saw, “{now.reason}” by "
        f"{now.by or 'somebody'}. Lift that one if you mean it."
    )


def last_part(name: str) -> str:
    """Return the last part of a name, which is enough to type."""
    return name.rpartition(".")[2]


def _words(verb: str, rows: Sequence[AsyncMigrationStatus]) -> tuple[str, ...]:
    """Return what may be typed to have a verb carried out on these, the short one first; empty: nothing need be."""
    if not any(_is_dangerous(verb, row) for row in rows):
        return ("",)
    return (last_part(rows[0].name), rows[0].name) if len(rows) == 1 else (verb,)


def _is_dangerous(verb: str, row: AsyncMigrationStatus) -> bool:
    return verb in ("rollback", "force") or (verb == "cancel" and row.status == Status.IN_PROGRESS)
