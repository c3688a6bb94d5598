"""How values look on the operators' page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from django import template
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify

from .. import contract, words
from ..asking import LABELS, facts
from ..lifecycle import gate as gates
from ..models import AsyncMigrationEvent, AsyncMigrationHold, AsyncMigrationStatus
from ..states import Status

register = template.Library()

# A sign for each status, so that the colour is never the only one.
_SIGNS = {
    Status.SCHEDULED: "○",
    Status.STARTED: "◔",
    Status.IN_PROGRESS: "◑",
    Status.FINISHED: "✓",
    Status.ERROR: "✕",
    Status.PAUSED: "❙❙",
    Status.CANCELLED: "⊘",
    Status.ROLLED_BACK: "↺",
}
# What a gate says looks like the status that it is most like.
_GATES = {
    gates.PASS: Status.FINISHED,
    gates.PENDING: Status.IN_PROGRESS,
    gates.BLOCKED: Status.PAUSED,
    gates.FAILED: Status.ERROR,
}
_LEFTOVERS = {
    "_ccnew": "New copy from a REINDEX CONCURRENTLY that did not end well",
    "_ccold": "Old copy that a REINDEX CONCURRENTLY did not come to drop",
    "invalid": "INVALID: a build or a removal did not end well",
}
_TICKS = re.compile(r"`([^`]+)`")
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_SQL = re.compile(
    r"(?P<i>--[^\n]*|/\*.*?\*/)|(?P<q>'(?:[^']|'')*')|\b(?P<b>ADD|ALTER|ANALYZE|AND|AS|BEGIN|BY|CASCADE|CHECK|COLUMN|"
    r"COMMIT|CONCURRENTLY|CONSTRAINT|CREATE|DEFAULT|DELETE|DROP|EXISTS|FOREIGN|FROM|IF|IN|INCLUDE|INDEX|INSERT|INTO|IS|"
    r"KEY|NOT|NULL|ON|OR|ORDER|PRIMARY|REFERENCES|REINDEX|RESET|SELECT|SET|TABLE|THEN|TO|UNIQUE|UPDATE|USING|VALID|"
    r"VALIDATE|VALUES|WHEN|WHERE|WITH)\b",
    re.IGNORECASE | re.DOTALL,
)


@register.filter
def status(value: str) -> SafeString:
    """Return a status with its sign."""
    sign = _SIGNS[Status(value)]
    return format_html(
        '<span class="status {}"><span aria-hidden="true">{}</span>{}</span>', slugify(value), sign, value
    )


@register.filter
def gate(state: str) -> SafeString:
    """Return what a gate says, with a sign."""
    like = _GATES[state]
    return format_html(
        '<span class="status {}"><span aria-hidden="true">{}</span>{}</span>', slugify(like), _SIGNS[like], state
    )


@register.filter
def ticks(text: str) -> SafeString:
    """Return a text of which what stands between backticks is shown as code, and each time as by `times`."""
    return mark_safe(_TICKS.sub(r"<code>\1</code>", times(text)))  # noqa: S308 - it is escaped


@register.filter
def leftover(kind: str) -> str:
    """Say what an index is that is left over."""
    return _LEFTOVERS[kind]


@register.filter
def size(count: int) -> str:
    """Say how much: "16 kB"."""
    return words.size(count)


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """Return a time as it is; the page's script says how long ago that was, and leaves this to be hovered over."""
    if value is None:
        return "–"
    shown = words.moment(value)
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), shown, shown)


@register.filter
def times(text: str) -> SafeString:
    """Return a text of which each time is shown as all times are, but in full where the script is at work."""
    return mark_safe("".join(_timed(text)))  # noqa: S308 - every part is escaped


@register.filter
def last_part(name: str) -> str:
    """Return the part of a dotted name that tells one file from another."""
    return name.rpartition(".")[2]


@register.filter
def package(name: str) -> str:
    """Return the rest of a dotted name."""
    return name.rpartition(".")[0]


@register.filter
def doing(row: AsyncMigrationStatus) -> str:
    """Say what is going on with a migration beside its status, empty when there is nothing to say."""
    said = contract.as_dict(row)
    if row.status == Status.ERROR:
        return str((row.meta.get("error") or {}).get("message", "no reason is recorded"))
    if row.status == Status.FINISHED and row.quarantined:
        are, them = ("row is", "it") if row.quarantined == 1 else ("rows are", "them")
        return f"{row.quarantined:,} {are} set aside: the backfill could not change {them}"
    blocked = "; ".join(words.blockers(row.waiting_on))
    waits = f"waits for {blocked}" if blocked else ""
    what = "; ".join(filter(None, (row.phase, waits, words.throttling(row.throttled))))
    if row.status == Status.STARTED and not what:
        what = words.state(said | {"run_at": None})  # The page says the time itself, as all times.
    queued = _queue(len(row.queued_behind))
    asked = f"asked to {words.asked_to(row.stop_requested)}" if row.stop_requested else ""
    return "; ".join(filter(None, (asked, what, queued, words.left(said))))


def _queue(count: int) -> str:
    if not count:
        return ""
    return "a session queues behind it" if count == 1 else f"{count} sessions queue behind it"


@register.filter
def blockers(sessions: list[dict[str, object]]) -> list[str]:
    """Describe each session that something waits for, or that waits itself."""
    return words.blockers(sessions)


@register.filter
def blocking(sessions: list[dict[str, object]]) -> list[tuple[str, object]]:
    """Describe each session that something waits for, with the statement it was last seen with, if that is known."""
    return [(said, session.get("query")) for said, session in zip(words.blockers(sessions), sessions, strict=True)]


@register.filter
def figures(row: AsyncMigrationStatus) -> str:
    """Say how much is done of how much, and how fast."""
    if row.progress_done is None:
        return ""
    of = f" of {row.progress_total:,}" if row.progress_total is not None else ""
    rate = f", {row.progress_rate:,.0f} a second" if row.progress_rate and not row.terminal else ""
    return f"{row.progress_done:,}{of} {row.progress_unit}{rate}"


@register.filter
def hold(value: AsyncMigrationHold) -> str:
    """Say what is held."""
    return f"Database {value.database} is held" if value.database else "Everything is held"


@register.filter
def happened(event: AsyncMigrationEvent) -> str:
    """Say what happened, in words."""
    return words.event(contract.event_as_dict(event))


@register.filter
def ended(event: AsyncMigrationEvent) -> str:
    """Say how the attempt ended that an event is the last one of."""
    return words.attempt_end(contract.event_as_dict(event))


@register.filter
def error(said: dict[str, object] | None) -> list[tuple[str, str]]:
    """Return terms and texts of an error in the shape of `meta.error`."""
    return list(words.error(said))


@register.filter
def more(event: AsyncMigrationEvent) -> str:
    """Return what else an event says, one fact a line; its error is shown by itself."""
    return facts({key: value for key, value in event.detail.items() if key != "error"})


@register.filter
def number(count: int) -> str:
    """Return a number in groups of three digits: "1,234,567"."""
    return f"{count:,}"


@register.filter
def up_to(count: int, most: int) -> str:
    """Return a number that was counted up to one more than `most`."""
    return f"{number(most)}+" if count > most else number(count)


@register.filter
def label(verb: str) -> str:
    """Return what the button of a verb says."""
    return LABELS.get(verb, "Run all the same").removesuffix("…")


@register.filter
def sql(text: str) -> SafeString:
    """Return SQL with its keywords, strings and comments marked."""
    return mark_safe("".join(_marked(text.strip())))  # noqa: S308 - every part is escaped


def _timed(text: str) -> Iterator[str]:
    end = 0
    for match in _TIMES.finditer(text):
        yield escape(text[end : match.start()])
        yield format_html('<time datetime="{}" data-exact>{}</time>', *[match.group()] * 2)
        end = match.end()
    yield escape(text[end:])


def _marked(text: str) -> Iterator[str]:
    end = 0
    for match in _SQL.finditer(text):
        yield escape(text[end : match.start()])
        yield f"<{match.lastgroup}>{escape(match.group())}</{match.lastgroup}>"
        end = match.end()
    yield escape(text[end:])
