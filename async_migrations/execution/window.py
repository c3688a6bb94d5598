"""The hours in which a migration may work: "22:00-06:00 Europe/Berlin", "Mon-Fri 22:00-06:00; Sat-Sun 00:00-24:00"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import InvalidDefinition
from .attempt import Postponed

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_HOURS = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:\s*-\s*(?P<last>[a-z]{3}))?\s+)?"
    r"(?P<opens>\d\d?:\d\d)\s*-\s*(?P<closes>\d\d?:\d\d)(?:\s+(?P<zone>\S+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Hours:
    """One entry: from when to when after midnight, on which days it opens (Monday is 0)."""

    opens: timedelta
    closes: timedelta
    days: frozenset[int]
    zone: tzinfo

    def around(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield (opens, closes) in UTC, by day, from what may be open now to the week after next.

        A time that the clock skips counts as if it had not been put forward yet, one that it shows twice is the first:
        so do calendars (RFC 5545). Hours that vanish in this way are left out.
        """
        today = datetime.combine(now.astimezone(self.zone).date(), time())
        for midnight in (today + number * _DAY for number in range(-2, 15)):
            opens, closes = (
                (midnight + after).replace(tzinfo=self.zone).astimezone(UTC) for after in (self.opens, self.closes)
            )
            if midnight.weekday() in self.days and opens < closes:
                yield opens, closes


@dataclass(frozen=True)
class Window:
    """Hours of the day or the week, see `parse`."""

    hours: tuple[_Hours, ...]

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read e.g. "22:00-06:00 Europe/Berlin" or "Mon-Fri 22:00-06:00 UTC; Sat 08:00-24:00 UTC".

        Entries are separated by semicolons or commas. Days are those on which it opens. The zone is UTC where no entry
        names one.

        Raises InvalidDefinition.
        """
        found = [_entry(part.strip(), text) for part in re.split("[;,]", text)]
        zones = {match["zone"] is None for match in found}
        if len(zones) > 1:
            raise _refused(text, "name the time zone in each entry, or in none, which means UTC")
        return cls(tuple(_hours(match, text) for match in found))

    def opens_in(self, now: datetime) -> timedelta:
        """Return how long it takes until the window opens, zero while it is open.

        now: an aware time.
        """
        waits = (opens - now for hours in self.hours for opens, closes in hours.around(now) if closes > now)
        return max(min(waits), timedelta())


def require_open(window: Window | None) -> None:
    """Raise Postponed while the window is shut; None is always open."""
    if window is not None and (shut := window.opens_in(datetime.now(UTC))):
        raise Postponed("waits for its window to open", shut.total_seconds())


def _entry(part: str, text: str) -> re.Match[str]:
    if match := _HOURS.fullmatch(part):
        return match
    raise _refused(text, f"{part!r} is not like '22:00-06:00 Europe/Berlin' or 'Mon-Fri 22:00-06:00 UTC'")


def _hours(match: re.Match[str], text: str) -> _Hours:
    opens, closes = _time(match["opens"], text), _time(match["closes"], text)
    if opens in (closes, _DAY):
        raise _refused(text, "it must not open when it closes; all day is 00:00-24:00")
    first, last = _day(match["first"] or "mon", text), _day(match["last"] or match["first"] or "sun", text)
    days = frozenset((first + number) % 7 for number in range((last - first) % 7 + 1))
    return _Hours(opens, closes if closes > opens else closes + _DAY, days, _zone(match["zone"], text))


def _time(clock: str, text: str) -> timedelta:
    hour, minute = map(int, clock.split(":"))
    if minute > 59 or hour * 60 + minute > 24 * 60:
        raise _refused(text, f"{clock} is not a time of the day")
    return timedelta(hours=hour, minutes=minute)


def _day(name: str, text: str) -> int:
    if name.lower() not in _DAYS:
        raise _refused(text, f"{name!r} is not a day; say one of Mon, Tue, Wed, Thu, Fri, Sat, Sun")
    return _DAYS.index(name.lower())


def _zone(name: str | None, text: str) -> tzinfo:
    if name in (None, "UTC"):
        return UTC
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise _refused(text, f"{name!r} is not a time zone that is known here, such as Europe/Berlin") from exc


def _refused(text: str, why: str) -> InvalidDefinition:
    return InvalidDefinition(f"The window {text!r} cannot be read: {why}.")
