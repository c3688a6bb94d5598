"""What the command does about what builds have left behind: list and drop it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from async_migrations.asking import drop
from async_migrations.client.watching import Exit
from async_migrations.errors import ExecutionError, NotALeftover
from async_migrations.execution import janitor
from async_migrations.execution.janitor import Leftover
from async_migrations.lifecycle import audit
from async_migrations.management.display import Display
from async_migrations.management.origin import origin
from async_migrations.words import printable

Options = dict[str, Any]


def act(display: Display, errors: OutputWrapper, options: Options) -> Exit:
    """List what builds have left behind; with --drop, drop all of it but what is somebody's by now."""
    aliases = [options["database"]] if options["database"] else janitor.databases()
    try:
        found = [leftover for alias in aliases for leftover in janitor.leftovers(alias)]
    except ExecutionError as exc:
        code = Exit.UNREACHABLE if exc.retryable else Exit.REFUSED
        raise CommandError(f"{exc.message} {exc.hint or ''}".strip(), returncode=code) from exc
    if not options["drop"]:
        display.leftovers(found)
        return Exit.DONE
    codes = [_drop(leftover, display, errors) for leftover in found]
    display.leftovers([leftover for leftover, code in zip(found, codes, strict=True) if code == Exit.DONE])
    return max(codes, default=Exit.DONE)


def _drop(leftover: Leftover, display: Display, errors: OutputWrapper) -> Exit:
    """Drop one; what becomes of it keeps none of the others."""
    name = f"{leftover.schema}.{leftover.name} on {leftover.database}"
    try:
        drop(leftover.database, leftover.schema, leftover.name, origin(), janitor.drop)
    except NotALeftover as exc:
        audit.refuse("drop_leftover", origin(), exc.code, str(exc), database=leftover.database)
        errors.write(printable(f"Refused: {exc}"))
        return Exit.REFUSED
    except ExecutionError as exc:
        failed = audit.Outcome.FAILED
        audit.refuse("drop_leftover", origin(), exc.code, str(exc), database=leftover.database, outcome=failed)
        errors.write(printable(f"Not dropped: {name}: {exc.message} {exc.hint or ''}".rstrip()))
        return Exit.FAILED
    display.line(f"Dropped: {name}.")
    return Exit.DONE
