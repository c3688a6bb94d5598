"""The contract suite: what openapi.yaml promises, held against the live server by thousands of questions.

`make contract` asks them out of a seed that is printed; within `make test` it is fewer, out of one that stays the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FIXED_SEED = 5


@dataclass(frozen=True)
class Extent:
    """How much is asked, where it comes from, and what was asked in the end, to be printed."""

    seed: int
    full: bool
    told: list[str] = field(default_factory=list)


_EXTENT = pytest.StashKey[Extent]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that exist where this folder is named on the command line, as `make contract` does."""
    group = parser.getgroup("contract")
    group.addoption("--contract-seed", type=int, help="where the questions come from; default: random if in full")
    group.addoption("--contract-full", action="store_true", help="all of the questions, which takes some minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed."""
    full = bool(config.getoption("--contract-full", default=False))
    given = config.getoption("--contract-seed", default=None)
    chosen = random.randrange(1_000_000) if full else FIXED_SEED
    config.stash[_EXTENT] = Extent(chosen if given is None else given, full)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how much was asked."""
    extent = config.stash[_EXTENT]
    if extent.told:
        terminalreporter.section(f"contract, seed {extent.seed}")
        for line in extent.told:
            terminalreporter.write_line(line)


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> Extent:
    return request.config.stash[_EXTENT]
