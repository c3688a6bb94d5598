"""The service's two processes, web and worker: how they are started, known to be ready, and stopped.

Shared by `make serve`, the demo and the tests, so that all of them run what an installation runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MANAGE = str(ROOT / "manage.py")

# Threads of a worker process; each carries out one migration at a time.
WORKER_THREADS = 4

# What every process of the service is given, unless an installation says otherwise.
SERVICE_VARIABLES = {
    "DJANGO_SETTINGS_MODULE": "api.settings",
    "PYTHONUNBUFFERED": "1",
    # Messages that a worker process takes at a time, those under way included: one for each thread. With fewer, threads
    # stay idle; with more, a message waits in this worker's memory while another worker is idle.
    "dramatiq_queue_prefetch": str(WORKER_THREADS),
    # Milliseconds. Redis is polled; with the default of a second that would be most of the way to the first statement.
    "dramatiq_worker_timeout": "20",
}


class NotReady(Exception):
    """The service did not become ready; the message says which part is not."""


def web_command(port: int, *, host: str = "127.0.0.1", workers: int = 2, threads: int = 8) -> list[str]:
    """Return the command of the web server; threads are per worker, and a client that waits for news holds one."""
    options = ["--config", "python:api.gunicorn_conf", "--bind", f"{host}:{port}"]
    return [
        sys.executable,
        "-m",
        "gunicorn",
        *options,
        f"--workers={workers}",
        f"--threads={threads}",
        "api.wsgi",
    ]


def worker_command(*, processes: int = 1, threads: int = WORKER_THREADS, queue: str = "async_migrations") -> list[str]:
    """Return the command of a worker, which carries out up to processes x threads migrations at once."""
    amount = ["--processes", str(processes), "--threads", str(threads)]
    return [sys.executable, MANAGE, "rundramatiq", "--skip-logging", *amount, "--queues", queue]


def manage_command(*arguments: str) -> list[str]:
    """Return a command of the service's manage.py."""
    return [sys.executable, MANAGE, *arguments]


def child_environment(database_url: str, broker_url: str | None, **extra: str) -> dict[str, str]:
    """Return the environment of a process of the service; `extra` wins over everything.

    broker_url: None for a process that carries migrations out inline.
    """
    replaced = ("BROKER_URL", "DJANGO_SETTINGS_MODULE")
    inherited = {name: value for name, value in os.environ.items() if name not in replaced}
    urls = {"DATABASE_URL": database_url} | ({"BROKER_URL": broker_url} if broker_url else {})
    return inherited | SERVICE_VARIABLES | urls | extra


def wait_until_ready(url: str, timeout: float = 60, *, alive: Callable[[], bool] = lambda: True) -> None:
    """Return when `url`/readyz answers 200.

    timeout: seconds. alive: asked between two tries; once it says False, there is nothing to wait for.

    Raises NotReady, which names the part that is not ready.
    """
    deadline = time.monotonic() + timeout
    while (state := readiness(url)) != "ready":
        if not alive():
            raise NotReady("the process ended before it was ready")
        if time.monotonic() > deadline:
            raise NotReady(f"not ready after {timeout:g} s: {state}")
        time.sleep(0.1)


def readiness(url: str) -> str:
    """Return `ready`, or what stands in its way in the service's own words."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10):  # noqa: S310 - an address that we made ourselves
            return "ready"
    except urllib.error.HTTPError as exc:
        with exc:
            return _failing_parts(exc.read())
    except (OSError, urllib.error.URLError):
        return "nothing answers there yet"


def _failing_parts(body: bytes) -> str:
    try:
        parts: dict[str, str] = json.loads(body)["parts"]
    except (ValueError, KeyError, TypeError):
        return "the answer is not from /readyz"
    return "; ".join(f"{name} {state}" for name, state in parts.items() if state != "ok")


class Running:
    """A process of the service that is running; its output is in a file, and it leads a process group of its own."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path, *, cwd: Path = ROOT) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the leader, which is also the id of the group."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything that the process has said so far."""
        return self.log.read_text(errors="replace")

    def is_alive(self) -> bool:
        """Say whether the leader is still there."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """Ask the leader to stop. Not its group: the leader tells the others, and being told twice means at once."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill the whole group and wait for the leader."""
        kill_group(self.pid)
        self.process.wait()

    def stop(self, grace: float = 10) -> int:
        """Ask it to stop, kill whatever is left of its group after `grace` seconds, and return the exit code."""
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self.kill()
        return self.process.returncode


def kill_group(pid: int) -> None:
    """Kill the process group; one that is gone already is fine."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path, *, grace: float = 10) -> Iterator[Running]:
    """Run a process for the length of a block, and stop it at the end, `grace` seconds at most, also after an error."""
    process = Running(command, env, log)
    try:
        yield process
    finally:
        process.stop(grace)


def run_to_end(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[Any]:
    """Run a command of the service until it ends; its output is text in the answer."""
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
