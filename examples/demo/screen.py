"""What a person sees: bars that move in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

TITLE_WIDTH = 48
BAR_WIDTH = 24
QUIET_SECONDS = 2  # between two lines of one step in a log
PLAIN_WIDTH = 120  # of tables where there is no terminal that says how wide it is


class Step:
    """One thing that is going on; tell it how far it is, and in the end what came of it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        self.good = True
        self._began = time.monotonic()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has been going on, or went on until `end`."""
        return (self._ended or time.monotonic()) - self._began

    def show(self, percent: float | None, note: str = "", below: str = "") -> None:
        """Say how far it is. percent: None where nobody knows. below: a second line."""

    def end(self, result: str, *, good: bool = True) -> None:
        """Say what came of it; what is still done within the block no longer counts as its time."""
        self.result, self.good, self._ended = result, good, time.monotonic()


class Screen:
    """Where the demo and the bench tell their story."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=PLAIN_WIDTH)

    def chapter(self, title: str) -> None:
        """Begin a new part of the story."""
        self._console.print(f"\n[bold]{title}[/]")

    def say(self, text: str) -> None:
        """Print an explanation."""
        self._console.print(Text(text, style="dim"))

    def print(self, what: RenderableType) -> None:
        """Print a table or a text."""
        self._console.print(what)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show one thing for as long as the block takes, then leave one line of it."""
        step: Step = _Bar(title, self._console) if self._console.is_terminal else _Lines(title, self._console)
        try:
            with step if isinstance(step, _Bar) else _no_bar():
                yield step
        except BaseException:
            self._line(step, "[red]✗[/]")
            raise
        self._line(step, "[green]✓[/]" if step.good else "[red]✗[/]")

    def _line(self, step: Step, mark: str) -> None:
        text = Text.from_markup(f"  {mark} ")
        text.append(f"{step.title:<{TITLE_WIDTH}}  {step.seconds:6.1f} s")
        if step.result:
            text.append("  ").append(step.result, style="" if step.good else "red")
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def checks(self, checks: Iterable[tuple[bool, str]]) -> None:
        """Print a list of claims, each with whether it holds."""
        for holds, claim in checks:
            mark = "[green]✓[/]" if holds else "[red]✗[/]"
            self._console.print(Text.from_markup(f"  {mark} ").append(claim), soft_wrap=not self._console.is_terminal)

    @staticmethod
    def table(title: str, *columns: str) -> Table:
        """Return an empty table; its first column is text, the others are figures."""
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
        return table


class _Bar(Step):
    """A step in a terminal: a bar that moves, and is gone at the end."""

    def __init__(self, title: str, console: Console) -> None:
        super().__init__(title)
        self._progress = _Progress(
            SpinnerColumn(),
            TextColumn(f"{{task.description:<{TITLE_WIDTH}}}", markup=False),
            BarColumn(BAR_WIDTH),
            _Percent(),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            console=console,
            transient=True,
            refresh_per_second=8,
        )
        self._task = self._progress.add_task(title, total=None, note="")

    def show(self, percent: float | None, note: str = "", below: str = "") -> None:
        self._progress.below = below
        # `update` takes None for "as it was"; here it means that nobody knows.
        self._progress.tasks[0].total = None if percent is None else 100.0
        self._progress.update(self._task, completed=percent or 0.0, note=f"{self.seconds:.0f} s  {note}")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()


class _Progress(Progress):
    """A bar with a line below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(f"  {self.below}", style="dim")


class _Percent(ProgressColumn):
    """The share that is done, blank where nobody knows it."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:4.0f} %" if task.total else "      ")


class _Lines(Step):
    """A step in a log: one line at the end, and one for each new note where it takes its time."""

    def __init__(self, title: str, console: Console) -> None:
        super().__init__(title)
        self._console = console
        self._said = ("", self._began)

    def show(self, percent: float | None, note: str = "", below: str = "") -> None:
        before, then = self._said
        if note != before and time.monotonic() - then > QUIET_SECONDS:
            share = "" if percent is None else f"{percent:.0f} % "
            self._console.print(Text(f"    … {self.title}, {self.seconds:.0f} s: {share}{note}"), soft_wrap=True)
            self._said = (note, time.monotonic())


@contextmanager
def _no_bar() -> Iterator[None]:
    yield
