#!/usr/bin/env python
"""Django's commands for the control-plane service."""

import os
import sys


def main() -> None:
    """Run one command; a service that is set up wrongly is one line on stderr and exit code 1, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "api.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"manage.py: the settings cannot be used. {exc}")
    except OperationalError as exc:
        reason = " ".join(str(exc).split())
        sys.exit(
            f"manage.py: the database does not do its part: {reason}. Nothing more was done. "
            "Look whether it runs and whether DATABASE_URL names the right host, user and database."
        )


if __name__ == "__main__":
    main()
