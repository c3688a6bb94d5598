"""What was injected, how it ended, and how long it took until somebody had the work again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEADS = ("fault", "times", "how it ended", "recovery p50", "recovery max")


@dataclass
class Injection:
    """One fault, once. `ended` says how it ended; `recovery` is in seconds, None where there was nothing to recover."""

    ended: str = "wrong"
    recovery: float | None = None


@dataclass
class Ledger:
    """All injections of a run of pytest, by fault; `seed` is where the random moments come from."""

    seed: int
    server: str = ""
    entries: dict[str, list[Injection]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def injecting(self, fault: str, moment: float | None = None) -> Iterator[Injection]:
        """Count one injection; what fails inside says which seed and moment to repeat."""
        injection = Injection()
        self.entries[fault].append(injection)
        try:
            yield injection
        except BaseException as exc:
            injection.ended = "wrong"
            at = "" if moment is None else f", {moment:.3f} s after the claim"
            exc.add_note(f"Fault: {fault}{at}; injection {len(self.entries[fault])}, seed {self.seed}.")
            raise

    def remark(self, fault: str, text: str) -> None:
        """Add what was measured beside the times."""
        self.remarks[fault] = f"; {text}"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the lines of the table, as text."""
        for fault, injections in self.entries.items():
            ways = Counter(injection.ended for injection in injections)
            ended = ", ".join(f"{count} x {way}" if len(ways) > 1 else way for way, count in ways.most_common())
            ended += self.remarks.get(fault, "")
            times = [injection.recovery for injection in injections if injection.recovery is not None]
            figures = (f"{median(times):.1f} s", f"{max(times):.1f} s") if times else ("-", "-")
            yield (fault, str(len(injections)), ended, *figures)

    def as_text(self) -> list[str]:
        """Return the table as lines for a terminal."""
        table = [HEADS, *self.rows()]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADS))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]

    def as_markdown(self) -> str:
        """Return the table as markdown, with the seed and the server that it comes from."""
        lines: Iterable[tuple[str, ...]] = [HEADS, ("---",) * len(HEADS), *self.rows()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"Seed {self.seed}, {self.server}, two cores.\n\n{table}"

    def write(self, document: Path) -> None:
        """Put the table between the two markers of a document."""
        before, _, rest = document.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        document.write_text(f"{before}{BEGIN}\n{self.as_markdown()}\n{END}{after}")
