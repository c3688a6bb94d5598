"""The tables of codes in docs/, out of the code that has them: `make openapi` writes them, `make check` compares.

Between the markers of a page there is nothing that was written by hand; around them there is nothing else.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from async_migrations.codes import ERRORS
from async_migrations.execution.findings import CODES
from async_migrations.rest.codes import PROBLEMS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def errors() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of errors, the heads first."""
    yield "code", "repeated", "what it means", "what to do"
    for code, error in sorted(ERRORS.items()):
        yield f"`{code}`", "yes" if error.repeated else "no", error.means, error.then


def problems() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of problems, by status."""
    yield "problem", "status", "what it means", "what to do"
    for code, problem in sorted(PROBLEMS.items(), key=lambda item: item[1].status):
        yield f"`{code}`", str(problem.status), problem.means, problem.then


def findings() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of what a preflight finds."""
    yield "finding", "levels", "what it means"
    for code, finding in sorted(CODES.items()):
        yield f"`{code}`", ", ".join(finding.levels), finding.means


#: page -> what makes its tables, by the name in the markers
PAGES: dict[Path, tuple[Callable[[], Iterator[tuple[str, ...]]], ...]] = {
    DOCS / "errors.md": (errors, problems),
    DOCS / "preflight.md": (findings,),
}


def generated(page: Path) -> str:
    """Return the page with its tables as the code has them. Raises ValueError where a marker is not there once."""
    text = page.read_text()
    for rows in PAGES[page]:
        name = rows.__name__
        between = re.compile(rf"(?<=^<!-- {name}: written by make openapi -->\n).*?(?=^<!-- end -->$)", re.M | re.S)
        places = list(between.finditer(text))
        if len(places) != 1:
            raise ValueError(f"{page.name} has {len(places)} places for the table of {name}, it should be one.")
        text = text[: places[0].start()] + _table([*rows()]) + text[places[0].end() :]
    return text


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["", lines[0], "|---" * len(rows[0]) + "|", *lines[1:], "", ""])


def differences() -> str:
    """Return what is in the pages and what should be, as `diff -u` shows it; empty where they are alike."""
    texts = [(page, page.read_text().splitlines(True), generated(page).splitlines(True)) for page in PAGES]
    return "".join(
        line for page, there, new in texts for line in difflib.unified_diff(there, new, f"docs/{page.name}", "the code")
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(differences() or None)
    for path in PAGES:
        path.write_text(generated(path))
