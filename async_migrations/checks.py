"""Misconfiguration is caught when a management command starts, by id and with a hint."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from .conf import Conf, conf


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
