"""What is shipped, and what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LOCKS = ("requirements.lock", "requirements-server.lock")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names inside the wheel, built from this checkout without a registry."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_product_alone(wheel):
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"async_migrations"}


@pytest.mark.parametrize("suffix", ["py.typed", ".sql", ".html", "uplot-1.6.32.LICENSE", "migrations/0001_initial.py"])
def test_the_wheel_holds_what_is_not_code_too(wheel, suffix):
    assert any(name.endswith(suffix) for name in wheel)


def test_the_wheel_has_the_command_of_the_client(wheel):
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
    module, _, name = tomllib.loads(PYPROJECT)["project"]["scripts"]["async-migrations"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_image_has_what_the_client_needs():
    extras = tomllib.loads(PYPROJECT)["project"]["optional-dependencies"]
    image = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / LOCKS[1]).read_text(), re.MULTILINE))
    assert {entry.partition(">")[0] for entry in extras["client"]} <= image


def test_the_version_is_the_same_everywhere():
    from async_migrations import __version__

    assert tomllib.loads(PYPROJECT)["project"]["version"] == __version__


def test_every_dependency_says_what_it_is_for():
    section = PYPROJECT[PYPROJECT.index("dependencies = [") : PYPROJECT.index("[tool.hatch")]
    bare = [
        line.strip() for line in section.splitlines() if re.match(r'\s+"', line) and not re.search(r"#\s+\S+", line)
    ]
    assert not bare


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_address(lock):
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|^-[ief]\b|@ file|^/", text, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_pins_and_hashes_everything(lock):
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text().strip())
    loose = [entry.splitlines()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert len(entries) > 20
    assert not loose


def test_the_image_has_the_versions_that_the_tests_ran_with():
    everything, image = (
        set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS
    )
    assert image < everything


def test_the_lock_has_every_dependency():
    project = tomllib.loads(PYPROJECT)["project"]
    wanted = project["dependencies"] + [entry for extra in project["optional-dependencies"].values() for entry in extra]
    names = {re.split(r"[\[<>=;\s]", entry)[0].lower().replace("_", "-") for entry in wanted} - {project["name"]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / LOCKS[0]).read_text(), re.MULTILINE))
    assert names <= locked
