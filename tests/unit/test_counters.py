"""Where the processes of the service count."""

from __future__ import annotations

import os
import tempfile

import pytest

from api.counters import empty_directory, shared_directory

NOBODY = 4_194_305  # Linux has no process ids above 4194304.


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_of_one_that_is_given_only_what_is_stale_is_removed(tmp_path):
    given = tmp_path / "some" / "where"
    given.mkdir(parents=True)
    for name in (f"counter_{NOBODY}.db", f"gauge_max_{NOBODY}.db", f"counter_{os.getpid()}.db", "notes.txt"):
        (given / name).touch()
    assert shared_directory(str(given)) == given
    assert {file.name for file in given.iterdir()} == {f"counter_{os.getpid()}.db", "notes.txt"}


def test_a_new_one_takes_the_place_of_those_that_nobody_uses(tmp_path):
    first = shared_directory(None)
    forgotten = tmp_path / f"async-migrations-metrics-{NOBODY}-x"
    used = tmp_path / f"async-migrations-metrics-{os.getppid()}-x"
    for directory in (forgotten, used):
        directory.mkdir()
    second = shared_directory("")
    assert second.is_dir()
    assert second != first
    assert set(tmp_path.iterdir()) == {second, used}


def test_an_empty_one_is_empty(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_1.db").touch()
    assert list(empty_directory(tmp_path / "metrics").iterdir()) == []
