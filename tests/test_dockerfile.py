"""The Dockerfile, walked as far as it goes without Docker: its own install commands, its own entry commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api.processes import ROOT, wait_until_ready
from tests.conftest import environment, eventually, free_port

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions():
    """Return (word, rest) of every instruction, with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def said(word):
    """Return the rest of every instruction of that name."""
    return [rest for name, rest in instructions() if name == word]


def test_it_runs_as_somebody_else_than_root_and_tells_its_health():
    assert said("USER")[-1].isdigit()
    assert said("USER")[-1] != "0"
    assert said("HEALTHCHECK")


def test_what_it_copies_is_there_and_reaches_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [name for rest in said("COPY") if "--from" not in rest for name in rest.split()[:-1]]
    for name in sources:
        assert (ROOT / name).exists()
        assert name.removeprefix("./") in allowed


def test_compose_starts_commands_that_the_image_has():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {name: services[name]["command"][0] for name in ("migrate", "web", "worker")} == {
        "migrate": "manage",
        "web": "web",
        "worker": "worker",
    }


@pytest.fixture
def image(tmp_path):
    """The folder that the image would hold: /opt/venv and /app, made by the file's own RUN and COPY instructions."""

    def here(text):
        return text.replace("/opt/venv", str(tmp_path / "venv")).replace("python -m venv", f"{sys.executable} -m venv")

    workdir = tmp_path
    for word, rest in instructions():
        if word == "WORKDIR":
            workdir = tmp_path / rest.lstrip("/")
            workdir.mkdir(parents=True)
        elif word == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for name in sources:
                _copy(ROOT / name, workdir / target)
        elif word == "RUN" and "useradd" not in rest:
            subprocess.run(["sh", "-euc", here(rest)], cwd=workdir, check=True, capture_output=True)
    return tmp_path


def _copy(source, target):
    """As COPY does: a folder's content into the folder, a file into it."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.e2e
def test_its_own_commands_install_it_and_answer(image, processes):
    # Given what the image would hold, and nothing of this checkout
    entry = [str(image / "venv" / "bin" / "python"), *json.loads(said("ENTRYPOINT")[-1])[1:]]
    there = {"PATH": f"{image / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    there |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # Nobody is there; nothing is traced here either.
    env = {name: value for name, value in environment(**there).items() if name != "PYTHONPATH"}
    port = str(free_port())

    def start(*arguments):
        return processes([*entry, *arguments], cwd=image / "app", **there)

    # When its commands are started as compose.yaml does
    assert (
        subprocess.run([*entry, "manage", "migrate", "--check"], env=env, cwd=image / "app", check=False).returncode
        == 0
    )
    web = start(*json.loads(said("CMD")[-1]), "--port", port)
    worker = start("worker")

    # Then they answer, the health check agrees, and both stop when they are asked to
    wait_until_ready(f"http://127.0.0.1:{port}", 60, alive=web.is_alive)
    assert subprocess.run([*entry, "ready", "--port", port], env=env, cwd=image / "app", check=False).returncode == 0
    eventually(lambda: "ready for action" in worker.output, what="the worker is ready")
    assert "gunicorn" in web.output
    assert "no traces" not in web.output + worker.output
    assert str(Path(image)) in _modules(entry[0], env, image / "app")
    assert worker.stop() == 0
    assert web.stop() == 0


def _modules(python, env, cwd):
    """Return where the interpreter finds the product: a path of this checkout would mean that nothing was shown."""
    done = subprocess.run(
        [python, "-c", "import async_migrations; print(async_migrations.__file__)"],
        env=env,
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
