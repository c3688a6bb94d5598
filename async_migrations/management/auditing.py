"""The audit at the command line: written out a line at a time, and cut off where it is old enough."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError
from django.core.serializers.json import DjangoJSONEncoder

from async_migrations.client.watching import Exit
from async_migrations.contract import time_as_text
from async_migrations.lifecycle import audit
from async_migrations.management.display import Display
from async_migrations.management.origin import origin


def export(display: Display, options: dict[str, Any]) -> None:
    """Write the entries that the options name, oldest first; in JSON mode each is one object on a line of its own.

    Raises CommandError.
    """
    if options["older_than"] is not None:
        raise CommandError("--older-than is for --prune; to choose what is shown say --until.", returncode=Exit.REFUSED)
    found = audit.entries(since=options["since"], until=options["until"], by=options["user"])
    if options["database"]:
        found = found.filter(database=options["database"])
    for entry in audit.as_lines(found):
        entry["at"] = time_as_text(entry["at"])
        if display.as_json:
            display.console.file.write(json.dumps(entry, cls=DjangoJSONEncoder, ensure_ascii=False) + "\n")
        else:
            display.line(_in_words(entry))


def prune(display: Display, options: dict[str, Any]) -> None:
    """Remove the entries that are older than the options say. Raises CommandError."""
    if options["older_than"] is None:
        raise CommandError("Say --older-than too, such as 365d.", returncode=Exit.REFUSED)
    if any(options[name] for name in ("since", "until", "user", "database")):
        message = "--prune removes what is old, whoever asked for what: say --older-than and nothing else."
        raise CommandError(message, returncode=Exit.REFUSED)
    try:
        removed = audit.prune(options["older_than"], origin())
    except ValueError as exc:
        raise CommandError(str(exc), returncode=Exit.REFUSED) from exc
    display.line(f"Removed: {removed} audit entries.")
    if display.as_json:
        display.json({"removed": removed})


def _in_words(entry: dict[str, Any]) -> str:
    """Return an entry as one line for people: when, who and from where, what, of what, and what became of it."""
    where = " ".join(filter(None, (entry["channel"], entry["address"])))
    what = " ".join(filter(None, (entry["name"], f"on {entry['database']}" if entry["database"] else "")))
    changes = {name: [entry["before"].get(name), value] for name, value in entry["after"].items()}
    facts = {**({"changed": changes} if changes else {}), **entry["detail"]}
    became = " ".join(filter(None, (entry["outcome"], entry["code"])))
    told = json.dumps(facts, cls=DjangoJSONEncoder, ensure_ascii=False) if facts else ""
    said = (f"{entry['at']}", f"{entry['by'] or '-'} ({where})", f"{entry['action']} {what}".strip(), became, told)
    return "  ".join(filter(None, said))
