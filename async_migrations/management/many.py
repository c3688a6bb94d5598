"""What the command asks of many migrations at once: which are meant, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet

from async_migrations import lifecycle
from async_migrations.asking import MOST, Item, ask_each
from async_migrations.client.watching import Exit
from async_migrations.lifecycle.gate import prefix_of_app
from async_migrations.management.display import Display
from async_migrations.management.origin import origin
from async_migrations.models import AsyncMigrationStatus

# The option, and the condition that it is.
_FILTERS = {
    "status": "status__in",
    "name": "name",
    "search": "name__icontains",
    "kind": "kind",
    "app": "name__startswith",
}
_TERMS = ("run_at", "priority", "max_attempts", "force")


def chosen(options: dict[str, Any]) -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations that all filters of the options match."""
    conditions = {**_FILTERS, "database": "database"}
    given = {name: options[name] for name in conditions if options.get(name)}
    if "app" in given:
        given["app"] = prefix_of_app(given["app"])
    return lifecycle.rows().filter(**{conditions[name]: value for name, value in given.items()})


def refuse_filters(options: dict[str, Any]) -> None:
    """Raise CommandError where migrations are named and filtered besides; --database says which of a name is meant."""
    if given := [name for name in (*_FILTERS, "ids", "dry_run") if options.get(name)]:
        raise CommandError(
            f"--{given[0].replace('_', '-')} is for many at once: leave out the migrations that are named.",
            returncode=Exit.REFUSED,
        )


def ask(verb: str, options: dict[str, Any]) -> list[Item]:
    """Ask for a verb on each migration that has one of the ids, or matches the filters.

    Raises CommandError for neither or both, and for too many.
    """
    filters = [name for name in (*_FILTERS, "database") if options.get(name)]
    if not (filters or options["ids"]):
        message = "Say which migrations: ID, --ids, or a filter such as --status or --database."
        raise CommandError(message, returncode=Exit.REFUSED)
    if filters and options["ids"]:
        message = f"Say which migrations in one way: --ids are of one migration each, leave --{filters[0]} out."
        raise CommandError(message, returncode=Exit.REFUSED)
    if given := [name for name in _TERMS if options.get(name) not in (None, False)]:
        option = given[0].replace("_", "-")
        message = f"--{option} is for migrations that are named by ID, not for many at once."
        raise CommandError(message, returncode=Exit.REFUSED)
    matching = chosen(options).order_by("id").values_list("id", flat=True)
    pks = sorted(set(options["ids"])) if options["ids"] else list(matching[: MOST + 1])
    if len(pks) > MOST:
        message = f"More than {MOST} migrations match. Nothing was done. Ask for fewer at once."
        raise CommandError(message, returncode=Exit.REFUSED)
    return ask_each(verb, pks, origin(), among=lifecycle.rows(), dry_run=options["dry_run"])


def show(display: Display, items: Sequence[Item], *, dry_run: bool) -> None:
    """Write what became of each; in JSON mode as the API's bulk doors have it."""
    if display.as_json:
        display.json([_as_dict(item) for item in items])
        return
    for item in items:
        row = item.migration
        what = f"{row.name} on {row.database}: " if row else ""
        would = "would be " if dry_run else ""
        became = str(item.error) if item.error else row.status if row and not dry_run else ""
        display.line(f"{item.id} {what}{would}{item.outcome.replace('_', ' ')}{f', {became}' if became else ''}")
    if not items:
        display.line("No migrations.")


def _as_dict(item: Item) -> dict[str, Any]:
    row = item.migration
    return {
        "id": item.id,
        "name": row and row.name,
        "database": row and row.database,
        "outcome": item.outcome,
        "status": row and row.status,
        "code": item.error and item.error.code,
        "detail": item.error and str(item.error),
    }
