"""The queries of every request and every message, whose SQL is made once.

To put one together takes Django longer than PostgreSQL takes to answer it, and to read its answer as a model not much
less. What is asked differs only in its values: `Slot`s stand for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

from django.db import connections
from django.db.models import Field, Q, QuerySet, Value
from django.db.models.sql import UpdateQuery

from ..conf import conf
from ..models import AsyncMigrationStatus


class Slot(str):
    """Stands in a query for a value that it is asked with later."""


class Sql(NamedTuple):
    """The text of a query, and its parameters with slots among them."""

    text: str
    parameters: tuple[Any, ...]

    def filled(self, values: Mapping[Slot, Any]) -> list[Any]:
        """Return the parameters with each slot's value in its place."""
        return [values[each] if isinstance(each, Slot) else each for each in self.parameters]


def select(query: QuerySet[Any], alias: str) -> Sql:
    """Return the SQL of a query."""
    text, parameters = query.query.get_compiler(alias).as_sql()
    return Sql(text, tuple(parameters))


def update(changes: Mapping[str, Any], known: Mapping[str, Any], conditions: Sequence[Q]) -> tuple[str, list[Any]]:
    """Return an UPDATE of the migration that is as it is known, and its parameters.

    changes, known: by names of fields; a change may be an expression. It and the conditions should be the same objects
    each time, for what was made with them is found by them.
    """
    expressions = tuple(
        (name, value if hasattr(value, "resolve_expression") else None) for name, value in changes.items()
    )
    nulls = tuple((name, value is None) for name, value in known.items())
    made = _update(conf.control_database, expressions, nulls, tuple(conditions))
    connection = connections[conf.control_database]
    values = {
        Slot(f"set {name}"): _prepared(name, changes[name], connection) for name, given in expressions if given is None
    }
    values |= {Slot(f"was {name}"): _prepared(name, known[name], connection) for name, null in nulls if not null}
    return made.text, made.filled(values)


@lru_cache(maxsize=256)  # A delay is an expression of its own each time: those are to go again.
def _update(
    alias: str, expressions: tuple[tuple[str, Any], ...], nulls: tuple[tuple[str, bool], ...], conditions: tuple[Q, ...]
) -> Sql:
    known = {name: None if null else Value(Slot(f"was {name}")) for name, null in nulls}
    found = AsyncMigrationStatus.objects.using(alias).filter(*conditions, **known)
    query = cast("UpdateQuery", found.query.chain(UpdateQuery))
    slots = {name: Value(Slot(f"set {name}")) if given is None else given for name, given in expressions}
    query.add_update_values(slots)
    text, parameters = query.get_compiler(alias).as_sql()
    return Sql(text, tuple(parameters))


def _prepared(name: str, value: Any, connection: Any) -> Any:
    """Return the value of a field as the driver takes it."""
    field = cast("Field[Any, Any]", AsyncMigrationStatus._meta.get_field(name))
    return field.get_db_prep_save(value, connection)


def read(text: str, parameters: Iterable[Any]) -> AsyncMigrationStatus | None:
    """Return the first migration that a query finds, with what else it names as attributes; None: there is none."""
    alias = conf.control_database
    with connections[alias].cursor() as cursor:
        cursor.execute(text, list(parameters))
        found = cursor.fetchone()
        return None if found is None else _reader(alias, tuple(column[0] for column in cursor.description)).row(found)


class _Reader(NamedTuple):
    """How the columns of an answer become a migration.

    names: the fields, in the order of the model. places: for each where the answer has it, and what turns it into the
    model's value. beside: names and places of what is no field.
    """

    alias: str
    names: list[str]
    places: Sequence[tuple[int, Sequence[Any]]]
    beside: list[tuple[str, int]]

    def row(self, found: Sequence[Any]) -> AsyncMigrationStatus:
        row = AsyncMigrationStatus.from_db(self.alias, self.names, list(self._values(found)))
        for name, place in self.beside:
            setattr(row, name, found[place])
        return row

    def _values(self, found: Sequence[Any]) -> Iterator[Any]:
        connection = connections[self.alias]
        for place, converters in self.places:
            value = found[place]
            for convert in converters:
                value = convert(value, None, connection)
            yield value


@cache
def _reader(alias: str, columns: tuple[str, ...]) -> _Reader:
    connection = connections[alias]
    fields = [field for field in AsyncMigrationStatus._meta.concrete_fields if field.column in columns]
    places = [
        (
            columns.index(field.column),
            [
                *connection.ops.get_db_converters(field.get_col(AsyncMigrationStatus._meta.db_table)),
                *field.get_db_converters(connection),
            ],
        )
        for field in fields
    ]
    of_fields = {field.column for field in fields}
    beside = [(name, place) for place, name in enumerate(columns) if name not in of_fields]
    return _Reader(alias, [field.attname for field in fields], places, beside)
