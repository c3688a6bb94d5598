"""How large the next batch is, and how long the rest before it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from async_migrations.execution.pace import FIRST, Pace, Wishes

WISHES = Wishes(ceiling=100_000, target=0.5, delay=0, duty=1, rows_per_second=None)


def walked(pace: Pace, rate: float, batches: int, wishes: Wishes = WISHES) -> list[int]:
    """Return the sizes of so many batches, and of the one behind them, on a database that does `rate` rows a second."""
    sizes = []
    for _ in range(batches):
        sizes.append(pace.size(wishes))
        pace.took(sizes[-1], sizes[-1] / rate, wishes)
    return [*sizes, pace.size(wishes)]


def test_it_comes_to_the_time_that_a_batch_is_to_take_at_most_twofold_each_time():
    sizes = walked(Pace(), rate=40_000, batches=8)
    assert sizes[0] == FIRST
    assert all(after <= 2 * before for before, after in pairwise(sizes))
    assert sizes[-1] == 20_000, "rows in half a second"


def test_it_follows_a_change_by_a_quarter_and_an_outlier_at_once():
    pace = Pace()
    walked(pace, rate=40_000, batches=8)
    pace.took(20_000, 0.8, WISHES)
    assert pace.size(WISHES) == pytest.approx((40_000 + (25_000 - 40_000) / 4) / 2, abs=1)
    pace.took(20_000, 4, WISHES)
    assert pace.size(WISHES) == 2_500, "what the database can take now"


def test_it_keeps_to_its_bounds():
    assert walked(Pace(), rate=40_000, batches=8, wishes=replace(WISHES, ceiling=700))[-1] == 700
    assert walked(Pace(), rate=40_000, batches=8, wishes=replace(WISHES, rows_per_second=300.0))[-1] == 300
    assert walked(Pace(), rate=0.1, batches=3)[-1] == 1


def test_what_failed_is_tried_with_half_of_it():
    pace = Pace(800)
    pace.failed(800)
    assert pace.size(WISHES) == 400


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        ({}, 0),
        ({"duty": 0.8}, 0.1),
        ({"duty": 0.8, "delay": 2}, 2.1),
        ({"rows_per_second": 500}, 1.6),
        ({"rows_per_second": 500, "delay": 5}, 5),
    ],
)
def test_it_rests(wanted, seconds):
    assert Pace.rest(1000, 0.4, replace(WISHES, **wanted)) == pytest.approx(seconds)


def test_gently_is_small_and_seldom_and_never_more_than_was_asked_for():
    gently = WISHES.gently(0.1)
    assert gently.target < WISHES.target / 100
    assert walked(Pace(), rate=100_000, batches=20, wishes=gently)[-1] == 150
    assert Pace.rest(150, 0.0015, gently) == pytest.approx(0.0135)
    assert replace(WISHES, duty=0.05).gently(0.1).duty == 0.05
