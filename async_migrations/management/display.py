"""What the command shows: tables and colours on a terminal, aligned lines elsewhere, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from async_migrations.asking import blockers, progress, throttling
from async_migrations.execution.findings import Finding
from async_migrations.execution.janitor import Leftover
from async_migrations.models import AsyncMigrationEvent, AsyncMigrationHold, AsyncMigrationStatus
from async_migrations.states import Status

STYLES = {
    Status.STARTED: "magenta",
    Status.IN_PROGRESS: "bold blue",
    Status.FINISHED: "green",
    Status.ERROR: "bold red",
    Status.PAUSED: "yellow",
    Status.CANCELLED: "dim",
    Status.ROLLED_BACK: "yellow",
}

_ERROR_FIELDS = ("message", "detail", "hint", "statement", "key", "code", "sqlstate")
_ROW_COLUMNS: tuple[tuple[str, Callable[[AsyncMigrationStatus], str]], ...] = (
    ("ID", lambda row: str(row.pk)),
    ("STATUS", lambda row: row.status),
    ("DATABASE", lambda row: row.database),
    ("PROGRESS", lambda row: ", ".join(filter(None, (progress(row), throttling(row), _set_aside(row)))) or "-"),
    ("ATTEMPT", lambda row: f"{row.attempt}/{row.max_attempts}"),
    ("REQUESTED BY", lambda row: row.requested_by or "-"),
    ("NAME", lambda row: row.name),
)
_EVENT_COLUMNS: tuple[tuple[str, Callable[[AsyncMigrationEvent], str]], ...] = (
    ("WHEN", lambda event: moment(event.created_at)),
    ("WHAT", lambda event: event.kind),
    ("STATUS", lambda event: " -> ".join(filter(None, (event.from_status, event.to_status)))),
    ("ATTEMPT", lambda event: str(event.attempt or "")),
    ("BY", lambda event: event.by),
    (
        "DETAIL",
        lambda event: json.dumps(event.detail, cls=DjangoJSONEncoder, ensure_ascii=False) if event.detail else "",
    ),
)


_HOLD_COLUMNS: tuple[tuple[str, Callable[[AsyncMigrationHold], str]], ...] = (
    ("DATABASE", lambda hold: hold.database or "all"),
    ("BY", lambda hold: hold.by),
    ("SINCE", lambda hold: moment(hold.created_at)),
    ("UNTIL", lambda hold: moment(hold.expires_at)),
    ("REASON", lambda hold: hold.reason),
)
_LEFTOVER_COLUMNS: tuple[tuple[str, Callable[[Leftover], str]], ...] = (
    ("DATABASE", lambda found: found.database),
    ("SIZE", lambda found: size(found.size_bytes)),
    ("KIND", lambda found: found.kind),
    ("MIGRATION", lambda found: f"{found.migration or '-'}{' (in progress)' if found.running else ''}"),
    ("TABLE", lambda found: found.table),
    ("INDEX", lambda found: f"{found.schema}.{found.name}"),
)


def as_dict(row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return the row with the field names of the HTTP contract, without the SQL."""
    plain = ("name", "database", "kind", "direction", "status", "terminal", "stop_requested", "meta", "phase")
    times = ("run_at", "created_at", "updated_at", "requested_at", "started_at", "finished_at", "heartbeat_at")
    return {
        "id": row.pk,
        **{field: getattr(row, field) for field in plain},
        "progress": {
            "done": row.progress_done,
            "total": row.progress_total,
            "unit": row.progress_unit,
            "percent": row.percent,
            "rate_per_second": row.progress_rate,
            "eta_seconds": row.eta_seconds,
        },
        "waiting_on": row.waiting_on,
        "throttled": row.throttled,
        **{field: getattr(row, field) for field in ("attempt", "max_attempts", "worker", "requested_by")},
        **{field: time_as_text(getattr(row, field)) for field in times},
    }


def detail_as_dict(row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return the row with the SQL, again as the HTTP contract has it."""
    return as_dict(row) | {field: getattr(row, field) for field in _DETAIL_FIELDS}


_DETAIL_FIELDS = (
    "queued_behind",
    "priority",
    "tuning",
    "quarantined",
    "sql_forwards",
    "sql_backwards",
    "sql_digest",
    "options",
)


def event_as_dict(event: AsyncMigrationEvent) -> dict[str, Any]:
    """Return one event with the field names of the HTTP contract."""
    fields = ("id", "kind", "from_status", "to_status", "attempt", "by", "request_id", "detail")
    return {**{field: getattr(event, field) for field in fields}, "created_at": time_as_text(event.created_at)}


def hold_as_dict(hold: AsyncMigrationHold) -> dict[str, Any]:
    """Return a hold with the field names of the HTTP contract."""
    times = ("created_at", "expires_at", "lifted_at")
    return {
        "id": hold.pk,
        "database": hold.database or None,
        **{field: getattr(hold, field) for field in ("reason", "by", "request_id")},
        **{field: time_as_text(getattr(hold, field)) for field in times},
        "lifted_by": hold.lifted_by,
    }


def time_as_text(value: datetime | None) -> str | None:
    """Return the time as the HTTP contract has it: UTC, with microseconds, which Django's own encoder would cut."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value else None


def moment(value: datetime | None) -> str:
    """Return the time to the second, with its offset; "-" for none."""
    return value.isoformat(sep=" ", timespec="seconds") if value else "-"


def printable(text: str) -> str:
    """Show control characters instead of sending them: values out of a table must not steer somebody's terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def size(count: int) -> str:
    """Say how much: "16 kB", "1.5 GB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in {"bytes", "kB"} else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


class Display:
    """Writes to standard output in the form that its reader can use.

    file: where to; standard output if None. as_json: one JSON document instead of text. colour: False for none, True to
    force it, None to see what the terminal can do.
    """

    def __init__(self, file: TextIO | None, *, as_json: bool, colour: bool | None) -> None:
        self.as_json = as_json
        # Markup and highlighting would read "[...]" in SQL and messages as commands of rich's own.
        self.console = Console(
            file=file or sys.stdout,
            markup=False,
            highlight=False,
            emoji=False,
            no_color=None if colour is None else not colour,
            force_terminal=True if colour else None,
        )

    @property
    def rich(self) -> bool:
        return self.console.is_terminal and not self.as_json

    def line(self, text: str) -> None:
        """Write one line; nothing in JSON mode."""
        if not self.as_json:
            self.console.print(Text(printable(text)), soft_wrap=True)

    def json(self, value: Any) -> None:
        """Write one JSON document."""
        self.console.file.write(json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False) + "\n")

    def rows(self, rows: Sequence[AsyncMigrationStatus]) -> None:
        """Write the list."""
        if self.as_json:
            self.json([as_dict(row) for row in rows])
        elif rows:
            self._table([name for name, _ in _ROW_COLUMNS], [[read(row) for _, read in _ROW_COLUMNS] for row in rows])
        else:
            self.line("No migrations.")

    def detail(self, row: AsyncMigrationStatus, events: Sequence[AsyncMigrationEvent]) -> None:
        """Write everything about one migration."""
        self._facts(_facts(row))
        if error := row.meta.get("error"):
            self._heading("Error")
            facts = [(key, str(error[key])) for key in _ERROR_FIELDS if error.get(key) not in (None, "")]
            self._facts(facts + [("duplicate", _duplicate(sample)) for sample in error.get("samples") or ()])
        for heading, sql in (("SQL forwards", row.sql_forwards), ("SQL backwards", row.sql_backwards)):
            self._heading(heading)
            self._sql(sql)
        self._heading("Events")
        self._table(
            [name for name, _ in _EVENT_COLUMNS], [[read(event) for _, read in _EVENT_COLUMNS] for event in events]
        )

    def leftovers(self, leftovers: Sequence[Leftover]) -> None:
        """Write what builds have left behind."""
        if self.as_json:
            self.json([asdict(found) for found in leftovers])
        elif leftovers:
            lines = [[read(found) for _, read in _LEFTOVER_COLUMNS] for found in leftovers]
            self._table([name for name, _ in _LEFTOVER_COLUMNS], lines)
        else:
            self.line("No leftovers.")

    def holds(self, holds: Sequence[AsyncMigrationHold]) -> None:
        """Write what keeps migrations from going on."""
        if self.as_json:
            self.json([hold_as_dict(hold) for hold in holds])
        elif holds:
            self._table(
                [name for name, _ in _HOLD_COLUMNS], [[read(hold) for _, read in _HOLD_COLUMNS] for hold in holds]
            )
        else:
            self.line("Nothing is held.")

    def findings(self, findings: Sequence[Finding]) -> None:
        """Write what stands in the way of a migration."""
        if self.as_json:
            self.json([asdict(found) for found in findings])
        else:
            for found in findings:
                self.line(f"{found.level:<7}  {found.code}: {found.message}")
                if found.hint:
                    self.line(f"         {found.hint}")

    def sql(self, heading: str, text: str) -> None:
        """Write SQL below a heading."""
        self._heading(heading)
        self._sql(text)

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def _sql(self, text: str) -> None:
        text = printable(text.strip())
        if self.rich:
            self.console.print(Syntax(text, "sql", theme="ansi_dark", word_wrap=True, background_color="default"))
        else:
            self.line(text)

    def _facts(self, facts: Iterable[tuple[str, str]]) -> None:
        pairs = [(term, printable(text)) for term, text in facts]
        width = max(len(term) for term, _ in pairs)
        for term, text in pairs:
            style = STYLES.get(Status(text), "") if term == "status" else ""
            self.console.print(Text.assemble((f"{term:<{width}}  ", "dim"), (text, style)), soft_wrap=True)

    def _table(self, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        cells = [[printable(cell) for cell in line] for line in lines]
        if not self.rich:
            self._aligned([header, *cells])
            return
        table = Table(box=None, pad_edge=False, header_style="bold dim")
        for name in header:
            table.add_column(
                name,
                no_wrap=name in {"ID", "STATUS", "WHEN", "ATTEMPT"},
                overflow="fold",
                max_width=32 if name == "PROGRESS" else None,
            )
        for line in cells:
            table.add_row(*(Text(cell, style=_style(cell)) for cell in line))
        self.console.print(table)

    def _aligned(self, lines: Sequence[Sequence[str]]) -> None:
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            self.line("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _set_aside(row: AsyncMigrationStatus) -> str:
    return f"{row.quarantined} rows set aside" if row.quarantined else ""


def _duplicate(sample: dict[str, Any]) -> str:
    return f"{', '.join(f'{name} = {value}' for name, value in sample['key'].items())}: {sample['count']} rows"


def _style(cell: str) -> str:
    return STYLES.get(Status(cell), "") if cell in Status.values else ""


def _facts(row: AsyncMigrationStatus) -> list[tuple[str, str]]:
    facts = [
        ("id", str(row.pk)),
        ("name", row.name),
        ("database", row.database),
        ("status", row.status),
        ("direction", row.direction),
        ("progress", progress(row)),
        ("blocked by", "; ".join(blockers(row))),
        ("throttled", throttling(row).removeprefix("throttled ")),
        ("set aside", _set_aside(row)),
        ("tuning", json.dumps(row.tuning) if row.tuning else ""),
        ("priority", str(row.priority or "")),
        ("attempt", f"{row.attempt} of {row.max_attempts}"),
        ("stop requested", row.stop_requested or ""),
        ("worker", row.worker),
        ("requested by", row.requested_by),
        ("job id", str(row.meta.get("job_id") or "")),
    ]
    times = ("created_at", "requested_at", "run_at", "started_at", "finished_at", "heartbeat_at")
    facts += [(field.removesuffix("_at").replace("_", " "), moment(getattr(row, field))) for field in times]
    return [(term, text) for term, text in facts if text not in ("", "-")]
