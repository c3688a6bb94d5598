"""`make demo` as a person starts it: it ends well or says why not, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from api.processes import ROOT
from tests.conftest import eventually

pytestmark = pytest.mark.e2e

DEMO = [sys.executable, "-m", "examples.demo", "--rows", "20000"]
URLS = ("DATABASE_URL", "BROKER_URL", "DATABASE_URL_SECOND")


@pytest.fixture
def room() -> Iterator[Path]:
    """Return a temporary directory for everything that the demo starts; its path is short, for sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)


def environment(room: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a person who has set nothing but `extra`; MARK is inherited by whatever is started."""
    kept = {name: value for name, value in os.environ.items() if name not in (*URLS, "DJANGO_SETTINGS_MODULE")}
    return kept | {"TMPDIR": str(room), "MARK": str(room)} | extra


def play(room: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        DEMO, cwd=ROOT, env=environment(room, **extra), capture_output=True, text=True, check=False, timeout=300
    )


def left_behind(room: Path) -> list[str]:
    """Return the command of every process that the demo has started; PostgreSQL's own do not show their environment."""
    return [_command(process) for process in psutil.process_iter() if _belongs(process, room)]


def _belongs(process: psutil.Process, room: Path) -> bool:
    try:
        return str(room) in _command(process) or process.environ().get("MARK") == str(room)
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def databases() -> set[str]:
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        return {name for (name,) in cursor.fetchall()}


def check_it_went_well(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "18,001 closed tasks were changed exactly once" in done.stdout
    assert "Key (project_id, number)=(1, 10000) is duplicated" in done.stdout
    assert re.search(r"PAUSED: ([\d,]+) tasks are done, 1 s later \1, and \1 by its counter", done.stdout)
    assert re.search(r"tuned in its course: .* after", done.stdout)
    assert "20,000 tasks, open ones too, were changed exactly once" in done.stdout
    assert "20,000 by the counter beside the cursor, 20,000 by the row" in done.stdout
    assert "0 of them waited for a lock" in done.stdout


def test_the_demo_with_embedded_servers_passes_its_checks_and_leaves_nothing_behind(room):
    check_it_went_well(play(room))
    assert left_behind(room) == []
    assert list(room.iterdir()) == []


def test_the_demo_uses_the_servers_that_the_urls_name_and_leaves_no_database_there(room):
    before = databases()
    done = play(room, **{name: os.environ[name] for name in ("DATABASE_URL", "BROKER_URL")})
    check_it_went_well(done)
    assert "embedded" not in done.stdout
    assert databases() == before
    assert left_behind(room) == []


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing", "does not answer"),
        ("DATABASE_URL", "mysql://localhost/nothing", "DATABASE_URL is mysql://"),
        ("DATABASE_URL", "sqlite:///nothing.sqlite3", "this needs PostgreSQL"),
        ("BROKER_URL", "carrier-pigeon://localhost", "BROKER_URL is carrier-pigeon://"),
        ("PORT", "http", "PORT is 'http'"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(room, variable, value, says):
    done = play(room, **{variable: value})
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert left_behind(room) == []


def test_a_port_that_is_taken_is_one_clear_line(room):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = play(room, PORT=port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 cannot be used" in done.stderr
    assert left_behind(room) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_stops_everything(room, number):
    # Given a demo whose servers, service and client are all up
    with subprocess.Popen(
        DEMO, cwd=ROOT, env=environment(room), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        eventually(lambda: any("examples.demo.traffic" in command for command in left_behind(room)), timeout=60)
        # When it is told to stop
        demo.send_signal(number)
        _, said = demo.communicate(timeout=60)
    # Then all of it is gone
    assert demo.returncode == 130
    assert said.strip() == "demo: stopped, and everything that it had started"
    assert left_behind(room) == []
    assert list(room.iterdir()) == []
