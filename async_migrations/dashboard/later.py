"""Running a migration on terms: not before a time, with a priority, with more or fewer attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse

from .. import asking, lifecycle, limits
from ..lifecycle import Channel
from ..limits import TERMS, OutOfLimits
from ..models import AsyncMigrationStatus
from ..rest.origin import origin_of
from .asks import carry_out
from .door import door, page, require
from .tuning import number


@door("GET", "HEAD", "POST")
def later(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the terms that `run` takes; carry it out on those of the form."""
    row = lifecycle.get(pk)
    require(request, "run", row)
    if request.method != "POST":
        return _page(request, row, {})
    try:
        terms = _terms(request)
    except OutOfLimits as exc:
        asking.refused("run", origin_of(request, Channel.DASHBOARD), exc, row)
        return _page(request, row, exc.errors)
    return carry_out(request, row, "run", **terms)


def _terms(request: HttpRequest) -> dict[str, Any]:
    """Return what was typed; what is left empty is not said. Raises OutOfLimits, with all that is wrong."""
    errors: dict[str, str] = {}
    terms = {name: number(limit, request.POST.get(name, "").strip()) for name, limit in TERMS.items()}
    try:
        run_at = _moment(request.POST.get("run_at", "").strip(), request.POST.get("zone", ""))
    except (ValueError, OverflowError):
        errors["run_at"] = "This is not a time. Give a date and a time of day."
    try:
        limits.check_terms({name: value for name, value in terms.items() if value is not None})
    except OutOfLimits as exc:
        errors |= exc.errors
    if errors:
        raise OutOfLimits(errors)
    return {"run_at": run_at, **terms}


def _moment(text: str, zone: str) -> datetime | None:
    """Return the time that was typed, None for nothing.

    zone: minutes from the time that was typed to UTC, as the browser knows them; empty for UTC itself.
    """
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(minutes=int(zone or 0))) if text else None


def _page(request: HttpRequest, row: AsyncMigrationStatus, errors: dict[str, str]) -> HttpResponse:
    context = {"row": row, "errors": errors, "terms": TERMS, "typed": request.POST}
    return page(request, "later", context, status=400 if errors else 200)
