"""Waiting over HTTP: the service holds the answer about one migration, the others are looked at now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..words import Row
from .service import LONGEST_HOLD, Service, retry_after
from .watching import Exit, View, Watch, verdict

_SOON = 2.0  # seconds, where the service does not say when to look again


@dataclass
class Look:
    """What is known of a migration: the ETag, and from which moment of `time.monotonic` on to look again."""

    tag: str = ""
    due: float = float("-inf")


def wait(service: Service, watches: Sequence[Watch], view: View) -> Exit:
    """Look at the migrations until each is over, or until the service's `until`. Brings the row of each up to date.

    Raises Refused and Unreachable.
    """
    looks = {watch.row["id"]: Look() for watch in watches}
    with view:
        view.show(watch.row for watch in watches)
        while (going := [watch for watch in watches if not watch.over]) and time.monotonic() < service.until:
            _look_at_those_due(service, going, looks)
            view.show(watch.row for watch in watches)
    return verdict(watches)


def _look_at_those_due(service: Service, going: Sequence[Watch], looks: dict[int, Look]) -> None:
    """Look at each that is due; of the last one, if possible one in progress, there may be news for a while."""
    now = time.monotonic()
    due = [watch for watch in going if looks[watch.row["id"]].due <= now]
    if not due:
        time.sleep(max(0.0, min([service.until, *(look.due for look in _of(going, looks))]) - now))
        return
    *at_once, last = sorted(due, key=lambda watch: watch.row["status"] == "IN PROGRESS")
    for watch in at_once:
        watch.row = look_at(service, watch.row, looks[watch.row["id"]])
    others = [watch for watch in going if watch is not last]
    until = min([service.until, *(look.due for look in _of(others, looks))])
    last.row = look_at(service, last.row, looks[last.row["id"]], until)


def _of(watches: Sequence[Watch], looks: dict[int, Look]) -> Iterator[Look]:
    return (looks[watch.row["id"]] for watch in watches)


def look_at(service: Service, row: Row, look: Look, until: float = 0.0) -> Row:
    """Return the migration as it is now, or as it is when there is news, up to the moment `until`; notes it in `look`.

    Raises Refused and Unreachable.
    """
    # Without a tag there would be no news but the end.
    hold = max(0, int(min(LONGEST_HOLD, until - time.monotonic()))) if look.tag else 0
    answer = service.get(f"/{row['id']}", tag=look.tag, hold=hold)
    # Where nothing was held though it was asked for, all places to wait are taken: then it is to be asked rarely.
    again = "Preference-Applied" in answer.headers or not look.tag
    look.due = time.monotonic() + (0.0 if again else retry_after(answer, _SOON))
    look.tag = answer.headers.get("ETag", "")
    found: Any = row if answer.status_code == 304 else answer.json()
    return dict(found)
