"""The bench in its short form: it measures, prints and cleans up. No timing decides here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from api.processes import ROOT

pytestmark = pytest.mark.e2e


def test_the_short_form_measures_both_things_and_prints_its_tables():
    command = [sys.executable, "-m", "bench", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("From POST run to the first statement", "psql, start to exit", "ratio of the medians"):
        assert figure in done.stdout
