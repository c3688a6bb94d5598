"""How a migration got on, as points for the page's script to draw, and in words for who does not see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse, JsonResponse

from .. import lifecycle, words
from ..conf import conf
from ..lifecycle.samples import SPACING_SECONDS, spacing
from ..models import AsyncMigrationSample, AsyncMigrationStatus
from ..states import Kind, Status
from .door import door, knows, tag_of

# What a chart is made of. Neither the SQL nor what a heartbeat alone changes.
_SHOWN = ("kind", "status", "attempt", "started_at", "finished_at", "progress_done", "progress_total", "progress_unit")

# Points that are further apart than this, and than three times the usual, have a gap between them: nobody was at work.
_GAP_SECONDS = 10.0

#: What is drawn: points of one stretch without a gap.
Stretch = Sequence[AsyncMigrationSample]


@door("GET", "HEAD")
def chart(request: HttpRequest, pk: int) -> HttpResponse:
    """Answer with the points of the last run, or with 304 to who has them."""
    newest = AsyncMigrationSample.objects.filter(migration=OuterRef("pk")).order_by("-at").values("pk")[:1]
    row = lifecycle.rows().only(*_SHOWN, "progress_percent").annotate(newest=Subquery(newest)).get(pk=pk)
    tag = tag_of(("chart", pk, row.status, row.attempt, row.started_at, row.finished_at, row.newest))
    headers = {"ETag": tag}
    return (
        HttpResponse(status=304, headers=headers) if knows(request, tag) else JsonResponse(_drawn(row), headers=headers)
    )


def _drawn(row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return columns of points, and what lies behind them; or, if that is of interest, why there are none."""
    samples = _samples(row)
    stretches = list(_stretches(row, samples))
    of_rows = row.kind == Kind.BACKFILL
    columns = _columns(stretches, _rates if of_rows else _percents)
    if sum(value is not None for value in columns["value"]) < 2:
        return {"at": [], "why": _why(row, samples)}
    bands = _bands(stretches, _throttled if of_rows else _phase)
    return {
        "shows": "rate" if of_rows else "percent",
        "said": (_rate_said if of_rows else _percent_said)(row, columns, bands),
        **columns,
        "began": _seconds(row.started_at or samples[0].at),
        "bands": bands,
        "gaps": [
            {"from": _seconds(before[-1].at), "to": _seconds(after[0].at)} for before, after in pairwise(stretches)
        ],
        "attempts": [
            {"at": _seconds(after.at), "attempt": after.attempt}
            for before, after in pairwise(samples)
            if before.attempt != after.attempt
        ],
    }


def _samples(row: AsyncMigrationStatus) -> list[AsyncMigrationSample]:
    """Return the points of the last run, and its end, which no heartbeat has seen."""
    if row.started_at is None:
        return []
    samples = list(row.samples.using(conf.control_database).filter(at__gte=row.started_at).order_by("at"))
    if samples and row.finished_at and row.finished_at > samples[-1].at:
        last = samples[-1]
        samples.append(
            AsyncMigrationSample(
                at=row.finished_at,
                attempt=row.attempt,
                phase=last.phase,
                done=row.progress_done,
                total=row.progress_total,
                unit=row.progress_unit,
                percent=row.percent,
                batch_size=last.batch_size,
            )
        )
    return samples


def _stretches(row: AsyncMigrationStatus, samples: Stretch) -> Iterator[Stretch]:
    """Yield the points between two gaps."""
    begin = 0
    for at, (before, after) in enumerate(pairwise(samples), 1):
        usual = max(spacing((after.at - (row.started_at or after.at)).total_seconds()), conf.heartbeat_seconds)
        if (after.at - before.at).total_seconds() > max(_GAP_SECONDS, 3 * usual):
            yield samples[begin:at]
            begin = at
    if samples:
        yield samples[begin:]


def _columns(stretches: Sequence[Stretch], values: Callable[[Stretch], list[float | None]]) -> dict[str, list[Any]]:
    """Return a list for each thing that a point says; a point that says nothing is in the middle of each gap."""
    lines: list[tuple[Any, ...]] = []
    for stretch in stretches:
        if lines:
            lines.append(((lines[-1][0] + _seconds(stretch[0].at)) / 2, None, None, None, None, ""))
        lines += [
            (_seconds(point.at), value, point.batch_size, point.done, point.total, point.unit)
            for point, value in zip(stretch, values(stretch), strict=True)
        ]
    names = ("at", "value", "batch_size", "done", "total", "unit")
    return {name: [line[number] for line in lines] for number, name in enumerate(names)}


def _rates(stretch: Stretch) -> list[float | None]:
    """Return for each point how many rows a second were changed around it: from the point before to the one behind."""
    rates = []
    for at in range(len(stretch)):
        first, last = max(at - 1, 0), min(at + 1, len(stretch) - 1)
        while first and (stretch[last].at - stretch[first].at).total_seconds() < SPACING_SECONDS:
            first -= 1  # The end may lie so close to the last point that one batch would be a jump.
        rates.append(_rate(stretch[first], stretch[last]))
    return rates


def _counts_rows(point: AsyncMigrationSample) -> bool:
    """Whether a point says how many rows are done; at the beginning of an attempt nothing is counted yet."""
    return point.done is not None and point.unit == "rows"


def _rate(before: AsyncMigrationSample, after: AsyncMigrationSample) -> float | None:
    seconds = (after.at - before.at).total_seconds()
    if not seconds or not _counts_rows(before) or not _counts_rows(after):
        return None
    return round(max(0, (after.done or 0) - (before.done or 0)) / seconds, 1)


def _percents(stretch: Stretch) -> list[float | None]:
    return [None if point.percent is None else round(point.percent, 2) for point in stretch]


def _bands(stretches: Sequence[Stretch], label: Callable[[AsyncMigrationSample], str]) -> list[dict[str, Any]]:
    """Return from when to when, in seconds, something was so that has a label."""
    bands = []
    for stretch in stretches:
        runs = [(said, list(points)) for said, points in groupby(stretch, label)]
        for number, (said, points) in enumerate(runs):
            until = runs[number + 1][1][0] if number + 1 < len(runs) else points[-1]
            if said:
                bands.append({"from": _seconds(points[0].at), "to": _seconds(until.at), "label": said})
    return bands


def _throttled(point: AsyncMigrationSample) -> str:
    return words.throttling({"reason": point.throttled} if point.throttled else None)


def _phase(point: AsyncMigrationSample) -> str:
    return point.phase


def _rate_said(row: AsyncMigrationStatus, columns: dict[str, list[Any]], bands: Sequence[Any]) -> str:
    rates = [value for value in columns["value"] if value is not None]
    times = {0: "", 1: ", throttled once", 2: ", throttled twice"}.get(len(bands), f", throttled {len(bands)} times")
    last = "at the end" if row.terminal else "now"
    return (
        f"Rows a second over {_length(columns)}: between {min(rates):,.0f} and {max(rates):,.0f}{times}, "
        f"{last} {rates[-1]:,.0f}."
    )


def _percent_said(row: AsyncMigrationStatus, columns: dict[str, list[Any]], bands: Sequence[Any]) -> str:
    percents = [value for value in columns["value"] if value is not None]
    phases = ", ".join(f"{band['label']} for {words.duration(band['to'] - band['from'])}" for band in bands)
    return (
        f"Progress over {_length(columns)}: from {percents[0]:.1f} to {percents[-1]:.1f} percent"
        f"{f'. Phases: {phases}' if phases else ''}."
    )


def _length(columns: dict[str, list[Any]]) -> str:
    return words.duration(columns["at"][-1] - columns["at"][0])


def _why(row: AsyncMigrationStatus, samples: Stretch) -> str:
    if row.status != Status.IN_PROGRESS:
        return ""
    if row.kind == Kind.SQL and len(samples) > 2:
        return "PostgreSQL does not say how far a statement of this kind is, so there is nothing to draw."
    return "The chart begins in a few seconds, when there are two points to draw."


def _seconds(moment: datetime) -> float:
    return round(moment.timestamp(), 2)
