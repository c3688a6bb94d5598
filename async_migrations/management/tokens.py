"""What the commands about tokens share: knox, without which there are none, and a database that answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.core.management.base import CommandError
from django.db import OperationalError, ProgrammingError


def needed() -> None:
    """Raise CommandError where tokens cannot be kept. `rest.tokens` can be imported behind it, and not before."""
    if not apps.is_installed("knox"):
        raise CommandError("Tokens are kept by django-rest-knox: add 'knox' to INSTALLED_APPS, then migrate.")


@contextmanager
def or_say_what_is_missing(nothing: str) -> Iterator[None]:
    """Turn a database that is away, or without tables, into a CommandError that begins with `nothing`."""
    try:
        yield
    except (OperationalError, ProgrammingError) as exc:
        reason = " ".join(str(exc).split())
        raise CommandError(
            f"{nothing} Is the database up, and has manage.py migrate been run? It says: {reason}"
        ) from exc
