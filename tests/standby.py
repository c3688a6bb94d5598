"""A real streaming standby of the embedded PostgreSQL, whose replay a test can stop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from api.embedded.ground import one_line
from api.embedded.owner import hand_over, let_through
from api.embedded.postgres import SETTINGS, _command, _postgres_binaries, _start_postgres, _stop_postgres

# Of these a standby needs as much as its primary has.
_AS_LARGE = """
SELECT name, setting FROM pg_settings WHERE name IN
('max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction')
"""


class Standby:
    """A standby that is running; `url` is where it answers, read only."""

    def __init__(self, home: Path, sockets: Path) -> None:
        self.home, self.url = home, f"postgresql://postgres@/postgres?host={sockets}"

    def pause_replay(self) -> None:
        """Go on receiving WAL, but replay nothing."""
        asked(self.url, "SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        """Replay what has come, and go on."""
        asked(self.url, "SELECT pg_wal_replay_resume()")

    def stop(self) -> None:
        """Stop the server. The primary keeps nothing for it."""
        _stop_postgres(self.home, _postgres_binaries())


@contextmanager
def standby(primary_url: str) -> Iterator[Standby]:
    """Copy the primary, a server of the same binaries that listens on a socket, and stream from it until the end."""
    with tempfile.TemporaryDirectory(prefix="standby-") as folder, one_line("the standby"):
        # Not in its data directory: the copy of the primary's has the primary's lock of its socket.
        sockets = Path(folder).resolve()
        let_through(sockets)
        hand_over(sockets)
        made = Standby(sockets / "data", sockets)
        copy = ["-D", made.home, "-d", primary_url, "--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
        _command([_postgres_binaries() / "pg_basebackup", *copy])
        settings = SETTINGS | {"fsync": "off", "shared_buffers": "16MB"} | dict(asked(primary_url, _AS_LARGE))
        try:
            _start_postgres(made.home, _postgres_binaries(), sockets, settings)
            yield made
        finally:
            made.stop()


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement on a server, committed at once; return its rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
