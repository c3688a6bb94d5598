"""Environment variables, each read by a small typed function; nonsense is an error that says what to write.

Every function takes the environment as a mapping, so that `api.settings` stays the only reader of the real one, and
raises ImproperlyConfigured. Messages never repeat a password: a URL is shown without its user part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from async_migrations.conf import Conf, parse_switch

Environment = Mapping[str, str]

DATABASE_FORMS = "postgresql://USER:PASSWORD@HOST:PORT/NAME or postgresql://USER@/NAME?host=/SOCKET/DIRECTORY"
BROKER_FORMS = "redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH/OF/SOCKET or amqp://USER:PASSWORD@HOST:PORT/"
LOG_LEVELS: tuple[str, ...] = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS: tuple[str, ...] = ("console", "json")
TRACES_EXPORTERS: tuple[str, ...] = ("otlp", "console", "none")

# Seconds. A server that is away must not hold a request for longer than a person or a probe would wait.
CONNECT_TIMEOUT = 3

# Seconds, but for the last one (milliseconds): a database, or a network, that falls silent is noticed within a minute
# and not after the quarter of an hour that the kernel takes by itself. A heartbeat that hangs renews nothing.
_NETWORK = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
BROKER_TIMEOUT = 2

# What an attempt needs, and nothing that writes rows or opens ports of its own (AdminMiddleware, Prometheus). AgeLimit
# would drop messages by the broker's clock: when a migration is out of date is for the row to say.
BROKER_MIDDLEWARE = (
    "dramatiq.middleware.TimeLimit",
    "dramatiq.middleware.Retries",
    "django_dramatiq.middleware.DbConnectionsMiddleware",
)


def masked(url: str) -> str:
    """Return the URL without user, password and query: enough to recognise it, nothing to keep secret.

    It is shown because something is wrong with it: where that could be the place of the password, less is shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(not a URL)"
    user, at, behind = rest.rpartition("@")
    if "?" in user:
        return f"{scheme}://..."
    return f"{scheme}://{behind.partition('?' if at else ':')[0]}"


def readable(name: str, url: str, forms: str) -> SplitResult:
    """Return the parts of a URL; where Python cannot read it, its reason would repeat a part of the password."""
    try:
        parts = urlsplit(url)
        _ = parts.scheme == "sqlite" or parts.port
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is {masked(url)}, which cannot be read; a password with special characters has to be "
            f"percent-encoded. Say {forms}."
        ) from None
    return parts


def switch(env: Environment, name: str, *, default: bool) -> bool:
    """Read true/1/yes or false/0/no; unset or empty is the default."""
    return parse_switch(name, env[name]) if env.get(name) else default


def choice(env: Environment, name: str, allowed: tuple[str, ...], *, default: str) -> str:
    """Read one of the allowed words, in any case."""
    text = env.get(name) or default
    for word in allowed:
        if text.strip().lower() == word.lower():
            return word
    raise ImproperlyConfigured(f"{name} is {text!r}: say one of {', '.join(allowed)}.")


def words(env: Environment, name: str, *, default: tuple[str, ...] = ()) -> list[str]:
    """Read a list separated by commas."""
    return [word.strip() for word in env.get(name, "").split(",") if word.strip()] or list(default)


def origins(env: Environment, name: str) -> list[str]:
    """Read a list of origins such as https://migrations.example.com."""
    found = words(env, name)
    for origin in found:
        if urlsplit(origin).scheme not in ("http", "https"):
            raise ImproperlyConfigured(f"{name} holds {origin!r}: say https://HOST, several separated by commas.")
    return found


def address(env: Environment, name: str) -> tuple[str, int] | None:
    """Read HOST:PORT; None where it is unset."""
    if not (text := env.get(name)):
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ImproperlyConfigured(f"{name} is {text!r}: say HOST:PORT, such as 127.0.0.1:9191 or [::1]:9191.")
    return host.strip("[]"), int(port)


def count(env: Environment, name: str, *, default: int) -> int:
    """Read a whole number that is not negative."""
    text = env.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,10}", text):
        raise ImproperlyConfigured(f"{name} is {text!r}: say a whole number, 0 for none.")
    return int(text)


def header(env: Environment, name: str) -> tuple[str, str] | None:
    """Read a header with its value, `X-Forwarded-Proto: https`, into Django's form; None where it is unset."""
    text = env.get(name, "")
    if not text:
        return None
    found = re.fullmatch(r"([A-Za-z0-9-]+):\s*(\S+)", text.strip())
    if not found:
        raise ImproperlyConfigured(f"{name} is {text!r}: say it like X-Forwarded-Proto: https.")
    return f"HTTP_{found[1].upper().replace('-', '_')}", found[2]


def secret_key(env: Environment, *, debug: bool) -> str:
    """Read SECRET_KEY, without which nothing starts but a server for debugging."""
    if key := env.get("SECRET_KEY"):
        return key
    if debug:
        return "for-debugging-only"
    raise ImproperlyConfigured(
        "SECRET_KEY is not set: sessions and signatures need one. Set it to 50 random characters that stay the same "
        "for all processes of the service."
    )


def databases(env: Environment) -> dict[str, Any]:
    """Read DATABASE_URL as `default`, and each DATABASE_URL_<ALIAS> as a further target by the alias in lower case."""
    if not env.get("DATABASE_URL"):
        raise ImproperlyConfigured(f"DATABASE_URL is not set: say where the control database is, {DATABASE_FORMS}.")
    prefix = "DATABASE_URL_"
    named = {"default": "DATABASE_URL"}
    named |= {name.removeprefix(prefix).lower(): name for name in sorted(env) if name.startswith(prefix) and env[name]}
    return {alias: _database(name, env[name]) for alias, name in named.items()}


def _database(name: str, url: str) -> dict[str, Any]:
    """Translate one URL into Django's form; `host` and the like in libpq's query go where Django looks for them."""
    if readable(name, url, DATABASE_FORMS).scheme not in ("postgresql", "postgres", "sqlite"):
        raise ImproperlyConfigured(f"{name} is {masked(url)}: say {DATABASE_FORMS}.")
    parsed: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    return _postgres_defaults(parsed) if "postgresql" in parsed["ENGINE"] else parsed


def _postgres_defaults(parsed: dict[str, Any]) -> dict[str, Any]:
    options = parsed.setdefault("OPTIONS", {})
    for key in ("host", "port", "user", "password"):
        if key in options:
            parsed[key.upper()] = str(options.pop(key))
    return {**parsed, "OPTIONS": {**_NETWORK, **options}}


def broker(env: Environment) -> dict[str, Any] | None:
    """Read BROKER_URL into Dramatiq's setting; None where it is unset, and migrations are then carried out inline."""
    url = env.get("BROKER_URL", "")
    if not url:
        return None
    scheme = readable("BROKER_URL", url, BROKER_FORMS).scheme
    if scheme in ("redis", "rediss", "unix"):
        chosen = {"BROKER": "dramatiq.brokers.redis.RedisBroker", "OPTIONS": {"client": redis_client(url)}}
    elif scheme in ("amqp", "amqps"):
        chosen = {
            "BROKER": "dramatiq.brokers.rabbitmq.RabbitmqBroker",
            "OPTIONS": {"url": with_patience(url)},
        }
    else:
        raise ImproperlyConfigured(f"BROKER_URL is {masked(url)}: say {BROKER_FORMS}.")
    return {**chosen, "MIDDLEWARE": list(BROKER_MIDDLEWARE)}


def redis_client(url: str) -> Any:
    """Return a client, not connected yet, that gives up soon.

    The library's default is to try again with growing pauses, some 20 seconds for a broker that is away. One more try
    at once is for a connection that went stale in the pool.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=BROKER_TIMEOUT,
            socket_timeout=5,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        raise ImproperlyConfigured(f"BROKER_URL is {masked(url)}, which cannot be read. Say {BROKER_FORMS}.") from None


def with_patience(url: str) -> str:
    """Return the AMQP URL with short time-outs, unless it names its own."""
    if "?" in url:
        return url
    return f"{url}?connection_attempts=1&socket_timeout={BROKER_TIMEOUT}&stack_timeout={2 * BROKER_TIMEOUT}"


def app_settings(env: Environment) -> dict[str, str]:
    """Return every ASYNC_MIGRATIONS_* variable as it is; `async_migrations.conf` reads and checks the values."""
    prefix = "ASYNC_MIGRATIONS_"
    known = {setting.name for setting in Conf.settings()}
    given = {name: value for name, value in env.items() if name.startswith(prefix) and value}
    if unknown := sorted(set(given) - known):
        raise ImproperlyConfigured(
            f"{unknown[0]} is no setting of async_migrations: say one of {', '.join(sorted(known))}."
        )
    return given
