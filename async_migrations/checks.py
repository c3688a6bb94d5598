"""Misconfiguration is caught when a management command starts, by id and with a hint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections
from django.db.migrations.exceptions import BadMigrationError, NodeNotFoundError

from .conf import Conf, conf
from .later_files import Clash, clashes


@register
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Read every setting once; a nonsensical value, or a control database that does not exist, is an error."""
    found: list[CheckMessage] = []
    names = [name for name, value in vars(Conf).items() if not name.startswith("_") and name != "settings"]
    for name in names:
        try:
            getattr(conf, name)
        except ImproperlyConfigured as exc:
            found.append(Error(str(exc), id="async_migrations.E001"))
    if not found and conf.control_database not in settings.DATABASES:
        found.append(
            Error(
                f"ASYNC_MIGRATIONS_CONTROL_DATABASE is {conf.control_database!r}, which is not in DATABASES.",
                hint="Name an alias of DATABASES, or leave the setting out to use 'default'.",
                id="async_migrations.E002",
            )
        )
    return found


@register(Tags.database)
def check_later_files(databases: Sequence[str] | None, **kwargs: Any) -> list[CheckMessage]:
    """Warn of files that `migrate` is about to apply and that take something away from what is not FINISHED.

    It asks the databases, so it runs in `migrate` and `check --database` only; where one does not answer it is silent.
    """
    found: list[CheckMessage] = []
    for alias in databases or ():
        if connections[alias].vendor != "postgresql":
            continue
        try:
            found += [_warning(clash) for clash in clashes(alias)]
        except (DatabaseError, InterfaceError, BadMigrationError, NodeNotFoundError):
            continue  # `migrate` itself says what is wrong; or the tables are yet to be made.
    return found


def _warning(clash: Clash) -> CheckMessage:
    row = clash.row
    return Warning(
        f"{clash.file} {clash.what}, which the SQL of the async migration {row.name} (id {row.pk}) on database "
        f"{row.database!r} names, and that is {row.status}.",
        hint=f"Let it be FINISHED first. To make sure, begin that file with require_finished({row.name!r}).",
        id="async_migrations.W001",
    )
