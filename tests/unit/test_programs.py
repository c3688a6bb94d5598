"""`make programs` installs what is missing and nothing else, and where it cannot it says what to install."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "programs.sh"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script where only these programs are: `machine("chromium", there={"id": "echo 0"})`."""

    def run(*wanted: str, there: dict[str, str]) -> subprocess.CompletedProcess[str]:
        for name in ("bash", "env", "chmod", "rm"):
            (tmp_path / name).symlink_to(shutil.which(name) or name)
        for name, text in there.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            [SCRIPT, *wanted],
            env={"PATH": str(tmp_path), "POLICY": str(tmp_path / "policy")},
            capture_output=True,
            text=True,
            check=True,
        )

    return run


def test_it_works(machine, tmp_path) -> None:
    asked = tmp_path / "asked"
    apt_get = f'echo "$@" >> {asked}; echo "services: $($POLICY; echo $?)" >> {asked}'
    done = machine("chromium", "curl", "promtool", there={"id": "echo 0", "curl": "", "apt-get": apt_get})
    assert asked.read_text().splitlines() == [
        "update -qq", "services: 101", "install --no-install-recommends chromium prometheus -y -qq", "services: 101"
    ]  # fmt: skip
    assert done.stdout == "Installing chromium prometheus (once)\n"
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("there", [{"id": "echo 1000", "apt-get": "exit 1"}, {"id": "echo 0"}])
def test_who_cannot_install_is_told_what_to_install(machine, there) -> None:
    assert "as root: apt-get install --no-install-recommends chromium\n" in machine("chromium", there=there).stderr


def test_a_network_that_is_away_stops_nothing(machine) -> None:
    done = machine("chromium", there={"id": "echo 0", "apt-get": "echo no network >&2; exit 100"})
    assert "no network\nInstalling failed" in done.stderr


def test_nothing_is_said_where_all_is_there(machine) -> None:
    done = machine("chromium", "jq", there={"google-chrome": "", "jq": "", "id": "echo 0", "apt-get": "exit 1"})
    assert (done.stdout, done.stderr) == ("", "")
