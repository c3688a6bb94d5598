"""Which migrations are meant by what somebody types."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.management.base import CommandError

from async_migrations import lifecycle
from async_migrations.client.watching import Exit
from async_migrations.models import AsyncMigrationStatus


def find(words: Sequence[str], database: str | None) -> list[AsyncMigrationStatus]:
    """Return the migrations that are meant, each once, in the order given.

    words: ids, full names, or the last parts of names. Raises CommandError for one that is unknown or ambiguous.
    """
    rows = {row.pk: row for row in (_find(word, database) for word in words)}
    return list(rows.values())


def _find(word: str, database: str | None) -> AsyncMigrationStatus:
    known = lifecycle.rows().filter(database=database) if database else lifecycle.rows()
    if word.isdecimal():
        found = list(known.filter(pk=int(word)))
    else:
        found = list(known.filter(name=word)) or list(known.filter(name__endswith=f".{word}"))
    if len(found) == 1:
        return found[0]
    if not found:
        where = f" on database {database!r}" if database else ""
        raise CommandError(
            f"There is no migration {word!r}{where}; `manage.py async_migrations list` shows what there is.",
            returncode=Exit.REFUSED,
        )
    which = ", ".join(f"{row.pk} is {row.name} on {row.database}" for row in reversed(found))
    raise CommandError(f"{word!r} is ambiguous: {which}. Say the id, or --database.", returncode=Exit.REFUSED)
