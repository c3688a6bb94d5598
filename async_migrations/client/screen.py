"""What both commands show: tables and colours on a terminal, aligned lines elsewhere, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ..words import Row, blockers, moment, printable, progress, throttling

Columns = Sequence[tuple[str, Callable[[Any], str]]]

STYLES = {
    "STARTED": "magenta",
    "IN PROGRESS": "bold blue",
    "FINISHED": "green",
    "ERROR": "bold red",
    "PAUSED": "yellow",
    "CANCELLED": "dim",
    "ROLLED BACK": "yellow",
}

_ERROR_FIELDS = ("message", "detail", "hint", "statement", "key", "code", "sqlstate")
_TIMES = ("created_at", "requested_at", "run_at", "started_at", "finished_at", "heartbeat_at")
_ROW_COLUMNS: Columns = (
    ("ID", lambda row: str(row["id"])),
    ("STATUS", lambda row: row["status"]),
    ("DATABASE", lambda row: row["database"]),
    ("PROGRESS", lambda row: ", ".join(filter(None, (progress(row), _throttling(row), _set_aside(row)))) or "-"),
    ("ATTEMPT", lambda row: f"{row['attempt']}/{row['max_attempts']}"),
    ("REQUESTED BY", lambda row: row["requested_by"] or "-"),
    ("NAME", lambda row: row["name"]),
)
EVENT_COLUMNS: Columns = (
    ("WHEN", lambda event: moment(event["created_at"])),
    ("WHAT", lambda event: event["kind"]),
    ("STATUS", lambda event: " -> ".join(filter(None, (event["from_status"], event["to_status"])))),
    ("ATTEMPT", lambda event: str(event["attempt"] or "")),
    ("BY", lambda event: event["by"]),
    ("DETAIL", lambda event: json.dumps(event["detail"], ensure_ascii=False) if event["detail"] else ""),
)


class Screen:
    """Writes to standard output in the form that its reader can use.

    file: where to; standard output if None. as_json: documents instead of text. colour: False for none, True to
    force it, None to see what the terminal can do.
    """

    def __init__(self, file: TextIO | None = None, *, as_json: bool, colour: bool | None = None) -> None:
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

    def migrations(self, rows: Sequence[Row]) -> None:
        """Write the list."""
        self.table(_ROW_COLUMNS, rows, "No migrations.")

    def migration(self, row: Row, events: Sequence[Row]) -> None:
        """Write everything about one migration."""
        self._facts(_facts(row))
        if error := row["meta"].get("error"):
            self._heading("Error")
            facts = [(key, str(error[key])) for key in _ERROR_FIELDS if error.get(key) not in (None, "")]
            self._facts(facts + [("duplicate", _duplicate(sample)) for sample in error.get("samples") or ()])
        for heading, sql in (("SQL forwards", row["sql_forwards"]), ("SQL backwards", row["sql_backwards"])):
            self.sql(heading, sql)
        self._heading("Events")
        self.table(EVENT_COLUMNS, events)

    def sql(self, heading: str, text: str) -> None:
        """Write SQL below a heading."""
        self._heading(heading)
        text = printable(text.strip())
        if self.rich:
            self.console.print(Syntax(text, "sql", theme="ansi_dark", word_wrap=True, background_color="default"))
        else:
            self.line(text)

    def table(self, columns: Columns, rows: Sequence[Any], nothing: str = "") -> None:
        """Write a table; where there are no rows and there is something to say instead, that."""
        if nothing and not rows:
            self.line(nothing)
            return
        header = [name for name, _ in columns]
        cells = [[printable(read(row)) for _, read in columns] for row in rows]
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
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
        self.console.print(table)

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def _facts(self, facts: Iterable[tuple[str, str]]) -> None:
        pairs = [(term, printable(text)) for term, text in facts]
        width = max(len(term) for term, _ in pairs)
        for term, text in pairs:
            style = STYLES.get(text, "") if term == "status" else ""
            self.console.print(Text.assemble((f"{term:<{width}}  ", "dim"), (text, style)), soft_wrap=True)

    def _aligned(self, lines: Sequence[Sequence[str]]) -> None:
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            self.line("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _throttling(row: Row) -> str:
    return throttling(row["throttled"])


def _set_aside(row: Row) -> str:
    # Only the detail of the contract has it, not the list.
    return f"{row['quarantined']} rows set aside" if row.get("quarantined") else ""


def _duplicate(sample: dict[str, Any]) -> str:
    return f"{', '.join(f'{name} = {value}' for name, value in sample['key'].items())}: {sample['count']} rows"


def _facts(row: Row) -> list[tuple[str, str]]:
    facts = [
        ("id", str(row["id"])),
        ("name", row["name"]),
        ("database", row["database"]),
        ("status", row["status"]),
        ("direction", row["direction"]),
        ("progress", progress(row)),
        ("blocked by", "; ".join(blockers(row["waiting_on"]))),
        ("throttled", _throttling(row).removeprefix("throttled ")),
        ("set aside", _set_aside(row)),
        ("tuning", json.dumps(row["tuning"]) if row["tuning"] else ""),
        ("priority", str(row["priority"] or "")),
        ("attempt", f"{row['attempt']} of {row['max_attempts']}"),
        ("stop requested", row["stop_requested"] or ""),
        ("worker", row["worker"]),
        ("requested by", row["requested_by"]),
        ("job id", str(row["meta"].get("job_id") or "")),
    ]
    facts += [(field.removesuffix("_at").replace("_", " "), moment(row[field])) for field in _TIMES]
    return [(term, text) for term, text in facts if text not in ("", "-")]
