"""Live tuning: a form that shows what is set, and sets what was changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from .. import asking, lifecycle
from ..conf import Conf, conf
from ..errors import TransitionRefused
from ..lifecycle import Channel
from ..limits import NUMBERS, THRESHOLD, THRESHOLDS, Number, OutOfLimits
from ..models import AsyncMigrationStatus
from ..rest.origin import origin_of
from ..states import TERMINAL, Kind, Status
from .door import door, page, require

#: How the form says that something is turned off.
OFF = "off"

_ALL = "throttle"


@dataclass(frozen=True)
class Field:
    """One field of the form.

    shown: what is set live. default: what counts where nothing is. source: who says so. typed: what stands in it.
    """

    name: str
    limit: Number
    shown: str
    default: str = ""
    source: str = ""
    purpose: str = ""
    typed: str = ""
    error: str = ""

    @property
    def label(self) -> str:
        """Its name in words."""
        return self.name.removeprefix(f"{_ALL}.").replace("_", " ").capitalize()


@door("POST")
def tune(request: HttpRequest, pk: int) -> HttpResponse:
    """Set what was changed in the form; an emptied field takes back what was set."""
    row = lifecycle.get(pk)
    require(request, "tune", row)
    origin = origin_of(request, Channel.DASHBOARD)
    try:
        answer = lifecycle.tune(pk, origin, _changes(request, row))
    except OutOfLimits as exc:
        asking.refused("tune", origin, exc, row)
        return page(request, "tune", {"row": row, "tuning": _as_typed(request, row, exc.errors)}, status=400)
    except TransitionRefused as exc:
        asking.refused("tune", origin, exc, row)
        messages.error(request, f"Nothing was changed. {exc}")
    else:
        messages.success(request, asking.tell_tuned(answer))
    return redirect("dashboard:detail", pk=pk)


def form(row: AsyncMigrationStatus) -> dict[str, list[Field]]:
    """Return the fields of what can be set live now, with what is set; nothing where nothing can be."""
    if row.status in TERMINAL - {Status.ERROR}:
        return {}
    return {"numbers": list(_numbers(row)), "signals": list(_signals(row)) if row.kind == Kind.BACKFILL else []}


def number(limit: Number, text: str) -> Any:
    """Return the number that was typed, None for nothing; what is none is for `limits` to refuse."""
    try:
        return (int(text) if limit.whole else float(text)) if text else None
    except ValueError:
        return text


def _numbers(row: AsyncMigrationStatus) -> Iterator[Field]:
    for name, limit in NUMBERS.items():
        if name == "priority" or row.kind == Kind.BACKFILL:
            shown = _text(row.priority if name == "priority" else row.tuning.get(name, ""))
            yield Field(name, limit, shown, default=_text(row.options.get(name, "")), typed=shown)


def _signals(row: AsyncMigrationStatus) -> Iterator[Field]:
    """Yield the switch for all signals, and each with its threshold."""
    shown = OFF if _in_force(row) is False else ""
    yield Field(_ALL, THRESHOLD, shown, typed=shown)
    for name in THRESHOLDS:
        yield _signal(row, name)


def _signal(row: AsyncMigrationStatus, name: str) -> Field:
    live, file = _in_force(row), _of_file(row)
    values, usual = _thresholds(live), _thresholds(file)
    is_set = name in values and (name not in usual or values[name] != usual[name])
    # What is set live stands in the place of all that the file says.
    by_file = name in usual and (name in values or not isinstance(live, Mapping))
    shown = _text(values[name]) if is_set else ""
    return Field(
        f"{_ALL}.{name}",
        THRESHOLD,
        shown,
        default=_text(usual[name] if by_file else getattr(conf, f"throttle_{name}")),
        source="the file" if by_file else "the settings",
        purpose=vars(Conf)[f"throttle_{name}"].purpose.removesuffix(", or off."),
        typed=shown,
    )


def _of_file(row: AsyncMigrationStatus) -> Any:
    """Return what the file says of the throttle; with nothing, or with no threshold, all is as the settings say."""
    said = row.options.get(_ALL)
    return True if said in (None, {}) else said


def _in_force(row: AsyncMigrationStatus) -> Any:
    return row.tuning.get(_ALL, _of_file(row))


def _thresholds(throttle: Any) -> dict[str, Any]:
    return dict(throttle) if isinstance(throttle, Mapping) else {}


def _text(value: Any) -> str:
    """Return a value as people type it."""
    if value is None:
        return OFF
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# --- what was sent ---


def _typed(request: HttpRequest, field: Field) -> str:
    return OFF if field.name in request.POST.getlist("off") else request.POST.get(field.name, "").strip()


def _is_news(request: HttpRequest, field: Field) -> bool:
    """Whether a field was changed by who sent the form; what was left as it was shown may be another's by now."""
    shown = request.POST.get(f"shown-{field.name}")
    sent = shown is not None or field.name in request.POST or field.name in request.POST.getlist("off")
    return sent and _typed(request, field) != shown


def _changes(request: HttpRequest, row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return what `lifecycle.tune` is to change. Raises OutOfLimits for what makes no sense together."""
    fields = form(row)
    changes = {
        field.name: number(field.limit, _typed(request, field))
        for field in fields.get("numbers", ())
        if _is_news(request, field)
    }
    news = [field for field in fields.get("signals", ()) if _is_news(request, field)]
    return changes | ({_ALL: _throttle(request, row, news)} if news else {})


def _throttle(request: HttpRequest, row: AsyncMigrationStatus, news: list[Field]) -> Any:
    """Return the throttle with what has changed of it; None where that is what the file says."""
    live, file = _in_force(row), _of_file(row)
    switch = next((field for field in news if field.name == _ALL), None)
    signals = {field.name: _typed(request, field) for field in news if field.name != _ALL}
    if live is False if switch is None else _typed(request, switch) == OFF:
        if signals:
            raise OutOfLimits(dict.fromkeys(signals, "No signal is looked at at all. Take that out, too."))
        wanted: Any = False
    else:
        wanted = _with(_thresholds(live), signals, _thresholds(file)) or True
    return None if wanted == file else wanted


def _with(thresholds: dict[str, Any], typed: Mapping[str, str], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the thresholds with those that were typed; for an empty one that of the file counts, if it has one."""
    changed = dict(thresholds)
    for field, text in typed.items():
        name = field.removeprefix(f"{_ALL}.")
        if text:
            changed[name] = None if text == OFF else number(THRESHOLD, text)
        elif name in usual:
            changed[name] = usual[name]
        else:
            changed.pop(name, None)
    return changed


def _as_typed(request: HttpRequest, row: AsyncMigrationStatus, errors: Mapping[str, str]) -> dict[str, list[Field]]:
    """Return the form as it was sent, each field with what is wrong with it."""
    return {
        group: [
            replace(
                field,
                shown=request.POST.get(f"shown-{field.name}", field.shown),
                typed=_typed(request, field),
                error=errors.get(field.name, ""),
            )
            for field in fields
        ]
        for group, fields in form(row).items()
    }
