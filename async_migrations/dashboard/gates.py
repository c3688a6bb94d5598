"""Whether what depends on migrations may go on: the answer of the API's gate, with where to go next."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from .. import asking, lifecycle
from ..conf import conf
from ..later_files import needing
from ..lifecycle import Verdict, Wanted, gate
from ..lifecycle.gate import Reason
from ..models import AsyncMigrationHold
from ..states import Status
from . import watch
from .door import door, live, may

logger = logging.getLogger("async_migrations")

#: How many packages are shown at most.
SHOWN = 100

# What brings a migration on from where it is; the others need nobody.
_VERBS = {
    Status.SCHEDULED: "run",
    Status.PAUSED: "resume",
    Status.ERROR: "run",
    Status.CANCELLED: "run",
    Status.ROLLED_BACK: "run",
}


@door("GET", "HEAD")
def gates(request: HttpRequest) -> HttpResponse:
    """Show what the gate says to what the address asks; without a question how all packages stand."""
    wanted = _wanted(request)
    holds = list(lifecycle.holds_in_force())
    asked = len(wanted.names) + len(wanted.prefixes) + len(wanted.apps)
    if not asked:
        return _survey(request, wanted, holds)
    verdict = _verdict(wanted, holds) if asked <= gate.MOST else None

    def context() -> dict[str, Any]:
        reasons = [(reason, *_next(reason, may(request))) for reason in verdict.reasons] if verdict else []
        more = {"verdict": verdict, "reasons": reasons, "asked": asked, "most": gate.MOST, "command": _command(wanted)}
        return {**_form(wanted), **more, "holds": holds}

    return live(request, "gates", (wanted, verdict, [hold.pk for hold in holds]), context)


def _survey(request: HttpRequest, wanted: Wanted, holds: list[AsyncMigrationHold]) -> HttpResponse:
    """Show how all packages stand."""
    held = [hold.pk for hold in holds]
    question = ("survey", conf.control_database, wanted.database)
    found = watch.remembered(question, lambda: lifecycle.survey(wanted.database), held)
    few, more = found[:SHOWN], max(0, len(found) - SHOWN)

    def context() -> dict[str, Any]:
        return {**_form(wanted), "standings": few, "more": more, "holds": holds, "needing": _needing}

    return live(request, "gates", (wanted, few, more, held), context)


def _verdict(wanted: Wanted, holds: list[AsyncMigrationHold]) -> Verdict:
    """Return what the gate says. All that match are counted only if something has happened, not for each look."""
    depends = [hold.pk for hold in holds], watch.going(gate.matched(wanted))
    return watch.remembered(("gate", conf.control_database, repr(wanted)), lambda: lifecycle.judge(wanted), depends)


def _needing() -> list[dict[str, Any]]:
    """Return the files with `require_finished` that need what is not FINISHED, each with what that is."""
    try:
        files = list(needing())
    except Exception:
        # A file may raise anything when it is imported. `migrate` says what; the page is for more than this.
        logger.warning("the migration files cannot be read", exc_info=True)
        return []
    names = {name for _, its in files for name in its}
    known = lifecycle.rows().filter(name__in=names)
    finished = set(known.values_list("name", flat=True)) - set(
        known.exclude(status=Status.FINISHED).values_list("name", flat=True)
    )
    return [
        {"file": str(file), "query": urlencode({"name": its}, doseq=True), "missing": missing}
        for file, its in files
        if (missing := [name for name in its if name not in finished])
    ]


def _wanted(request: HttpRequest) -> Wanted:
    """Return what the address asks, as the API's does; in a field of the form there may be several, apart by spaces."""
    named = {name: _words(request.GET.getlist(name)) for name in ("name", "prefix", "app")}
    return Wanted(named["name"], named["prefix"], named["app"], request.GET.get("database") or None)


def _words(values: Collection[str]) -> list[str]:
    return [word for value in values for word in re.split(r"[\s,]+", value) if word]


def _form(wanted: Wanted) -> dict[str, Any]:
    # The list is asked for by the form alone, which a poll does not have.
    return {"wanted": wanted, "databases": lifecycle.databases}


def _command(wanted: Wanted) -> str:
    """Return the same question for a pipeline."""
    words = ["async-migrations", "gate"]
    for option, values in (("--name", wanted.names), ("--prefix", wanted.prefixes), ("--app", wanted.apps)):
        words += [word for value in values for word in (option, value)]
    return shlex.join([*words, *(["--database", wanted.database] if wanted.database else [])])


def _next(reason: Reason, allowed: Collection[str]) -> tuple[str, str]:
    """Say what to do about a reason, and where."""
    if reason.id is None:
        return "Look for it in the list", f"{reverse('dashboard:list')}?{urlencode({'search': reason.name})}"
    if reason.status == Status.STARTED and reason.state == gate.BLOCKED:
        return "Look at the hold", reverse("dashboard:hold")
    verb = _VERBS.get(Status(str(reason.status)))
    text = f"Open it and press “{asking.LABELS[verb]}”" if verb in allowed and verb else "Open it"
    return text, reverse("dashboard:detail", args=[reason.id])
