"""Settings of the app: typed, one prefix, read when used.

Each attribute of `conf` is the Django setting `ASYNC_MIGRATIONS_<NAME>`; durations are in seconds. Numbers may be given
as text, so that a settings module can hand over environment variables as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

PREFIX = "ASYNC_MIGRATIONS_"
T = TypeVar("T")


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _count(value: Any) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _share(value: Any) -> float:
    number = float(value)
    if not 0 < number <= 1:
        raise ValueError
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _limit(value: Any) -> float | None:
    """Read a threshold. Off is None, or `off` in an environment variable; a bool is neither on nor a number here."""
    if value is None or value == "off":
        return None
    if isinstance(value, bool):
        raise ValueError
    return _seconds(value)


def _places(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _count_or_off(value: Any) -> int | None:
    return None if _limit(value) is None else _count(value)


def _limit_or_auto(value: Any) -> float | str | None:
    return "auto" if value == "auto" else _limit(value)


def _switch(value: Any) -> bool:
    """Read a switch; what is none is refused with the words for all settings."""
    try:
        return parse_switch("", value)
    except ImproperlyConfigured as exc:
        raise ValueError from exc


def _names(value: Any) -> tuple[str, ...]:
    """Read names: a list of them, or one text with commas between them."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    return tuple(_text(name) for name in names)


def _proxies(value: Any) -> tuple[IPv4Network | IPv6Network | str, ...]:
    return tuple(name if name == "unix" else ip_network(name) for name in _names(value))


class Setting(Generic[T]):
    """One setting: its default, how it is read, and what it is for."""

    def __init__(self, default: T, read: Callable[[Any], T], purpose: str) -> None:
        self.default, self.read, self.purpose = default, read, purpose

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = PREFIX + name.upper()

    def __get__(self, instance: object, owner: type) -> T:
        value = getattr(settings, self.name, self.default)
        try:
            return self.read(value)
        except (TypeError, ValueError) as exc:
            raise ImproperlyConfigured(
                f"{self.name} is {value!r}, which is not usable here: {self.purpose} The default is {self.default!r}."
            ) from exc


class Conf:
    """The settings, see the module's docstring. Reading one with a nonsensical value raises ImproperlyConfigured."""

    control_database = Setting("default", _text, "alias of the database that holds the rows and events.")
    queue = Setting("async_migrations", _text, "name of the Dramatiq queue.")
    lease_seconds = Setting(30.0, _seconds, "seconds without a heartbeat after which a worker counts as gone.")
    heartbeat_seconds = Setting(1.0, _seconds, "seconds between two heartbeats of an attempt.")
    reconcile_seconds = Setting(2.0, _seconds, "seconds between two rounds of the reconciler.")
    resend_seconds = Setting(30.0, _seconds, "seconds that a message may stay unclaimed before it is sent again.")
    max_attempts = Setting(5, _count, "attempts before a retryable error becomes final.")
    backoff_seconds = Setting(2.0, _seconds, "back-off after the first failed attempt; doubles with each further one.")
    backoff_max_seconds = Setting(300.0, _seconds, "upper bound of the back-off.")
    lock_timeout_seconds = Setting(2.0, _seconds, "lock_timeout of statements that block readers or writers.")
    lock_retry_seconds = Setting(600.0, _seconds, "how long such a statement tries again for its lock.")
    max_running_per_database = Setting(1, _count, "migrations carried out at once on one database.")
    shutdown_grace_seconds = Setting(25.0, _seconds, "seconds that a running statement is given when a worker stops.")

    batch_size = Setting(4_000, _count, "rows of the largest batch of a backfill.")
    target_batch_seconds = Setting(0.5, _seconds, "seconds that a batch is to take.")
    duty_cycle = Setting(0.8, _share, "share of the time that a backfill is at work, the rest is the application's.")
    # A backfill waits while the database is over one of these; what each counts stands in `execution/throttle.py`.
    throttle_replica_lag_seconds = Setting[float | None](10.0, _limit, "seconds that a standby may be behind, or off.")
    throttle_lock_waiters = Setting[float | None](
        2, _limit, "sessions that may wait for locks of the table or its rows, or off."
    )
    throttle_active_sessions = Setting[float | str | None](
        "auto", _limit_or_auto, "active sessions of the server, ours aside; auto: 2 x max_parallel_workers, or off."
    )
    throttle_wal_archive_queue = Setting[float | None](50, _limit, "WAL files that may wait to be archived, or off.")
    throttle_wraparound_vacuum = Setting[float | None](
        0, _limit, "vacuums against wraparound that may work on the table, or off."
    )
    throttle_foreground_writes = Setting[float | None](
        20, _limit, "writing transactions a second of others above which a backfill goes gently, or off."
    )
    gentle_duty_cycle = Setting(0.1, _share, "share of the time that a backfill is at work while it goes gently.")
    throttle_callables = Setting[tuple[str, ...]](
        (), _names, "dotted paths of functions: alias -> reason to wait, or None."
    )

    preflight_old_transaction_seconds = Setting(60.0, _seconds, "age from which a transaction is reported.")
    preflight_role = Setting[str | None](
        None, _text_or_none, "role of the workers in the targets, where this process has another one."
    )
    preflight_free_bytes = Setting[str | None](
        None, _text_or_none, "dotted path of a function: alias -> bytes that are free on the target's disk, or None."
    )
    # What these ask for the executor does by itself: each statement once, with the timeouts that it needs.
    squawk_exclude = Setting[tuple[str, ...]](
        ("prefer-robust-stmts", "require-lock-timeout", "require-statement-timeout"),
        _names,
        "rules of squawk that do not count.",
    )

    rate_limit = Setting[int | None](
        30_000, _count_or_off, "requests a minute that a token, or a person's session, may make, or off."
    )
    trusted_proxies = Setting[tuple[Any, ...]](
        (), _proxies, "addresses or networks of proxies whose X-Forwarded-For counts; unix for a socket."
    )
    waiting_places = Setting(4, _places, "requests that a web process may hold for `Prefer: wait`.")

    metrics_public = Setting(False, _switch, "whether /metrics needs no token: yes or no.")

    webhook_timeout_seconds = Setting(10.0, _seconds, "seconds that the delivery of an event to a webhook may take.")
    webhook_max_attempts = Setting(12, _count, "deliveries of an event that are tried before it is given up.")
    webhook_backoff_seconds = Setting(5.0, _seconds, "back-off after the first try; three times as long after each.")
    webhook_private_addresses = Setting(
        False, _switch, "whether webhooks may lead to private addresses, and use http: true or false."
    )
    webhook_redirects = Setting(False, _switch, "whether webhooks may answer with a redirect: true or false.")
    webhook_keep_seconds = Setting(30 * 86400.0, _seconds, "seconds that the log keeps deliveries that are over.")

    @staticmethod
    def settings() -> Iterator[Setting[Any]]:
        """Yield every setting, for checks and for documentation."""
        yield from (value for value in vars(Conf).values() if isinstance(value, Setting))

    @property
    def allow_scheduled_migrations(self) -> bool:
        """Whether `migrate` only records: the Django setting ALLOW_SCHEDULED_MIGRATIONS, else the environment variable.

        The variable is read here as well, so that a host project need not pass it on in its settings module.
        """
        value = getattr(settings, "ALLOW_SCHEDULED_MIGRATIONS", os.environ.get("ALLOW_SCHEDULED_MIGRATIONS") or False)
        return parse_switch("ALLOW_SCHEDULED_MIGRATIONS", value)


def parse_switch(name: str, value: object) -> bool:
    """Read a switch: True, true, 1, yes or False, false, 0, no; raise ImproperlyConfigured for anything else."""
    text = str(value).strip().lower()
    if text in {"true", "1", "yes"}:
        return True
    if text in {"false", "0", "no"}:
        return False
    raise ImproperlyConfigured(f"{name} is {value!r}: say true, 1 or yes, or false, 0 or no.")


conf = Conf()
