"""What files need of async migrations, and what files that are yet to be applied take away from unfinished ones.

It goes by names: of what an operation takes away, and in the SQL of the migration. Seen are Django's own operations
that drop or rename tables, columns, indexes and constraints, or give a column another type, and the same in RunSQL and
in later SQL migrations, beside a schema that is dropped with all that is in it. Not seen is what no row says yet, what
another RunPython does, and the column of a foreign key whose type follows another's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from django.db import connections
from django.db.migrations import Migration, operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import Field

from . import lifecycle
from .execution import session
from .execution.locks.losses import losses, mentioned
from .execution.locks.modes import Loss
from .execution.statements import Identifier
from .models import AsyncMigrationStatus
from .requiring import RequireFinished
from .states import Status


@dataclass(frozen=True)
class Clash:
    """A file that takes something away from a migration. what: of the file, in words."""

    file: str
    what: str
    row: AsyncMigrationStatus


def clashes(alias: str) -> Iterator[Clash]:
    """Yield what the files that `migrate` has yet to apply to a database would take away from what is not FINISHED."""
    given_up = (Status.FINISHED, Status.ROLLED_BACK, Status.CANCELLED)
    rows = list(lifecycle.rows().filter(database=alias).exclude(status__in=given_up).order_by("pk"))
    if not rows:
        return

    @cache
    def named(row: AsyncMigrationStatus) -> set[Identifier]:
        texts = (row.sql_forwards, row.options.get("table"), row.options.get("where"))
        return _placed(set().union(*(mentioned(text) for text in texts if text)), alias)

    for file, operation, state in _ahead(alias):
        if isinstance(operation, RequireFinished):
            rows = [row for row in rows if row.name not in operation.names]
        for loss in _losses(file.app_label, operation, state, alias):
            (name,) = _placed({loss.name}, alias)
            hit = replace(loss, name=name)
            yield from (Clash(str(file), loss.what, row) for row in rows if _names(named(row), hit))


def needing() -> Iterator[tuple[Migration, list[str]]]:
    """Yield each file of the project with `require_finished`, applied or not, and the names that it requires.

    No database is asked. Raises BadMigrationError and ImportError for files that cannot be read.
    """
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    for _, file in sorted(loader.disk_migrations.items()):
        names = [name for each in _flat(file.operations) if isinstance(each, RequireFinished) for name in each.names]
        if names:
            yield file, names


def _ahead(alias: str) -> Iterator[tuple[Migration, Operation, ProjectState]]:
    """Yield each operation of the files that are not applied, in order, with the models as they are before its file."""
    executor = MigrationExecutor(connections[alias])
    loader = executor.loader
    state = ProjectState(real_apps=loader.unmigrated_apps)
    for file, _ in executor.migration_plan(loader.graph.leaf_nodes(), clean_start=True):
        if (file.app_label, file.name) not in loader.applied_migrations:
            yield from ((file, operation, state) for operation in _flat(file.operations))
        state = file.mutate_state(state, preserve=False)


def _flat(found: Sequence[Operation]) -> Iterator[Operation]:
    for operation in found:
        if isinstance(operation, operations.SeparateDatabaseAndState):
            yield from _flat(operation.database_operations)
        else:
            yield operation


def _losses(app: str, operation: Operation, state: ProjectState, alias: str) -> Iterator[Loss]:
    match operation:
        case operations.DeleteModel(name=model):
            yield from _table(app, model, state, "drops")
        case operations.RenameModel(old_name=model) | operations.AlterModelTable(name=model):
            yield from _table(app, model, state, "renames")
        case operations.RemoveField() | operations.RenameField() | operations.AlterField():
            yield from _column(app, operation, state, alias)
        case operations.RemoveIndex(name=name):
            yield Loss(f"drops the index {name}", Identifier(name))
        case operations.RenameIndex():
            for name in _renamed(app, operation, state, alias):
                yield Loss(f"renames the index {name}", Identifier(name))
        case operations.RemoveConstraint(name=name):
            yield Loss(f"drops the constraint {name}", Identifier(name))
        case operations.RunSQL(sql=sql):
            yield from losses(_text(sql))
        case operations.RunPython(code=code):
            yield from losses(getattr(code, "async_migration", ""))


def _text(sql: Any) -> str:
    """Return what a RunSQL was given as one text: a text, or a list of texts and of texts with parameters."""
    if isinstance(sql, list | tuple):
        return ";\n".join(str(each[0] if isinstance(each, list | tuple) else each) for each in sql)
    return str(sql)


def _table(app: str, model: str, state: ProjectState, verb: str) -> Iterator[Loss]:
    if found := state.models.get((app, model.lower())):
        yield Loss(f"{verb} the table {_table_of(found)}", Identifier(_table_of(found)))


def _column(
    app: str,
    operation: operations.RemoveField | operations.RenameField | operations.AlterField,
    state: ProjectState,
    alias: str,
) -> Iterator[Loss]:
    """Yield the column of the operation's field, unless it is there afterwards by the same name and as good."""
    found, name = state.models.get((app, operation.model_name_lower)), operation.name
    if found is None or name not in found.fields or found.fields[name].many_to_many:
        return
    column, verb, after = _column_of(name, found.fields[name]), "renames", ""
    match operation:
        case operations.RemoveField():
            verb = "drops"
        case operations.RenameField(new_name=new_name):
            after = _column_of(new_name, found.fields[name])
        case operations.AlterField(field=altered):
            after = _column_of(name, altered)
            if after == column and _changes_type(found.fields[name], altered, alias):
                verb, after = "changes the type of", ""
    if after != column:
        table = _table_of(found)
        yield Loss(f"{verb} the column {column} of the table {table}", Identifier(table), column)


def _changes_type(before: Field[Any, Any], after: Field[Any, Any], alias: str) -> bool:
    """Whether a column gets another type; not where it only may hold longer text, and nothing of a foreign key's."""
    if before.is_relation or after.is_relation:
        return False
    old, new = (str(field.db_type(connections[alias])) for field in (before, after))
    narrow, wide = _longest(old), _longest(new)
    return old != new and (narrow is None or wide is None or wide < narrow)


def _longest(column_type: str) -> float | None:
    """Return how many characters a type of text can hold, None for another type."""
    found = re.fullmatch(r"text|varchar(?:\((\d+)\))?", column_type)
    return (float(found[1]) if found[1] else math.inf) if found else None


def _column_of(name: str, field: Field[Any, Any]) -> str:
    return field.db_column or (f"{name}_id" if field.is_relation else name)


def _renamed(app: str, operation: operations.RenameIndex, state: ProjectState, alias: str) -> Iterator[str]:
    """Yield the old name of an index; where the file has its fields instead, those that the database has on them."""
    found = state.models.get((app, operation.model_name_lower))
    if operation.old_name:
        yield operation.old_name
    elif found is not None and found.fields.keys() >= set(fields := operation.old_fields or ()):
        columns = [_column_of(name, found.fields[name]) for name in fields]
        with connections[alias].cursor() as cursor:
            known = connections[alias].introspection.get_constraints(cursor, _table_of(found))
        for name, its in known.items():
            if its["index"] and not its["unique"] and its["columns"] == columns:
                yield name


def _table_of(model: ModelState) -> str:
    return str(model.options.get("db_table") or f"{model.app_label}_{model.name_lower}").strip('"')


def _placed(names: set[Identifier], alias: str) -> set[Identifier]:
    """Give names without a schema the one in which the database finds them."""
    bare = [each.name for each in names if each.schema is None and each.name]
    with connections[alias].cursor() as cursor:
        cursor.execute(session.queries()["schemas_of"], {"names": bare})
        schemas = dict(cursor.fetchall())
    return {Identifier(each.name, each.schema or schemas.get(each.name)) for each in names}


def _names(named: set[Identifier], loss: Loss) -> bool:
    """Whether what is lost is among these names; what has no schema is not there yet, and might come into any."""
    name, schema = loss.name.name, loss.name.schema
    if not name:
        return schema in {each.schema for each in named}
    there = any(each.name == name and (None in (each.schema, schema) or each.schema == schema) for each in named)
    return there and (loss.column is None or loss.column in {each.name for each in named})
