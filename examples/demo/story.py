"""The demo from beginning to end; returns whether everything turned out as it should."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

from . import rows
from .acts import ACTS, Act
from .control_plane import ControlPlane, Row, control_plane
from .figures import milliseconds
from .rows import Loaded
from .scene import Proof, Scene
from .screen import Screen, Step
from .service import Door, Place, place, web_and_worker
from .traffic import LOCK_TIMEOUT, RATE, Traffic, Window, traffic

BEFORE_ASYNC = ("tasks", "0002_task_total")
ALONE_SECONDS = 5  # for which the client has the table to itself, for comparison

# The bound of "nobody waited", in milliseconds. Heavy work takes its share of two cores and of the disk, which makes an
# operation late now and then; one that waits for the work itself is late by seconds.
LONGEST_BOUND = 1000


@dataclass(frozen=True)
class Played:
    """An act as it went: how it ended, when it began and ended on the monotonic clock, and its proofs."""

    act: Act
    row: Row
    began: float
    ended: float
    proofs: tuple[Proof, ...]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def play(amount: int, screen: Screen) -> bool:
    """Tell the whole story over `amount` tasks; False where a check did not hold.

    Raises CannotGoOn, ImproperlyConfigured and EmbeddedError, each with one line for a person.
    """
    screen.print("[bold]django-async-migrations[/]: the main job, end to end")
    screen.chapter("Set-up")
    with _setting(amount, screen) as (where, loaded), ExitStack() as stack:
        with screen.step("API and worker, two processes, and a token") as step:
            door = stack.enter_context(web_and_worker(where))
            step.end(f"{door.url}/api")
        client = stack.enter_context(traffic(where.env, loaded.rows, where.directory / "traffic.log"))
        alone = _alone(client, screen)
        _record(where, screen)
        connection = stack.enter_context(closing(where.connect()))
        played = _play_acts(door, client, Scene(connection, where.database_url, loaded), screen)
        client.settle(played[-1].ended)
        windows = [client.window(act.began, act.ended) for act in played]
    return _summary(alone, played, windows, screen)


# --- set-up ----------------------------------------------------------------------------------------------------------


@contextmanager
def _setting(amount: int, screen: Screen) -> Iterator[tuple[Place, Loaded]]:
    with ExitStack() as stack:
        with screen.step("PostgreSQL and Redis") as step:
            where = stack.enter_context(
                place("migrations_demo", disk=amount * rows.BYTES_PER_ROW, ASYNC_MIGRATIONS_HEARTBEAT_SECONDS="0.25")
            )
            step.end(_servers(where))
        with screen.step("Tables of the service and of the host project"):
            where.migrate_service()
            where.migrate_host(*BEFORE_ASYNC)
        yield where, _load(amount, where, screen)


def _servers(where: Place) -> str:
    kinds = ("PostgreSQL", "Redis")
    parts = [f"{kind} {'embedded' if kind in where.embedded else 'as the URL says'}" for kind in kinds]
    with closing(where.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = (cursor.fetchone() or ("?",))[0]
    return ", ".join(parts).replace("PostgreSQL", f"PostgreSQL {version}", 1)


def _load(amount: int, where: Place, screen: Screen) -> Loaded:
    with screen.step(f"{amount:,} tasks with JSON documents") as step, closing(where.connect()) as connection:
        loaded = rows.load(
            connection, amount, lambda done: step.show(100 * done / amount, "" if done < amount - 1 else "vacuum")
        )
        step.end(f"{loaded.bytes / 1024**2:,.0f} MB, one key in it twice")
    return loaded


def _alone(client: Traffic, screen: Screen) -> Window:
    """Let the client have the table to itself for a while: what everything later is compared with."""
    with screen.step(f"A client at {RATE} reads and writes a second, alone") as step:
        began = time.monotonic()
        while (now := time.monotonic()) - began < ALONE_SECONDS:
            step.show(100 * (now - began) / ALONE_SECONDS)
            client.check()
            time.sleep(0.1)
        # Its first operations pay for connecting.
        window = client.window(began + 1, now)
        step.end(_told(window))
    return window


def _record(where: Place, screen: Screen) -> None:
    screen.chapter("Deploy: manage.py migrate, with ALLOW_SCHEDULED_MIGRATIONS=true")
    with screen.step("The async migration files are applied") as step:
        where.migrate_host()
        with closing(where.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM async_migrations_asyncmigrationstatus WHERE status = 'SCHEDULED'")
            recorded = (cursor.fetchone() or (0,))[0]
        good = recorded == len({act.name for act in ACTS})
        step.end(f"{recorded} migrations recorded as SCHEDULED, none of them run", good=good)


# --- the acts --------------------------------------------------------------------------------------------------------


def _play_acts(door: Door, client: Traffic, scene: Scene, screen: Screen) -> list[Played]:
    screen.chapter("Over HTTP, while the client goes on")
    screen.say(
        "  The client reads any task and writes open ones, single rows by primary key. The UPDATE is of closed ones:\n"
        "  what one statement has changed stays locked until it commits, and a write of such a row would wait for it.\n"
        "  The backfill is of all tasks, and keeps a row locked for about a twentieth of a second."
    )
    with control_plane(door) as control:
        return [_play(act, control, client, scene, screen) for act in ACTS]


def _play(act: Act, control: ControlPlane, client: Traffic, scene: Scene, screen: Screen) -> Played:
    with screen.step(act.title) as step:
        pk = int(control.find(act.name)["id"])
        began, row = time.monotonic(), {}
        scene = replace(scene, seen=[])
        for row in act.course(control, scene, pk):
            _show(step, row, client, began)
        ended = time.monotonic()
        window = client.window(began, ended)
        as_it_should = row["status"] == act.ends
        step.end(f"{row['status']}; the client's longest {milliseconds(window.longest)}", good=as_it_should)
        step.show(None, "looking it up in the database")
        proofs = (_ended_as_it_should(act, row), *act.proofs(replace(scene, row=row)))
    return Played(act, row, began, ended, proofs)


def _show(step: Step, row: Row, client: Traffic, began: float) -> None:
    client.check()
    step.show(row["progress"]["percent"], _phase(row), f"client: {_told(client.window(began, time.monotonic()))}")


def _phase(row: Row) -> str:
    phase = str(row["phase"] or row["status"].lower())
    if row["throttled"]:
        phase = f"waits for the database: {row['throttled']['reason']}"
    return phase if len(phase) <= 48 else f"{phase[:47]}…"


def _ended_as_it_should(act: Act, row: Row) -> Proof:
    said = f"the row says {row['status']}, in attempt {row['attempt']}"
    if row["status"] == act.ends and row["attempt"] == 1:
        return True, said
    return False, f"{said}, and should say {act.ends}, in attempt 1 {row['meta'].get('error', '')}"


def _told(window: Window) -> str:
    return (
        f"{len(window.all):,} served, p50 {milliseconds(window.p50)}, p99 {milliseconds(window.p99)}, "
        f"longest {milliseconds(window.longest)}"
    )


# --- the end ---------------------------------------------------------------------------------------------------------


def _summary(alone: Window, played: list[Played], windows: list[Window], screen: Screen) -> bool:
    screen.chapter("Looked up in the database")
    for act in played:
        screen.say(f"  {act.act.title}")
        screen.checks(act.proofs)
    screen.chapter("Did the application wait?")
    waited = [*_nobody_waited(windows)]
    screen.checks(waited)
    table = screen.table("", "", "ended", "took", "client served", "p50", "p99", "longest")
    table.add_row("client alone", "-", f"{alone.seconds:.1f} s", *_cells(alone))
    for act, window in zip(played, windows, strict=True):
        table.add_row(act.act.title, act.row["status"], f"{act.seconds:.1f} s", *_cells(window))
    screen.print(table)
    good = all(holds for holds, _ in (*(proof for act in played for proof in act.proofs), *waited))
    if good:
        screen.print("[green]All checks passed.[/] Every figure above was measured in this run.")
    return good


def _cells(window: Window) -> tuple[str, ...]:
    served = f"{len(window.all):,} of {max(window.wanted, len(window.all)):,}"
    return served, milliseconds(window.p50), milliseconds(window.p99), milliseconds(window.longest)


def _nobody_waited(windows: list[Window]) -> Iterator[Proof]:
    """Hold the client's figures against the bounds, over all acts together."""
    together = Window(
        sum(window.seconds for window in windows),
        tuple(latency for window in windows for latency in window.reads),
        tuple(latency for window in windows for latency in window.writes),
        sum(window.locked for window in windows),
    )
    # Each window may cut off the operation at either end of it.
    missing = max(0, together.wanted - len(windows) - len(together.all))
    yield (
        missing == 0,
        f"{len(together.reads):,} reads and {len(together.writes):,} writes were served, {missing} were not",
    )
    yield together.locked == 0, f"{together.locked} of them waited for a lock for {LOCK_TIMEOUT} ms"
    yield (
        together.longest <= LONGEST_BOUND,
        f"p50 {milliseconds(together.p50)}, p99 {milliseconds(together.p99)}, longest {milliseconds(together.longest)} "
        f"(bound {LONGEST_BOUND:,} ms), each counted from when it was due",
    )
