"""Messages that come ten times, get lost, or find no broker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from api.embedded import start_embedded
from api.processes import readiness, web_command
from async_migrations.tasks import execute_migration
from tests.conftest import Process, eventually, free_port, need
from tests.db.conftest import index_is_valid, kinds, query
from tests.driving import OLD_SNAPSHOT, ask, held
from tests.faults.conftest import Chance
from tests.faults.ledger import Ledger
from tests.faults.scene import BUILD, DROP, INDEX, PATIENCE, SLOWLY, Crew, Scene, moment_now, until_end

pytestmark = pytest.mark.usefixtures("control", "book")


def test_the_same_message_ten_times_to_four_threads(scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire(threads=4)
    for moment in chance.moments(10, over=1):
        with ledger.injecting("the same message 10 times to 4 threads", moment) as injection:
            query("UPDATE book SET n = 0")
            pk = scene.schedule(f"UPDATE book SET n = n + 1 {SLOWLY}")
            for _ in range(5):
                execute_migration.send(pk)
            ask(scene.client, pk)
            time.sleep(moment)
            for _ in range(5):
                execute_migration.send(pk)
            row = scene.finished(pk)
            eventually(lambda: not redis().llen(f"dramatiq:{settings_queue()}"), PATIENCE, what="all are read")
            assert kinds(row).count("claim") == 1
            assert query("SELECT DISTINCT n FROM book") == [(1,)]
            injection.ended = "FINISHED, one attempt"
            scene.check(pk)


def redis():
    """Return the client of the tests' broker; a skip where that is RabbitMQ."""
    client = settings.DRAMATIQ_BROKER["OPTIONS"].get("client")
    return client or pytest.skip("the broker of this run is not Redis")


def settings_queue() -> str:
    return str(execute_migration.queue_name)


def test_the_broker_flushed_while_twenty_are_in_line(scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire(2)
    for moment in chance.moments(5, over=2):
        with ledger.injecting("broker flushed while 20 are in line", moment) as injection:
            query("UPDATE book SET n = 0")
            pks = [scene.run("UPDATE book SET n = n + 1; SELECT pg_sleep(0.1)") for _ in range(20)]
            time.sleep(moment)
            at = moment_now()
            redis().flushall()
            rows = [scene.finished(pk) for pk in pks]
            assert query("SELECT DISTINCT n FROM book") == [(20,)]
            injection.ended, injection.recovery = "all 20 FINISHED", max(until_end(row, at) for row in rows)
            scene.check(*pks)


def test_the_broker_away_while_asked_and_back_later(
    scene: Scene, crew: Crew, processes: Callable[..., Process], tmp_path: Path, chance: Chance, ledger: Ledger
) -> None:
    with start_embedded(tmp_path / "broker", postgres=False, redis=True) as broker:
        crew.hire(BROKER_URL=str(broker.broker_url))
        web = processes(web_command(port := free_port(), workers=1), BROKER_URL=str(broker.broker_url))
        eventually(lambda: readiness(url := f"http://127.0.0.1:{port}") == "ready" and url, PATIENCE)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=scene.client.headers, timeout=40)
    with client, ledger.injecting("broker down during `run`, back later") as injection:
        away = Scene(client)
        pks = [away.run("UPDATE book SET n = n + 1") for _ in range(20 if chance.full else 5)]
        time.sleep(3)
        assert web.is_alive()
        with start_embedded(tmp_path / "broker", postgres=False, redis=True):
            at = moment_now()
            rows = [away.finished(pk) for pk in pks]
            assert query("SELECT DISTINCT n FROM book") == [(len(pks),)]
            injection.ended, injection.recovery = "all FINISHED", max(until_end(row, at) for row in rows)
            away.check(*pks)


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    """A RabbitMQ whose consumers must acknowledge within a minute; yields its URL."""
    if not RABBITMQ:
        need("rabbitmq-server")
    with _rabbitmq(tmp_path, port := free_port()):
        yield f"amqp://guest:guest@127.0.0.1:{port}/"


# Debian's own command changes to a user who may not write into a test's folder; the one behind it does not.
RABBITMQ = shutil.which("/usr/lib/rabbitmq/bin/rabbitmq-server") or shutil.which("rabbitmq-server") or ""


@contextmanager
def _rabbitmq(home: Path, port: int) -> Iterator[None]:
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nconsumer_timeout = 60000\nlog.file = false\n"
    )
    env = os.environ | {
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_NODENAME": f"faults-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "HOME": str(home),
        "ERL_EPMD_PORT": str(free_port()),
    }
    with (home / "log").open("wb") as log:
        server = Process.__new__(Process)
        server.__dict__.update(
            log=home / "log",
            process=subprocess.Popen([RABBITMQ], env=env, cwd=home, stdout=log, stderr=log, start_new_session=True),
        )
    try:
        eventually(lambda: _listens(port) or not server.is_alive(), PATIENCE, what="RabbitMQ listens")
        assert server.is_alive(), server.output
        yield
    finally:
        server.stop(20)
        # Erlang's registry of names, which the server started on a port of its own, would outlive it.
        subprocess.run(["epmd", "-kill"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_rabbitmq_delivers_again_what_takes_too_long(
    rabbitmq: str,
    scene: Scene,
    crew: Crew,
    processes: Callable[..., Process],
    chance: Chance,
    ledger: Ledger,
) -> None:
    crew.hire(2, BROKER_URL=rabbitmq)
    web = processes(web_command(port := free_port(), workers=1), BROKER_URL=rabbitmq)
    eventually(lambda: readiness(f"http://127.0.0.1:{port}") == "ready", PATIENCE, what=web.output)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=scene.client.headers, timeout=40)
    with client, ledger.injecting("RabbitMQ delivers again during a build") as injection:
        other = Scene(client)
        with held(*OLD_SNAPSHOT):
            pk = other.run(BUILD.replace("tome", "book"), DROP.replace("tome", "book"))
            other.phase(pk, "waiting for old snapshots")
            time.sleep(130 if chance.full else 3)
        row = other.finished(pk)
        assert kinds(row).count("claim") == 1
        assert index_is_valid(INDEX.replace("tome", "book")) is True
        injection.ended = "FINISHED, one attempt"
        other.check(pk)
