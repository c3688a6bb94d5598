"""What live tuning and files may say: every name with its smallest and largest value, and what is refused."""

from __future__ import annotations

from math import inf, nan

import pytest

from async_migrations import limits
from async_migrations.errors import InvalidDefinition
from async_migrations.limits import OutOfLimits


@pytest.mark.parametrize("name", limits.NUMBERS)
def test_the_ends_are_within_and_what_lies_beyond_is_not(name):
    number = limits.NUMBERS[name]
    for within in (number.low, number.high, None):
        limits.check({name: within})
    for beyond in (number.low - 0.001, number.high + 0.001, nan, inf, -inf, "5", True, [], {}):
        with pytest.raises(OutOfLimits) as refusal:
            limits.check({name: beyond})
        assert list(refusal.value.errors) == [name]


@pytest.mark.parametrize("name", ["batch_size", "priority"])
def test_rows_and_ranks_are_whole(name):
    with pytest.raises(OutOfLimits, match="a whole number from"):
        limits.check({name: 5.5})


@pytest.mark.parametrize(
    "throttle", [True, False, None, {}, {"lock_waiters": 3, "replica_lag_seconds": 0.5}, {"wal_archive_queue": None}]
)
def test_a_throttle_is_on_off_or_has_limits_of_its_own(throttle):
    limits.check({"throttle": throttle})


@pytest.mark.parametrize(
    ("throttle", "wrong"),
    [
        (1, ["throttle"]),
        ("off", ["throttle"]),
        ([], ["throttle"]),
        ({"mood": 3, "lock_waiters": -1}, ["throttle.lock_waiters", "throttle.mood"]),
        ({"lock_waiters": True}, ["throttle.lock_waiters"]),
        ({"replica_lag_seconds": nan}, ["throttle.replica_lag_seconds"]),
    ],
)
def test_another_throttle_is_refused(throttle, wrong):
    with pytest.raises(OutOfLimits) as refusal:
        limits.check({"throttle": throttle})
    assert sorted(refusal.value.errors) == wrong


def test_all_that_is_wrong_is_said_at_once_also_to_a_migration_file():
    with pytest.raises(InvalidDefinition, match=r"batch_size: .* from 1 to 1,000,000\. colour: There is no such value"):
        limits.check({"batch_size": 0, "colour": "red", "duty_cycle": 1})


@pytest.mark.parametrize("name", limits.TERMS)
def test_what_run_may_say_has_limits(name):
    number = limits.TERMS[name]
    limits.check_terms({name: number.low})
    limits.check_terms({name: number.high})
    for beyond in (number.low - 1, number.high + 1, "5", True, None, 1.0):
        with pytest.raises(OutOfLimits) as refused:
            limits.check_terms({name: beyond})
        assert list(refused.value.errors) == [name]
