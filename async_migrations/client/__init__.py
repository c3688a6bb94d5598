"""`async-migrations`: looks after migrations over HTTP, from where there is no Django. Also what both commands share.

The extra `client` installs what it needs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .watching import Watch


class Terminated(BaseException):
    """SIGTERM: what Ctrl-C is at a terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line, that of this process unless given, and return the exit code.

    Ends by SystemExit where there is nothing to carry out: wrong usage, or --help.
    """
    going: list[Watch] = []
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            from .commands import carry_out
        except ModuleNotFoundError as exc:
            if exc.name not in {"httpx", "rich"}:
                raise
            return _end(f'There is no {exc.name} here. Install it: pip install "django-async-migrations[client]"', 2)
        return carry_out(arguments, going)
    except KeyboardInterrupt:
        return _end(_interrupted("Interrupted", going), 130)
    except Terminated:
        return _end(_interrupted("Terminated", going), 143)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _interrupted(how: str, going: list[Watch]) -> str:
    left = [str(watch.row["id"]) for watch in going if not watch.over]
    again = f"wait {' '.join(left)}" if left else "list"
    return f"{how}; nothing was stopped, the migrations go on. Look again: async-migrations {again}"


def _end(text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
    return code
