"""Who asks at the command line."""

from __future__ import annotations

import getpass
import os
import socket

from async_migrations.lifecycle import Channel, Origin


def origin() -> Origin:
    """Return the person at this host, such as alice@web-1."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may run as a number without a name.
        user = f"uid-{os.getuid()}"
    return Origin(by=f"{user}@{socket.gethostname()}"[:255], channel=Channel.COMMAND)
