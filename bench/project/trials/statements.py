"""Statements that do nothing but say when they ran, by the database's clock, and how many of them are scheduled."""

from __future__ import annotations

TRIALS = 50  # one after the other, each on an idle worker
BURST = 200  # at once
BURSTS = 3

COUNT = TRIALS + BURSTS * BURST
NAME = "bench.project.trials.migrations.0002_trivial_async_{:03}"

# The same statement writes another number on the way through RQ, so that each can be told to have run once.
THROUGH_RQ = 10_000


def say_when(number: int) -> str:
    """Return the statement of this number."""
    return f"INSERT INTO bench_trial (number, at) VALUES ({number}, clock_timestamp())"
