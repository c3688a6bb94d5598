"""The fault suite: real processes, real faults, at random moments out of a seed that is printed.

`make faults` runs it in full and prints a table; within `make test` each fault comes at fewer moments.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Process
from tests.db.conftest import book, index_is_valid, query  # noqa: F401 - a fixture
from tests.faults.ledger import Ledger
from tests.faults.scene import BUILD, INDEX, Crew, Scene

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
TOME_ROWS = 1_500_000

_LEDGER = pytest.StashKey[Ledger]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that exist where this folder is named on the command line, as `make faults` does."""
    group = parser.getgroup("faults")
    group.addoption("--faults-seed", type=int, help="where the random moments come from; default: a random one")
    group.addoption("--faults-full", action="store_true", help="every fault at all of its moments")
    group.addoption("--write-report", action="store_true", help="write the table into docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker, and choose the seed."""
    config.addinivalue_line("markers", "faults: kills, cuts and stops things; `make faults` runs all of it")
    seed = config.getoption("--faults-seed", default=None)
    config.stash[_LEDGER] = Ledger(random.randrange(1_000_000) if seed is None else seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.e2e)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it where that was asked for."""
    ledger = config.stash[_LEDGER]
    if not ledger.entries:
        return
    terminalreporter.section(f"faults, seed {ledger.seed}, {ledger.server}")
    for line in ledger.as_text():
        terminalreporter.write_line(line)
    if config.getoption("--write-report", default=False):
        ledger.write(REPORT)
        terminalreporter.write_line(f"written into {REPORT.name}")


class Chance:
    """How often and when a fault comes: random, but the same again for the same seed and test."""

    def __init__(self, seed: str, *, full: bool) -> None:
        self.full, self._random = full, random.Random(seed)

    def times(self, full: int, short: int = 1) -> range:
        """Return how often: `full` in `make faults`, `short` within `make test`."""
        return range(full if self.full else short)

    def moments(self, full: int, short: int = 1, *, over: float) -> list[float]:
        """Return so many moments from 0 to `over` seconds, one in each equal part, so that all of it is covered."""
        number = len(self.times(full, short))
        found = [(part + self._random.random()) * over / number for part in range(number)]
        self._random.shuffle(found)
        return found

    def moment(self, over: float) -> float:
        """Return one moment from 0 to `over` seconds."""
        return self._random.uniform(0, over)


@pytest.fixture
def chance(request: pytest.FixtureRequest, ledger: Ledger) -> Chance:
    full = bool(request.config.getoption("--faults-full", default=False))
    return Chance(f"{ledger.seed}/{request.node.name}", full=full)


@pytest.fixture
def ledger(request: pytest.FixtureRequest, control: None) -> Ledger:
    found = request.config.stash[_LEDGER]
    if not found.server:
        found.server = f"PostgreSQL {query('SHOW server_version')[0][0].split()[0]}"
    return found


@pytest.fixture
def client(api: Callable[..., httpx.Client]) -> httpx.Client:
    return api("operator")


@pytest.fixture
def scene(client: httpx.Client) -> Scene:
    return Scene(client)


@pytest.fixture
def crew(start_worker: Callable[..., Process]) -> Iterator[Crew]:
    made = Crew(start_worker)
    yield made
    for worker in made.workers:  # Nothing is under way any more, and a polite end takes seconds.
        worker.kill()


@pytest.fixture
def tome(control: None) -> Iterator[float]:
    """A table whose index takes a second or so to build; yields how many seconds it takes here and now."""
    make_tome()
    yield build_seconds()
    query(f"DROP INDEX IF EXISTS {INDEX}")


def make_tome(using: str = "default") -> None:
    """Make the large table, unless an earlier test did: it stays for the next one."""
    if query("SELECT to_regclass('tome')", using)[0][0] is None:
        query("CREATE TABLE tome (id bigint, title text)", using)
        query(f"INSERT INTO tome SELECT g, md5(g::text) FROM generate_series(1, {TOME_ROWS}) AS g", using)
        query("VACUUM ANALYZE tome", using)


def build_seconds(using: str = "default") -> float:
    """Build the index once without any fault, drop it, and return how long the build took."""
    started = time.monotonic()
    query(BUILD, using)
    seconds = time.monotonic() - started
    query(f"DROP INDEX {INDEX}", using)
    return seconds
