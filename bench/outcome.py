"""What a measurement comes to: a table, and the bounds that it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Bound:
    """A figure that must not be larger than it may be."""

    what: str
    measured: float
    limit: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is kept; a figure that is not a number keeps nothing."""
        return self.measured <= self.limit

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.3g}{self.unit}, at most {self.limit:g}{self.unit}"


@dataclass(frozen=True)
class Outcome:
    """The tables of one measurement, what has to be known about them, and its bounds."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    bounds: tuple[Bound, ...]
