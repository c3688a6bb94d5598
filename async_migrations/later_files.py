"""What files need of async migrations, and what files that are yet to be applied take away from unfinished ones.

It goes by names: of what an operation drops or renames, and in the SQL of the migration. Seen are Django's own
operations that drop or rename tables, columns, indexes and constraints, and DROP, ALTER TABLE and ALTER INDEX in RunSQL
and in later SQL migrations; what no row says yet, and what another RunPython or a DO block does, are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.migrations import Migration, operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import Field

from . import lifecycle
from .errors import InvalidDefinition
from .execution.locks.reading import Text, texts_of
from .models import AsyncMigrationStatus
from .requiring import RequireFinished
from .states import Status


@dataclass(frozen=True)
class Clash:
    """A file that takes something away from a migration. what: of the file, in words."""

    file: str
    what: str
    row: AsyncMigrationStatus


@dataclass(frozen=True)
class _Loss:
    """Something that an operation takes away: in words, and the names by which SQL would mean it, all of them."""

    what: str
    names: tuple[str, ...]


def clashes(alias: str) -> Iterator[Clash]:
    """Yield what the files that `migrate` has yet to apply to a database would take away from what is not FINISHED."""
    given_up = (Status.FINISHED, Status.ROLLED_BACK, Status.CANCELLED)
    rows = list(lifecycle.rows().filter(database=alias).exclude(status__in=given_up).order_by("pk"))
    if not rows:
        return
    for file, operation, state in _ahead(alias):
        if isinstance(operation, RequireFinished):
            rows = [row for row in rows if row.name not in operation.names]
        for loss in _losses(file.app_label, operation, state, alias):
            yield from (Clash(str(file), loss.what, row) for row in rows if _works_on(row, loss))


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


def _losses(app: str, operation: Operation, state: ProjectState, alias: str) -> Iterator[_Loss]:
    match operation:
        case operations.DeleteModel(name=model):
            yield from _table(app, model, state, "drops")
        case operations.RenameModel(old_name=model) | operations.AlterModelTable(name=model):
            yield from _table(app, model, state, "renames")
        case operations.RemoveField() | operations.RenameField() | operations.AlterField():
            yield from _column(app, operation, state)
        case operations.RemoveIndex(name=name):
            yield _Loss(f"drops the index {name}", (name,))
        case operations.RenameIndex():
            for name in _renamed(app, operation, state, alias):
                yield _Loss(f"renames the index {name}", (name,))
        case operations.RemoveConstraint(name=name):
            yield _Loss(f"drops the constraint {name}", (name,))
        case operations.RunSQL(sql=sql):
            yield from _losses_of_sql(_text(sql))
        case operations.RunPython(code=code):
            yield from _losses_of_sql(getattr(code, "async_migration", ""))


def _losses_of_sql(sql: str) -> Iterator[_Loss]:
    try:
        statements = list(texts_of(sql))
    except InvalidDefinition:  # Whoever carries it out is told.
        return
    for text in statements:
        if text.took("DROP"):
            yield from _dropped(text)
        elif text.took("ALTER TABLE"):
            text.skip("IF EXISTS", "ONLY")
            table = text.name().name
            for action in text.parts():
                yield from _changed(action, table)
        elif text.took("ALTER INDEX"):
            text.skip("IF EXISTS")
            name = text.name().name
            if text.took("RENAME TO"):
                yield _Loss(f"renames the index {name}", (name,))


def _dropped(text: Text) -> Iterator[_Loss]:
    if (kind := text.next()) in {"TABLE", "INDEX", "SCHEMA"}:
        text.skip("CONCURRENTLY", "IF EXISTS")
        for name in text.names():
            yield _Loss(f"drops the {kind.lower()} {name.name}", (name.name,))


def _changed(action: Text, table: str) -> Iterator[_Loss]:
    """Yield what an action of an ALTER TABLE drops or renames."""
    verb = _VERBS.get(action.next())
    if verb is None:
        return
    if verb == "renames" and action.took("TO"):
        yield _Loss(f"renames the table {table}", (table,))
        return
    constraint = action.took("CONSTRAINT")
    action.skip("COLUMN", "IF EXISTS")
    name = action.name().name
    if constraint:
        yield _Loss(f"{verb} the constraint {name}", (name,))
    else:
        yield _column_loss(verb, name, table)


_VERBS = {"DROP": "drops", "RENAME": "renames"}


def _column_loss(verb: str, column: str, table: str) -> _Loss:
    return _Loss(f"{verb} the column {column} of the table {table}", (table, column))


def _text(sql: Any) -> str:
    """Return what a RunSQL was given as one text: a text, or a list of texts and of texts with parameters."""
    if isinstance(sql, list | tuple):
        return ";\n".join(str(each[0] if isinstance(each, list | tuple) else each) for each in sql)
    return str(sql)


def _table(app: str, model: str, state: ProjectState, verb: str) -> Iterator[_Loss]:
    if found := state.models.get((app, model.lower())):
        yield _Loss(f"{verb} the table {_table_of(found)}", (_table_of(found),))


def _column(
    app: str, operation: operations.RemoveField | operations.RenameField | operations.AlterField, state: ProjectState
) -> Iterator[_Loss]:
    """Yield the column of the operation's field, unless it is there afterwards by the same name."""
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
    if after != column:
        yield _column_loss(verb, column, _table_of(found))


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


def _works_on(row: AsyncMigrationStatus, loss: _Loss) -> bool:
    text = f"{row.sql_forwards} {row.options.get('table', '')} {row.options.get('where', '')}"
    return all(re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", text, re.IGNORECASE) for name in loss.names)
