"""The application meanwhile: a process of its own that reads and writes single tasks by primary key at a steady rate.

An operation is due at its time whether or not the one before it has been served, and its latency counts from then: a
wait of a second cannot hide behind the requests that were never sent during it. One that waits for a lock for longer
than LOCK_TIMEOUT fails and is counted: so a wait for heavy work is told from a slow disk.

It reads any task and writes open ones. The bulk UPDATE of the host project changes closed ones: what one statement has
changed stays locked until it commits, and a write of the same row would have to wait for that.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import psycopg2.errors

from api.processes import Running, running

from .errors import CannotGoOn
from .figures import percentile
from .rows import OPEN_EVERY
from .service import last_words

RATE = 200  # operations a second, every other one a write
LOCK_TIMEOUT = 100  # milliseconds

_READ = "SELECT title, data, updated_at FROM task WHERE id = %(id)s"
_WRITE = "UPDATE task SET title = %(title)s, updated_at = now() WHERE id = %(id)s"


@dataclass(frozen=True)
class Window:
    """What the client saw of a stretch of time: latencies in milliseconds, each from the moment it was due."""

    seconds: float
    reads: tuple[float, ...]
    writes: tuple[float, ...]
    locked: int

    @property
    def all(self) -> tuple[float, ...]:
        """Reads and writes together."""
        return self.reads + self.writes

    @property
    def wanted(self) -> int:
        """How many operations were due, give or take the one at either end."""
        return math.floor(self.seconds * RATE)

    @property
    def longest(self) -> float:
        """The longest of all, NaN without any."""
        return max(self.all, default=math.nan)

    @property
    def p50(self) -> float:
        return percentile(self.all, 0.5)

    @property
    def p99(self) -> float:
        return percentile(self.all, 0.99)


class Traffic:
    """The client as the demo sees it."""

    def __init__(self, process: Running) -> None:
        self._process = process
        self._samples: list[tuple[float, str, float, bool]] = []
        self._read = 0

    def window(self, start: float, end: float) -> Window:
        """Return what was due between two moments of the monotonic clock; all that has been served so far."""
        self._catch_up()
        latencies: dict[str, list[float]] = {"read": [], "write": []}
        locked = 0
        for due, kind, latency, served in self._samples:
            if start <= due < end:
                latencies[kind].append(latency)
                locked += not served
        return Window(end - start, tuple(latencies["read"]), tuple(latencies["write"]), locked)

    def settle(self, moment: float, timeout: float = 30) -> None:
        """Wait until everything that was due before the moment has been served, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.check()
            self._catch_up()
            if self._samples and self._samples[-1][0] >= moment:
                return
            time.sleep(0.05)

    def check(self) -> None:
        """Raise CannotGoOn where the client has ended by itself."""
        if not self._process.is_alive():
            raise CannotGoOn(f"the client has ended by itself, and said last: {last_words(self._process)}")

    def _catch_up(self) -> None:
        """Read what the process has written since; a line that is not whole yet is left for the next time."""
        with self._process.log.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        self._read += len(whole) + (1 if whole else 0)
        for line in whole.decode(errors="replace").splitlines():
            words = line.split()
            if len(words) == 4 and words[1] in ("read", "write"):
                self._samples.append((float(words[0]), words[1], float(words[2]), words[3] == "served"))


@contextmanager
def traffic(env: dict[str, str], rows: int, log: Path) -> Iterator[Traffic]:
    """Run the client for the length of a block."""
    command = [sys.executable, "-m", "examples.demo.traffic", "--rows", str(rows)]
    with running(command, env, log, grace=5) as process:
        yield Traffic(process)


# --- the process itself ---


def main() -> int:
    """Serve one operation after the other until told to stop, or until whoever started this is gone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, required=True)
    rows: int = parser.parse_args().rows
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    connection = psycopg2.connect(os.environ["DATABASE_URL"], application_name="tracker")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT}")
    parent = os.getppid()
    due, number = time.monotonic(), 0
    while os.getppid() == parent:
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        kind = "write" if number % 2 else "read"
        outcome = _serve(connection, kind, rows)
        # One line is one write: the reader sees whole lines.
        sys.stdout.write(f"{due:.4f} {kind} {(time.monotonic() - due) * 1000:.3f} {outcome}\n")
        sys.stdout.flush()
        number += 1
    return 0


def _serve(connection: psycopg2.extensions.connection, kind: str, rows: int) -> str:
    opened = OPEN_EVERY * random.randint(1, (rows - 1) // OPEN_EVERY)
    try:
        with connection.cursor() as cursor:
            if kind == "write":
                cursor.execute(_WRITE, {"id": opened, "title": f"Task {opened}, seen at {time.time():.0f}"})
            else:
                cursor.execute(_READ, {"id": random.randint(1, rows)})
                cursor.fetchone()
    except psycopg2.errors.LockNotAvailable:
        return "locked"
    return "served"


if __name__ == "__main__":
    sys.exit(main())
