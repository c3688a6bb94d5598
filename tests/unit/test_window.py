"""The hours in which a backfill may work: how they are read, and when they open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_migrations.errors import InvalidDefinition
from async_migrations.execution.window import Window

BERLIN = ZoneInfo("Europe/Berlin")

# The clocks of Berlin: put forward at 02:00 on 29 March 2026, put back at 03:00 on 25 October 2026.


def opens_in(window: str, now: str, zone: str = "UTC") -> str:
    """Return how long it takes, as text, at a local time; `now` without a zone."""
    return str(Window.parse(window).opens_in(datetime.fromisoformat(now).replace(tzinfo=ZoneInfo(zone))))


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        ("22:00-06:00", "2026-11-22T21:59:00", "0:01:00"),
        ("22:00-06:00", "2026-11-22T22:00:00", "0:00:00"),
        ("22:00-06:00", "2026-11-23T05:59:59", "0:00:00"),
        ("22:00-06:00", "2026-11-23T06:00:00", "16:00:00"),
        ("22:00-06:00 Europe/Berlin", "2026-11-22T20:00:00", "1:00:00"),
        ("00:00-24:00", "2026-11-22T00:00:00", "0:00:00"),
        ("22:00-00:00", "2026-11-22T23:59:59", "0:00:00"),
        ("12:00-13:00; 18:00-19:00", "2026-11-22T13:00:00", "5:00:00"),
        ("12:00-13:00, 18:00-19:00", "2026-11-22T18:30:00", "0:00:00"),
        ("08:00-09:00 Asia/Tokyo; 08:00-09:00 Europe/Berlin", "2026-11-22T00:00:00", "7:00:00"),
        # 22 November 2026 is a Sunday.
        ("Mon-Fri 22:00-06:00", "2026-11-22T23:00:00", "23:00:00"),
        ("Mon-Fri 22:00-06:00", "2026-11-28T05:00:00", "0:00:00"),  # Saturday morning, opened on Friday
        ("Mon-Fri 22:00-06:00", "2026-11-23T05:00:00", "17:00:00"),  # Monday morning
        ("sat - mon 10:00-11:00 UTC", "2026-11-24T10:00:00", "4 days, 0:00:00"),
        ("Sun 10:00-11:00", "2026-11-22T11:00:00", "6 days, 23:00:00"),
    ],
)
def test_it_is_open_or_says_when_it_will_be(window, now, expected):
    assert opens_in(window, now) == expected


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        # Put forward: the night has an hour less.
        ("04:00-06:00 Europe/Berlin", "2026-03-29T00:00:00", "3:00:00"),
        ("01:00-04:00 Europe/Berlin", "2026-03-29T03:59:00", "0:00:00"),
        # A time that the clock skips: 02:30 would be half an hour behind 02:00, which is 03:30 on this day.
        ("02:30-06:00 Europe/Berlin", "2026-03-29T00:00:00", "2:30:00"),
        # Nothing is left of it, it opens on the next day.
        ("02:30-03:15 Europe/Berlin", "2026-03-29T00:00:00", "1 day, 1:30:00"),
        ("Sun 02:30-03:15 Europe/Berlin", "2026-03-29T00:00:00", "7 days, 1:30:00"),
        # Put back: the night has an hour more, and 02:30 is the first one.
        ("04:00-06:00 Europe/Berlin", "2026-10-25T00:00:00", "5:00:00"),
        ("22:00-02:30 Europe/Berlin", "2026-10-25T02:29:00", "0:00:00"),
        ("22:00-02:30 Europe/Berlin", "2026-10-25T02:30:00", "20:30:00"),
    ],
)
def test_it_opens_at_the_hour_of_the_wall_clock_when_clocks_change(window, now, expected):
    # What is left to wait is real time: the difference of two local times would be an hour off.
    assert opens_in(window, now, "Europe/Berlin") == expected


@pytest.mark.parametrize(
    ("window", "why"),
    [
        ("", "is not like"),
        ("22-6", "is not like"),
        ("22:00-06:00;", "is not like"),
        ("22:00-06:00 Europe/Berlin please", "is not like"),
        ("25:00-06:00", "25:00 is not a time of the day"),
        ("22:60-06:00", "22:60 is not a time of the day"),
        ("22:00-24:01", "24:01 is not a time of the day"),
        ("22:00-22:00", "all day is 00:00-24:00"),
        ("24:00-06:00", "all day is 00:00-24:00"),
        ("Mon-Foo 22:00-06:00", "'Foo' is not a day"),
        ("22:00-06:00 Europe/Atlantis", "'Europe/Atlantis' is not a time zone"),
        ("22:00-06:00 ../etc/passwd", "is not a time zone"),
        ("22:00-06:00 Europe", "is not a time zone"),
        ("12:00-13:00; 22:00-06:00 Europe/Berlin", "name the time zone in each entry"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(window, why):
    with pytest.raises(InvalidDefinition, match=why):
        Window.parse(window)


clocks = st.integers(0, 24 * 60 - 1)
moments = st.integers(0, 10 * 365 * 86400).map(lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(0, seconds))


@given(clocks, clocks.filter(bool), st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]), moments)
def test_it_is_open_when_it_said_that_it_would_be_and_not_before(opens, length, zone, now):
    closes = (opens + length) % (24 * 60)
    text = "-".join(f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (opens, closes))
    window = Window.parse(f"{text} {zone}")
    wait = window.opens_in(now)
    assert timedelta() <= wait < timedelta(hours=49)
    assert window.opens_in(now + wait) == timedelta()
    if wait:
        assert window.opens_in(now + wait - timedelta(microseconds=1)) == timedelta(microseconds=1)
