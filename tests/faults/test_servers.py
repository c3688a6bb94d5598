"""Database servers that restart, and a network between a worker and its control database that fails."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.db import connections

from api.embedded import start_embedded
from api.embedded.owner import as_owner
from api.processes import child_environment, manage_command, run_to_end, wait_until_ready, web_command
from tests.conftest import Process, free_port
from tests.db.conftest import index_is_valid, query
from tests.driving import ask
from tests.faults.conftest import Chance, build_seconds, make_tome
from tests.faults.ledger import Ledger
from tests.faults.proxy import Proxy
from tests.faults.scene import (
    BUILD,
    DROP,
    INDEX,
    PATIENCE,
    SLOWLY,
    Crew,
    Scene,
    moment_now,
    story,
    taken_over,
    way,
)
from tests.servers import POSTGRES_SETTINGS

pytestmark = pytest.mark.usefixtures("control", "book")

OWN = "own"
UPDATES = f"UPDATE leaf SET n = n + 1 {SLOWLY}; UPDATE leaf SET n = n + 10; UPDATE leaf SET n = n + 100 {SLOWLY}"
SUM = 111


@dataclass
class Server:
    """A PostgreSQL of this module's own, with the service's tables in it."""

    url: str
    home: Path
    token: str

    def restart(self, mode: str) -> None:
        """Restart it as `pg_ctl` does, and wait until it is up again."""
        pid = int((self.home / "postmaster.pid").read_text().split()[0])
        binaries = Path(f"/proc/{pid}/exe").resolve().parent
        command: list[str | Path] = [
            binaries / "pg_ctl",
            "-D",
            self.home,
            "-l",
            self.home / "log",
            "-m",
            mode,
            "-w",
            "restart",
        ]
        connections[OWN].close()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_owner())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # What has committed must survive a crash of the server, though not of the machine.
    surviving = POSTGRES_SETTINGS | {"synchronous_commit": "on"}
    with ExitStack() as stack:
        # Not pytest's own directory: every run of pytest shuts others out of it, PostgreSQL's user among them.
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="async-migrations-faults-")))
        url = stack.enter_context(start_embedded(home, postgres=True, redis=False, settings=surviving)).database_url
        assert url
        env = child_environment(url, os.environ["BROKER_URL"], DATABASE_URL_SECOND="")
        for arguments in (("migrate", "--verbosity=0"), ("create_api_token", "operator", "--role=operator")):
            done = run_to_end(manage_command(*arguments), env)
            assert done.returncode == 0, done.stderr
        yield Server(url, home / "postgres", done.stdout.strip())


@pytest.fixture
def own(server: Server, control: None, settings: Any) -> Iterator[Server]:
    """Let this process reach the server by an alias, as the place of rows and targets."""
    parts = urlsplit(server.url)
    reached = connections["default"].copy(OWN)
    reached.settings_dict |= {"HOST": parse_qs(parts.query)["host"][0], "PORT": "", "USER": parts.username}
    reached.settings_dict |= {"PASSWORD": "", "NAME": parts.path.strip("/")}
    connections[OWN] = reached
    settings.ASYNC_MIGRATIONS_CONTROL_DATABASE = OWN
    make_tome(OWN)
    query("CREATE TABLE IF NOT EXISTS leaf AS SELECT g AS id, 0 AS n FROM generate_series(1, 500) AS g", OWN)
    yield server
    query(f"DROP INDEX IF EXISTS {INDEX}", OWN)
    reached.close()
    del connections[OWN]


@pytest.fixture
def own_scene(own: Server, processes: Callable[..., Process]) -> Iterator[Scene]:
    """An API on the server of our own."""
    web = processes(web_command(port := free_port(), workers=1), DATABASE_URL=own.url)
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(url, PATIENCE, alive=web.is_alive)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {own.token}"}, timeout=40) as client:
        yield Scene(client, OWN)


@pytest.mark.parametrize("sql", ["build", "updates"])
@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_the_server_restarted(
    own: Server, own_scene: Scene, crew: Crew, chance: Chance, ledger: Ledger, mode: str, sql: str
) -> None:
    crew.hire(DATABASE_URL=own.url)
    for moment in chance.moments(8, over=build_seconds(OWN) if sql == "build" else 1.5):
        with ledger.injecting(f"restart -m {mode} during {sql}", moment) as injection:
            query("UPDATE leaf SET n = 0", OWN)
            pk = own_scene.run(BUILD, DROP) if sql == "build" else own_scene.run(UPDATES)
            own_scene.claimed(pk)
            time.sleep(moment)
            own.restart(mode)
            at = moment_now()
            row = own_scene.finished(pk)
            if sql == "build":
                assert index_is_valid(INDEX, OWN) is True
            else:
                assert query("SELECT DISTINCT n FROM leaf", OWN) == [(SUM,)]
            assert own_scene.client.get(f"/api/async-migrations/{pk}").status_code == 200
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            own_scene.check(pk)
        query(f"DROP INDEX IF EXISTS {INDEX}", OWN)


# --- the way to the control database ---


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(connections["default"].settings_dict)
    yield made
    made.close()


@contextmanager
def failing(proxy: Proxy, how: str, seconds: float) -> Iterator[None]:
    (proxy.cut if how == "refused" else proxy.silence)()
    try:
        time.sleep(seconds)
        yield
    finally:
        proxy.mend()


@pytest.mark.parametrize(("how", "lease"), [("refused", "2"), ("refused", "30"), ("silent", "2"), ("silent", "30")])
def test_the_control_database_out_of_a_workers_reach(
    proxy: Proxy, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger, how: str, lease: str
) -> None:
    if not chance.full and (how, lease) in {("refused", "2"), ("silent", "30")}:
        pytest.skip("the short form has one with each lease: `make faults` runs all")
    crew.hire(DATABASE_URL=proxy.url, ASYNC_MIGRATIONS_LEASE_SECONDS=lease)
    crew.hire(ASYNC_MIGRATIONS_LEASE_SECONDS=lease)
    for moment in chance.moments(4, over=2.5):
        fault = f"control database out of the worker's reach ({how}), lease {lease} s"
        with ledger.injecting(fault, moment) as injection:
            query("UPDATE book SET n = 0", "second")
            pk = _run_behind(scene, crew)
            time.sleep(moment)
            at = moment_now()
            with failing(proxy, how, 20 if chance.full else 4):
                pass
            row = scene.finished(pk)
            assert query("SELECT DISTINCT n FROM book", "second") == [(111,)]
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)


def _run_behind(scene: Scene, crew: Crew) -> int:
    """Run a migration on the other target; the worker behind the proxy gets it, since the other one is frozen."""
    sql = "; ".join(f"UPDATE book SET n = n + {amount} {SLOWLY}" for amount in (1, 10, 100))
    pk = scene.schedule(sql, database="second")
    with crew.frozen(crew.workers[1]):
        ask(scene.client, pk)
        row = scene.claimed(pk)
        assert crew.holder(row) is crew.workers[0], story(row)
    return pk
