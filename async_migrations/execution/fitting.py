"""Whether a backfill fits its table: a key to walk by, SQL that can be read, and rows that stay where they are."""

from __future__ import annotations

from ..errors import ExecutionError, InvalidDefinition
from ..lifecycle import Request
from .definition import Definition, read, trial
from .keyset import Asks, Keyset, keyset
from .locks.reading import text_of
from .statements import Identifier
from .verify import quoted


def check(asks: Asks, request: Request) -> None:
    """Refuse what cannot be carried out on the table as it is; pass where there is no such table yet.

    Raises InvalidDefinition: a column that is not there, no key to walk by, SQL that PostgreSQL cannot read, an UPDATE
    that moves rows along the key.
    """
    options = request.options
    if not asks.all("relation", table=options["table"]):
        return
    forwards, backwards = read(options, request.sql_forwards), read(options, request.sql_backwards, backwards=True)
    try:
        walked = keyset(asks, options["table"], options.get("key", ()))
        if forwards and forwards.text:
            asks.select(f"EXPLAIN {trial(forwards.text)}")
        if where := options.get("where"):
            asks.select(f"EXPLAIN SELECT FROM {options['table']} WHERE ({where}\n)")
    except ExecutionError as error:
        raise InvalidDefinition(" ".join(filter(None, (error.message, error.hint)))) from error
    for definition in filter(None, (forwards, backwards)):
        require_in_place(definition, walked)


def require_in_place(definition: Definition, walked: Keyset) -> None:
    """Refuse an UPDATE that sets a column of the key by which the rows are walked, unless `where` tells what is done.

    Only what its SET names is seen, not what a trigger or another statement does. Raises InvalidDefinition.
    """
    if not definition.update or definition.proven:
        return
    assigned = _assigned(definition.text)
    if moved := ", ".join(column.name for column in walked.columns if column.name in assigned):
        raise InvalidDefinition(
            f"The UPDATE sets {moved}, by which the rows of {walked.relation} are walked: a row that it moves ahead is "
            "changed twice, and one that comes to lie behind is left out. Say key= with a unique index whose columns "
            "stay as they are; or, on the way forwards, a where= that is false of each row that is done, with "
            'verify="take".'
        )


def _assigned(text: str) -> set[str]:
    """Return the quoted names of the columns that the SET of a plain UPDATE names."""
    found: set[str] = set()
    update = text_of(trial(text))
    update.behind("UPDATE")
    update.took("SET")
    for part in update.parts():
        listed = part.took("(")
        names = part.names()
        if (not listed or part.took(")")) and part.took("="):
            found |= {quoted(Identifier(name.schema or name.name)) for name in names}
    return found
