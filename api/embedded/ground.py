"""What both embedded servers stand on: their directory, their sockets, their errors, and the signals meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

START_TIMEOUT = 60  # seconds; a server that recovers from a crash takes longer than one that starts fresh
STOP_TIMEOUT = 20  # seconds
LONGEST_SOCKET_PATH = 100  # bytes; the system's limit is 107


class EmbeddedError(Exception):
    """An embedded server cannot be started; the message is one line for a person."""


@contextmanager
def data_directory(data_dir: Path) -> Iterator[None]:
    """Make the directory and keep it to this process until the end; EmbeddedError where somebody else has it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("a+")
    except OSError as exc:
        raise EmbeddedError(
            f"{data_dir} cannot be written: {exc.strerror}. Name another directory in DATA_DIR."
        ) from exc
    with lock:
        _take(lock, data_dir)
        yield


def _take(lock: IO[str], data_dir: Path) -> None:
    """Lock the file. A record lock: children do not inherit it, so one that outlives us does not hold it."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.seek(0)
        raise EmbeddedError(
            f"{data_dir} is in use by process {lock.read().strip() or '?'}. "
            "Stop that, or name another directory in DATA_DIR."
        ) from exc
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def socket_directory(preferred: Path, *, owner: int) -> Path:
    """Return the directory, or a short one in the temporary directory where a socket's path would be too long.

    owner: user id that a short one, left by an earlier run, may belong to beside ours.
    """
    if len(os.fsencode(preferred / ".s.PGSQL.5432.lock")) <= LONGEST_SOCKET_PATH:
        return preferred
    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"async-migrations-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.is_symlink() or short.stat().st_uid not in (os.getuid(), owner):
        raise EmbeddedError(f"{short} belongs to somebody else. Remove it, or name a DATA_DIR with a shorter path.")
    return short


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"the package {name} is not installed. Install the extra 'embedded', or name a server in DATABASE_URL."
        )
    return Path(spec.origin).parent


@contextmanager
def one_line(server: str) -> Iterator[None]:
    """Turn what an operating system or a command says into one line."""
    try:
        yield
    except OSError as exc:
        raise EmbeddedError(
            f"{server} cannot be set up in {exc.filename or 'DATA_DIR'}: {exc.strerror or exc}."
        ) from exc
    except subprocess.CalledProcessError as exc:
        lines = str(exc.output).strip().splitlines() or ["it said nothing"]
        raise EmbeddedError(f"{server} cannot be set up: {reason(lines)}.") from exc


def reason(lines: list[str]) -> str:
    """Return the first line that a program of PostgreSQL marked as its reason to give up, without its preamble."""
    for mark in ("FATAL:", "PANIC:", "error:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip().rstrip(".")
    return lines[-1].strip().rstrip(".")


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, unless somebody else handles it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C or SIGTERM wait until a server is up: interrupted halfway, nobody knows what there is to stop."""
    came: list[int] = []
    with _handled_by(lambda signum, frame: came.append(signum)):
        yield
    if came:
        os.kill(os.getpid(), came[0])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C or SIGTERM while a server is being stopped."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """Give Ctrl-C and SIGTERM another handler for a while; only the main thread can, and only it is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
