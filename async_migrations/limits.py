"""The values that a file or live tuning may give: what each may be, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .errors import InvalidDefinition


class OutOfLimits(InvalidDefinition):
    """Values that cannot be used; `errors` says by name what each should be."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {error}" for name, error in errors.items()))
        self.errors = dict(errors)


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:,} to {self.high:,}"

    def holds(self, value: object) -> bool:
        """Whether a value is such a number; True and False are none."""
        wanted = int if self.whole else int | float
        return isinstance(value, wanted) and not isinstance(value, bool) and self.low <= value <= self.high


NUMBERS: dict[str, Number] = {
    "batch_size": Number(1, 1_000_000, whole=True),
    "target_batch_seconds": Number(0.01, 60),
    "batch_delay_seconds": Number(0, 3600),
    # Less than a row in 100 s is a pause.
    "max_rows_per_second": Number(0.01, 1_000_000_000),
    "duty_cycle": Number(0.05, 1),
    "priority": Number(-(2**15), 2**15 - 1, whole=True),
}
#: What `run` may say besides the time.
TERMS: dict[str, Number] = {"priority": NUMBERS["priority"], "max_attempts": Number(1, 1000, whole=True)}
#: What a health check compares with; None leaves that check out. Above the last one it goes gently, and does not wait.
THRESHOLDS = (
    "replica_lag_seconds",
    "lock_waiters",
    "active_sessions",
    "wal_archive_queue",
    "wraparound_vacuum",
    "foreground_writes",
)
THRESHOLD = Number(0, 1_000_000_000_000)

#: Every name that live tuning knows.
NAMES = (*NUMBERS, "throttle")


def check(values: Mapping[str, object]) -> None:
    """Raise OutOfLimits, with all that is wrong, unless every value may be given under its name; None always may."""
    if errors := {name: error for value in values.items() for name, error in _errors(*value)}:
        raise OutOfLimits(errors)


def check_terms(values: Mapping[str, object]) -> None:
    """Raise OutOfLimits, with all that is wrong, unless `run` may be given every value under its name of TERMS."""
    if errors := {
        name: f"This is not {TERMS[name]}." for name, value in values.items() if not TERMS[name].holds(value)
    }:
        raise OutOfLimits(errors)


def _errors(name: str, value: object) -> Iterator[tuple[str, str]]:
    if name not in NAMES:
        yield name, f"There is no such value. There are: {', '.join(NAMES)}."
    elif value is None:
        return
    elif name == "throttle":
        yield from _errors_of_thresholds(value)
    elif not NUMBERS[name].holds(value):
        yield name, f"This is not {NUMBERS[name]}."


def _errors_of_thresholds(value: object) -> Iterator[tuple[str, str]]:
    if not isinstance(value, bool | Mapping):
        yield "throttle", "Say true, false, or an object of thresholds."
    elif isinstance(value, Mapping):
        for name, threshold in value.items():
            if name not in THRESHOLDS:
                yield f"throttle.{name}", f"There is no such threshold. There are: {', '.join(THRESHOLDS)}."
            elif threshold is not None and not THRESHOLD.holds(threshold):
                yield f"throttle.{name}", f"This is not {THRESHOLD}."
