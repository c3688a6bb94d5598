"""The directory in which the processes of the service count, so that one scrape of /metrics sees all of them.

prometheus_client reads its name from PROMETHEUS_MULTIPROC_DIR, and has a file there for each process, by process id. So
those who share one must see each other's process ids: one machine, or one container.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "async-migrations-metrics-"
_OF_PROCESS = re.compile(r"(\d+)\.db$")


def shared_directory(given: str | None) -> Path:
    """Return the directory for this process and its children: the one given, or a new one, without what is stale.

    In one that is given the files of processes that are gone are removed; what they counted is forgotten then. Raises
    OSError.
    """
    if not given:
        _remove_forgotten()
        return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    directory = Path(given)
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        found = _OF_PROCESS.search(file.name)
        if found and not _lives(int(found[1])):
            file.unlink(missing_ok=True)
    return directory


def empty_directory(directory: Path) -> Path:
    """Make the directory anew, for when nobody can be using it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def _remove_forgotten() -> None:
    """Remove the directories that were made here for processes that are gone; of our own id, for an earlier one."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and (int(owner) == os.getpid() or not _lives(int(owner))):
            shutil.rmtree(directory, ignore_errors=True)


def _lives(pid: int) -> bool:
    with suppress(PermissionError):  # Somebody else's, but there.
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True
