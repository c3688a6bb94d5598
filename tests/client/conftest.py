"""The client as a process of its own, in an environment that says where the service is and nothing else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from api.processes import ROOT
from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationStatus
from tests.conftest import Process
from tests.driving import scheduled
from tests.http.conftest import begin

#: What `pip install` writes for the console script; it is in no environment that tests may rely on.
SCRIPT = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m async_migrations.client "$@"\n'


class Cli:
    """Runs `async-migrations` with one token."""

    def __init__(self, url: str, token: str, folder: Path, stack: ExitStack) -> None:
        self.url, self.token, self._stack = url, token, stack
        programs = folder / "bin"
        if not programs.exists():
            programs.mkdir()
            (programs / "async-migrations").write_text(SCRIPT)
            (programs / "async-migrations").chmod(0o755)
        self.env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ASYNC_MIGRATIONS_URL": url,
            "ASYNC_MIGRATIONS_TOKEN": token,
        }

    def __call__(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it until it ends."""
        process = self.start(*arguments, **env)
        out, errors = process.communicate(timeout=60)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, errors)
        assert self.token not in out + errors
        assert "Traceback" not in errors, errors
        return done

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        """Start it with pipes."""
        return self._started(arguments, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def on_terminal(
        self, *arguments: object, answer: bytes = b"", watched: Callable[[str], None] = lambda seen: None
    ) -> tuple[int, str]:
        """Run it on a terminal of its own; return its exit code and what appears there.

        watched: called with all that is there so far, each time that something has appeared.
        """
        ours, theirs = pty.openpty()
        env = {"TERM": "xterm", "COLUMNS": "140"}
        process = self._started(arguments, env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, answer)
        seen = b""
        with suppress(OSError):  # The terminal ends with the process.
            while chunk := os.read(ours, 65536):
                seen += chunk
                watched(seen.decode(errors="replace"))
        os.close(ours)
        return process.wait(), seen.decode()

    def _started(self, arguments: tuple[object, ...], env: dict[str, str], **streams: Any) -> subprocess.Popen[Any]:
        command = ["async-migrations", *map(str, arguments)]
        program = self.env["PATH"].partition(":")[0] + "/async-migrations"
        process = subprocess.Popen(command, executable=program, env=self.env | env, cwd=self.env["HOME"], **streams)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cli_of(shared_api: Process, token: Callable[..., str], tmp_path: Path) -> Iterator[Callable[..., Cli]]:
    """Make a client: `cli_of("viewer")`; `at=` names another address."""
    with ExitStack() as stack:
        yield lambda role="operator", at=None: Cli(at or shared_api.url, token(role), tmp_path, stack)


@pytest.fixture
def cli(cli_of: Callable[..., Cli]) -> Cli:
    return cli_of()


@pytest.fixture
def migration(control: None) -> Callable[..., AsyncMigrationStatus]:
    """Schedule: `migration("SELECT 1", name=...)` -> the row."""
    number = count(2)

    def make(forwards: str = "SELECT 1", **options: Any) -> AsyncMigrationStatus:
        options.setdefault("name", f"shop.migrations.{next(number):04}_async")
        return lifecycle.get(scheduled(forwards, **options))

    return make


def finish(row: AsyncMigrationStatus) -> None:
    """Play a worker that carries out what is in line."""
    lifecycle.succeed(begin(row.pk))


def started(row: AsyncMigrationStatus) -> AsyncMigrationStatus:
    """Put it in line without the client."""
    lifecycle.run(row.pk, Origin("somebody"))
    return lifecycle.get(row.pk)
