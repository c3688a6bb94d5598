"""The embedded servers when something is wrong with the machine, or with what an earlier run has left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import redis

from api.embedded import EmbeddedError, start_embedded
from api.processes import ROOT
from tests.conftest import eventually

pytestmark = pytest.mark.e2e

STAY = """
import sys, time
from pathlib import Path
from api.embedded import start_embedded
with start_embedded(Path(sys.argv[1]), postgres=True, redis=True, settings={"fsync": "off"}) as servers:
    Path(sys.argv[1], "up").touch()
    time.sleep(60)
"""


def asked(servers):
    """Ask both servers for a sign of life."""
    connection = psycopg2.connect(servers.database_url)
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        (version,) = cursor.fetchone() or ("0",)
    connection.close()
    with redis.Redis.from_url(servers.broker_url) as client:
        assert client.ping()
    return int(version)


@pytest.fixture
def another(tmp_path):
    """Start another process that holds the servers of a directory, and wait until they are up."""
    started = []

    def start(directory):
        started.append(subprocess.Popen([sys.executable, "-c", STAY, str(directory)], cwd=ROOT))
        eventually((directory / "up").exists, what="the servers are up")
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # not kill: its servers would stay
        process.wait(30)


def test_it_works_with_a_path_too_long_for_a_socket(tmp_path):
    directory = tmp_path / ("long-" * 20)
    with start_embedded(directory, postgres=True, redis=True) as servers:
        assert asked(servers) >= 180000
        sockets = Path(servers.database_url.partition("host=")[2])
        assert sockets.stat().st_mode & 0o077 == 0


def test_nothing_is_started_that_nobody_asked_for(tmp_path):
    with start_embedded(tmp_path / "none", postgres=False, redis=False) as servers:
        assert (servers.database_url, servers.broker_url) == (None, None)
    assert not (tmp_path / "none").exists()


def test_sigterm_stops_both(tmp_path, another):
    process = another(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()
    assert not (tmp_path / "redis" / "redis.sock").exists()


def test_servers_of_a_killed_process_are_taken_over_and_stopped(tmp_path, another):
    another(tmp_path).kill()
    eventually(lambda: not _is_locked(tmp_path))
    with start_embedded(tmp_path, postgres=True, redis=True) as servers:
        asked(servers)
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


def _is_locked(directory):
    try:
        with start_embedded(directory, postgres=False, redis=True):
            return False
    except EmbeddedError:
        return True


def test_a_directory_in_use_is_left_alone(tmp_path, another):
    process = another(tmp_path)
    with pytest.raises(EmbeddedError, match=f"in use by process {process.pid}"):  # noqa: SIM117
        with start_embedded(tmp_path, postgres=True, redis=True):
            pass


def test_an_interrupted_first_start_leaves_no_half_of_a_database(tmp_path):
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    with start_embedded(tmp_path, postgres=True, redis=True) as servers:
        asked(servers)


def test_a_broken_database_is_one_line(tmp_path):
    with start_embedded(tmp_path, postgres=True, redis=False):
        pass
    with (tmp_path / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"^PostgreSQL did not start: configuration file .*Its log is .*$"):  # noqa: SIM117
        with start_embedded(tmp_path, postgres=True, redis=False):
            pass


def test_files_that_are_no_database_are_left_alone(tmp_path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "diary.txt").touch()
    with pytest.raises(EmbeddedError, match="holds files, but no database"):  # noqa: SIM117
        with start_embedded(tmp_path, postgres=True, redis=False):
            pass
    assert (tmp_path / "postgres" / "diary.txt").exists()


def test_postgres_bin_that_names_nothing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"POSTGRES_BIN is .*no pg_ctl"):  # noqa: SIM117
        with start_embedded(tmp_path, postgres=True, redis=False):
            pass


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_a_full_disk_is_one_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        with pytest.raises(EmbeddedError, match=r"^PostgreSQL cannot be set up: could not"):  # noqa: SIM117
            with start_embedded(disk / "data", postgres=True, redis=False):
                pass
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to let another user through")
def test_root_opens_no_more_than_the_way(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with start_embedded(private / "data", postgres=True, redis=True) as servers:
        asked(servers)
    assert private.stat().st_mode & 0o777 == 0o701
