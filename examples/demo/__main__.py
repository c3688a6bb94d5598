"""`python -m examples.demo [--rows N]`, run by `make demo`.

DATABASE_URL and BROKER_URL name real servers instead of embedded ones; PORT and TMPDIR say where it listens and works.
Exit codes: 0 all checks passed, 1 something went wrong, 130 stopped by Ctrl-C or a signal.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

import psycopg2
from django.core.exceptions import ImproperlyConfigured

from api.embedded import EmbeddedError

from .database import in_one_line
from .errors import CannotGoOn
from .screen import Screen
from .story import play

ROWS = 1_000_000
FEWEST_ROWS = 1000
STOPPED = 130


def main() -> int:
    """Play the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="The main job, end to end.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"tasks in the table, default {ROWS:,}")
    amount: int = parser.parse_args().rows
    if amount < FEWEST_ROWS:
        parser.error(f"--rows is {amount}: say at least {FEWEST_ROWS}")
    return told_in_one_line("demo", lambda: play(amount, Screen()))


def told_in_one_line(name: str, tell: Callable[[], bool]) -> int:
    """Run a story and return the exit code: what stops it is one line on stderr, and leaves nothing running."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        good = tell()
    except (CannotGoOn, EmbeddedError, ImproperlyConfigured, OSError) as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return 1
    except psycopg2.Error as exc:
        print(f"{name}: the database does not do its part: {in_one_line(exc)}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped, and everything that it had started", file=sys.stderr)
        return STOPPED
    if not good:
        print(f"{name}: not everything turned out as it should, see above", file=sys.stderr)
    return 0 if good else 1


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
