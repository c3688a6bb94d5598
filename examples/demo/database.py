"""A database of its own, on whatever server there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from api import variables

from .errors import CannotGoOn


@contextmanager
def scratch_database(server_url: str, name: str) -> Iterator[str]:
    """Make a database on the server, yield its URL, and drop it at the end. Raises CannotGoOn."""
    _on_server(server_url, "CREATE DATABASE {}", name)
    try:
        yield _database_named(server_url, name)
    finally:
        with suppress(CannotGoOn):  # A server that went away takes the database with it or shows it to its owner.
            _on_server(server_url, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


_FORCE = """
FROM auth_group AS g, auth_permission AS p
WHERE g.name = 'async_migrations operators' AND p.codename = 'force_asyncmigrationstatus'
"""


@contextmanager
def operators_may_force(database_url: str) -> Iterator[None]:
    """Let operators run for the length of a block what the preflight refuses, as otherwise single users may."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"INSERT INTO auth_group_permissions (group_id, permission_id) SELECT g.id, p.id {_FORCE}")
        try:
            yield
        finally:
            cursor.execute(
                f"DELETE FROM auth_group_permissions WHERE (group_id, permission_id) IN (SELECT g.id, p.id {_FORCE})"
            )


def _on_server(server_url: str, statement: str, name: str) -> None:
    try:
        connection = psycopg2.connect(server_url, connect_timeout=variables.CONNECT_TIMEOUT)
    except psycopg2.Error as exc:
        raise CannotGoOn(
            f"the database at {variables.masked(server_url)} does not answer: {in_one_line(exc)}. Look whether it runs "
            "and whether DATABASE_URL names the right host, user and database."
        ) from exc
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
    except psycopg2.Error as exc:
        raise CannotGoOn(
            f"a database of its own cannot be made at {variables.masked(server_url)}: {in_one_line(exc)}. Give the "
            "role CREATEDB, or leave DATABASE_URL out to use an embedded server."
        ) from exc
    finally:
        connection.close()


def in_one_line(exc: psycopg2.Error) -> str:
    """Return what PostgreSQL or the driver says, without a full stop."""
    return " ".join(str(exc).split()).rstrip(".")


def _database_named(url: str, name: str) -> str:
    # By hand: urlunsplit drops the slashes of a URL without a host, which names a socket in its query.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")
