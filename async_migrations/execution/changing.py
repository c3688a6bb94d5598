"""How one batch is changed, in one transaction with its checkpoint: by SQL, or by a function of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from django.apps import apps
from django.db import Error as DjangoError
from django.db import connections, transaction
from django.db.models import Model
from django.utils.module_loading import import_string

from ..conf import conf
from ..errors import AsyncMigrationError, ExecutionError
from .attempt import Postponed
from .definition import Condition, Definition
from .keyset import Keyset
from .session import Session, Shared, translated_by_django


class Changer(Protocol):
    """Changes a batch. What it does between the two ends of `transaction` commits together, or not at all."""

    def transaction(self) -> Any:
        """Return the context of one transaction."""

    def change(self, condition: Condition) -> int:
        """Change the rows of a batch; return how many."""

    def write(self, query: str, /, **parameters: Any) -> int:
        """Carry out a named query that writes; return how many rows it changed."""

    def left(self, condition: Condition) -> int:
        """Return how many rows of a batch still are to be changed."""


class SqlChanger:
    """Changes a batch by one statement, in the session of the attempt."""

    def __init__(self, session: Session, definition: Definition, keyset: Keyset) -> None:
        self._session, self._definition, self._keyset = session, definition, keyset
        self.transaction = session.transaction
        self.write = session.change

    def change(self, condition: Condition) -> int:
        """Change the rows of a batch; return how many. Raises ExecutionError."""
        return self._session.affect(self._definition.statement(condition))

    def left(self, condition: Condition) -> int:
        """Return how many rows of a batch still are to be changed."""
        return int(self._session.select(_count_left(self._definition, self._keyset, condition))[0]["rows"])


class ProcessChanger:
    """Changes a batch by a function of the project, over Django's own connection of this thread.

    Raises Postponed where the project's code is not: another worker may have it.
    """

    def __init__(self, alias: str, definition: Definition, keyset: Keyset, settings: dict[str, str]) -> None:
        self._alias, self._definition, self._keyset, self._settings = alias, definition, keyset, settings
        self._connection = connections[alias]
        self._shared = Shared(self._connection)
        self._function = _load(definition.process)
        self._model = _model(definition.model)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction; whatever the function raises rolls back. Raises ExecutionError."""
        try:
            with translated_by_django(), transaction.atomic(using=self._alias):
                for name, value in {"row_security": "off", **self._settings}.items():
                    self._shared.set_locally(name, value)
                yield
        except (AsyncMigrationError, DjangoError):
            raise
        except Exception as exc:  # Whatever the project's function raises.
            raise ExecutionError(
                code="process_failed",
                message=f"{self._definition.process} raised {type(exc).__name__}: {exc}",
                hint="Correct the function or the row; the worker's log has the details.",
            ) from exc

    def change(self, condition: Condition) -> int:
        """Call the function with the rows of a batch; return how many it says it changed, else how many it got."""
        rows = self._queryset(self._model, condition) if self._model else self._rows(condition)
        count = len(rows)
        said = self._function(rows) if count else 0
        return said if isinstance(said, int) and not isinstance(said, bool) else count

    def write(self, query: str, /, **parameters: Any) -> int:
        """Carry out a named query that writes; return how many rows it changed."""
        return self._shared.change(query, **parameters)

    def left(self, condition: Condition) -> int:
        """Return how many rows of a batch still are to be changed."""
        return int(self._shared.select(_count_left(self._definition, self._keyset, condition))[0]["rows"])

    def _queryset(self, model: type[Model], condition: Condition) -> Any:
        # The rows stay locked until the commit: what the function read is still true when it writes.
        meant = [self._meant(condition).replace("%", "%%")]
        rows = model._base_manager.using(self._alias).extra(where=meant)  # noqa: S610
        return rows.select_for_update(of=("self",), no_key=True)

    def _rows(self, condition: Condition) -> list[dict[str, Any]]:
        return self._shared.read(
            f"SELECT * FROM {self._keyset.relation} WHERE {self._meant(condition)} FOR NO KEY UPDATE"  # noqa: S608
        )

    def _meant(self, condition: Condition) -> str:
        where = f"({self._definition.where}\n) AND " if self._definition.where else ""
        return f"{where}{condition.sql()}"


def _count_left(definition: Definition, keyset: Keyset, condition: Condition) -> str:
    return f"SELECT count(*) AS rows FROM {keyset.relation} WHERE ({definition.where}\n) AND {condition.sql()}"  # noqa: S608


def _load(path: str) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = import_string(path)
    except ImportError as exc:
        raise Postponed(f"this worker has no {path} ({exc}): another one may", conf.resend_seconds) from exc
    return function


def _model(label: str) -> type[Model] | None:
    if not label:
        return None
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as exc:
        raise Postponed(f"this worker has no model {label} ({exc}): another one may", conf.resend_seconds) from exc
