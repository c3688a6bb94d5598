"""How large the next batch is, and how long to rest before it.

The size follows the rate, as TCP follows the round-trip time: an exponentially weighted moving average of rows a second
(gain 1/4; Jacobson, "Congestion Avoidance and Control", 1988, has 1/8 for a far noisier signal), times the time that a
batch is to take:

    rate <- rate + (rows / seconds - rate) / 4,    size = rate * target

A batch that took more than twice its time says at once what the database can take now, so its own rate becomes the
average. Growth is at most twofold, so that a lucky batch costs little; the size stays between 1 and the bound.

The rest after a batch that took t is t * (1 - d) / d, so that the work takes the share d of the time, its duty cycle.

While others write it goes gently: a commit of theirs waits until the disk has all that a batch has written before, so
a batch is to take no longer than such a commit may, and the disk is to be done with it before the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_GAIN = 0.25
_OUTLIER = 2.0
_GROWTH = 2.0

# Seconds of a batch while it goes gently: a few hundred rows. Far smaller ones would be nothing but their commits.
_GENTLE_SECONDS = 0.0015

#: Rows of the first batch, before anything is known: half a second where a row takes 5 ms, and few batches from the
#: largest where it takes none.
FIRST = 100


@dataclass(frozen=True)
class Wishes:
    """What the file, the settings and live tuning ask for.

    ceiling: rows of the largest batch. target: seconds that a batch is to take. delay: seconds of rest after each
    batch. duty: share of the time at work, 0 to 1. rows_per_second: the most, None for no bound.
    """

    ceiling: int
    target: float
    delay: float
    duty: float
    rows_per_second: float | None

    def gently(self, duty: float) -> Wishes:
        """Return what is asked for while others write. duty: share of the time at work then."""
        return replace(self, target=min(self.target, _GENTLE_SECONDS), duty=min(self.duty, duty))


class Pace:
    """Counts what batches take, and says what comes next."""

    def __init__(self, size: int | None = None) -> None:
        self._size = size or FIRST
        self._rate: float | None = None

    def size(self, wishes: Wishes) -> int:
        """Return the rows of the next batch."""
        bounds = [self._size, wishes.ceiling]
        if wishes.rows_per_second is not None:  # No burst of more than a second's worth.
            bounds.append(int(wishes.rows_per_second))
        return max(1, min(bounds))

    def took(self, rows: int, seconds: float, wishes: Wishes) -> None:
        """Learn from a batch that was carried out. rows: those that it was meant for."""
        measured = rows / max(seconds, 1e-4)
        outlier = seconds > _OUTLIER * wishes.target
        self._rate = measured if self._rate is None or outlier else self._rate + _GAIN * (measured - self._rate)
        self._size = max(1, round(min(self._rate * wishes.target, rows * _GROWTH)))

    def failed(self, rows: int) -> None:
        """Learn that a batch of so many rows could not be carried out as a whole: the next one is half of it."""
        self._size, self._rate = max(1, rows // 2), None

    @staticmethod
    def rest(rows: int, seconds: float, wishes: Wishes) -> float:
        """Return the seconds to rest after a batch."""
        rest = wishes.delay + seconds * (1 - wishes.duty) / wishes.duty
        if wishes.rows_per_second is not None:
            rest = max(rest, rows / wishes.rows_per_second - seconds)
        return rest
