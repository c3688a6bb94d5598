"""The hold: who keeps what from going on, who did, and a form that sets one."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from .. import lifecycle, words
from ..lifecycle import Channel
from ..rest.origin import origin_of
from .door import door, may, require

#: How many of those that were are shown.
PAST = 20

_UNITS = ("minutes", "hours", "days")


def _databases() -> list[tuple[str, str]]:
    return [("", "all databases"), *((alias, alias) for alias in lifecycle.databases())]


class HoldForm(forms.Form):
    """Why nothing may go on, where, and for how long; without a number until somebody lifts it."""

    database = forms.ChoiceField(required=False, choices=_databases)
    reason = forms.CharField(max_length=1000, error_messages={"required": "Say why: others wonder why nothing moves."})
    lasts = forms.IntegerField(
        required=False, min_value=1, max_value=10_000, error_messages={"invalid": "This is not a whole number."}
    )
    unit = forms.ChoiceField(choices=[(unit, unit) for unit in _UNITS])

    def expires_at(self) -> datetime | None:
        """Return when it ends by itself, None for never. Only of a valid form."""
        lasts = self.cleaned_data["lasts"]
        return timezone.now() + timedelta(**{self.cleaned_data["unit"]: lasts}) if lasts else None


@door("GET", "HEAD", "POST")
def hold(request: HttpRequest) -> HttpResponse:
    """Show the holds; set one for those who may."""
    if request.method != "POST":
        return _page(request, HoldForm(initial={"database": request.GET.get("database", ""), "unit": "hours"}))
    database = request.POST.get("database", "")
    require(request, "hold", database=database)
    form = HoldForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=400)
    until = form.expires_at()
    lifecycle.set_hold(
        form.cleaned_data["database"],
        form.cleaned_data["reason"],
        origin_of(request, Channel.DASHBOARD),
        expires_at=until,
    )
    ends = f"It ends by itself at {words.moment(until)}." if until else "It lasts until somebody lifts it."
    messages.success(request, f"Held: {database or 'all databases'}. {ends}")
    return redirect("dashboard:overview")


def _page(request: HttpRequest, form: HoldForm, status: int = 200) -> HttpResponse:
    holds = list(lifecycle.holds_in_force())
    past = lifecycle.holds().exclude(pk__in=[each.pk for each in holds])[:PAST]
    context = {"form": form, "holds": holds, "past": past, "may": may(request)}
    return render(request, "async_migrations/dashboard/hold.html", context, status=status)
