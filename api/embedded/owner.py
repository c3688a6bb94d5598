"""The user that PostgreSQL runs as: ourselves, or another when we are root, which it refuses."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from api.embedded.ground import EmbeddedError

POSTGRES_USER = "pgserver"  # of the operating system, when we are root


def owner() -> tuple[int, int]:
    """Return user and group id of PostgreSQL's processes: ours, or those of POSTGRES_USER when we are root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    try:
        entry = pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        entry = _make_owner()
    return entry.pw_uid, entry.pw_gid


def _make_owner() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {POSTGRES_USER} cannot be made. "
            "Run this as an ordinary user, or name a server in DATABASE_URL."
        ) from exc
    return pwd.getpwnam(POSTGRES_USER)


def as_owner() -> dict[str, Any]:
    """Return what `subprocess` needs to run a command as the owner, out of reach of a Ctrl-C in our terminal."""
    keywords: dict[str, Any] = {"start_new_session": True, "cwd": "/"}
    if os.getuid() == 0:
        uid, gid = owner()
        keywords |= {"user": uid, "group": gid, "extra_groups": []}
    return keywords


def hand_over(directory: Path) -> None:
    if os.getuid() == 0:
        os.chown(directory, *owner())
    directory.chmod(0o700)


def let_through(path: Path) -> None:
    """As root: let PostgreSQL's user pass the directories above the path, by the least bit that does it."""
    if os.getuid() != 0:
        return
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)
