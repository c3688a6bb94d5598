"""What the client asks of many migrations in one request: which are meant, and what the answer comes to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from ..words import Row
from .arguments import FILTERS
from .screen import Columns
from .watching import Exit

STATUSES = (
    "SCHEDULED",
    "STARTED",
    "IN PROGRESS",
    "PAUSED",
    "FINISHED",
    "ERROR",
    "CANCELLED",
    "ROLLED BACK",
)

COLUMNS: Columns = (
    ("ID", lambda item: str(item["id"])),
    ("OUTCOME", lambda item: item["outcome"].replace("_", " ")),
    ("STATUS", lambda item: item["status"] or "-"),
    ("DATABASE", lambda item: item["database"] or "-"),
    ("CODE", lambda item: item["code"] or "-"),
    ("NAME", lambda item: item["name"] or "-"),
)


def body(options: argparse.Namespace) -> dict[str, Any]:
    """Return the body of the request that means what the options say."""
    if options.ids:
        return {"ids": options.ids, "dry_run": options.dry_run}
    given = {name: getattr(options, name) for name in (*FILTERS, "database")}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
    if options.all:  # The service takes no filter that is empty: a variable of a script may be.
        chosen["status"] = list(STATUSES)
    return {"filter": chosen, "dry_run": options.dry_run}


def refusals(items: Sequence[Row]) -> Iterator[str]:
    """Say of each that was not done as asked why."""
    for item in items:
        if item["outcome"] == "refused":
            yield f"Refused: {item['id']} {item['name']} on {item['database']}: {item['detail']} [{item['code']}]"
        elif item["outcome"] == "not_found":
            yield f"Refused: there is no migration {item['id']}."


def granted(items: Sequence[Row]) -> list[Row]:
    """Return those that were done as asked, or were so before."""
    return [item for item in items if item["outcome"] in {"accepted", "unchanged"}]


def verdict(items: Sequence[Row]) -> Exit:
    """Return what the answer has come to; without a broker a migration has been carried out by now."""
    if len(granted(items)) < len(items):
        return Exit.REFUSED
    return Exit.FAILED if any(item["status"] == "ERROR" for item in items) else Exit.DONE
