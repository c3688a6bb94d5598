"""What the command does about holds: show, set and lift them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from async_migrations import asking, lifecycle
from async_migrations.client.watching import Exit
from async_migrations.management.display import Display
from async_migrations.management.origin import origin

Options = dict[str, Any]


def hold(display: Display, options: Options) -> Exit:
    """Set a hold; without a reason show those that are in force."""
    if options["reason"] is None:
        if options["until"]:
            raise CommandError("Say --reason too: others wonder why nothing moves.", returncode=Exit.REFUSED)
        found = list(lifecycle.holds_in_force(options["database"]))
        display.holds(found)
        return Exit.DONE
    reason, until, alias = options["reason"].strip(), options["until"], options["database"]
    if problem := _wrong_with_hold(reason, until, alias):
        raise CommandError(problem, returncode=Exit.REFUSED)
    display.holds([lifecycle.set_hold(alias or "", reason, origin(), expires_at=until)])
    return Exit.DONE


def lift(display: Display, options: Options) -> Exit:
    """End the hold on the database that the options name, or the one on all of them."""
    alias = options["database"]
    lifted = asking.lift(alias or "", origin())
    where = f"on {alias}" if alias else "on all databases"
    display.line(f"Lifted: {lifted} ({where})." if lifted else f"Nothing to do: there is no hold {where}.")
    left = list(lifecycle.holds_in_force(alias))
    if left or display.as_json:
        display.holds(left)
    return Exit.DONE


def _wrong_with_hold(reason: str, until: datetime | None, alias: str | None) -> str:
    """Say why a hold cannot be set; empty when it can."""
    if not 0 < len(reason) <= 1000:
        return "Give a --reason of 1 to 1000 characters."
    if until is not None and until <= timezone.now():
        return f"--until {until.isoformat()} is over: the hold would never be in force."
    known = lifecycle.databases()
    return f"There is no database {alias!r}. There are: {', '.join(known)}." if alias and alias not in known else ""
