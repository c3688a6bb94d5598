"""The bench in its short form: it measures, prints and cleans up. No timing decides here."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from api.processes import ROOT

pytestmark = pytest.mark.e2e

FIGURES = (
    "through the product, from POST run",
    "through RQ, from enqueue",
    "trivial migrations at once",
    "through RQ, enqueue to FINISHED",
    "psql, start to exit",
    "ratio of the medians",
    "one UPDATE in psql, start to exit",
    "backfill, throttle off, duty cycle 1",
    "iterator() and bulk_update of 1,000",
    "4 clients, 200 reads and writes a second while this runs",
    "the worker's memory, 20,000 rows against 2,000",
    "10 open pages, each polling every 0.2 s, 1,000 migrations",
    "1,000 migrations, one in progress",
    "Ten open pages",
    "Opening a page, 2,000 migrations",
)
UNDER_LOAD = ("304 poll", "plain DRF, retrieve", "short requests beside the pollers")


def test_the_short_form_ends_well_and_prints_each_measurement_and_its_yardstick():
    # One test: it takes a minute and a half, and tests of one file may be carried out in two processes.
    command = [sys.executable, "-m", "bench", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [figure for figure in FIGURES if figure not in done.stdout] == []
    installed = shutil.which("wrk") is not None
    assert [figure in done.stdout for figure in UNDER_LOAD] == [installed] * len(UNDER_LOAD)
    assert ("apt-get install wrk" in done.stdout) == (not installed), "it says what to install"


def test_only_the_parts_that_are_named_are_measured():
    command = [sys.executable, "-m", "bench", "--short", "--only", "memory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert "Memory of the worker" in done.stdout, done.stdout + done.stderr
    assert "psql" not in done.stdout
