"""What a token may do at most: a scope narrows the rights of its user, and never gives any.

It is kept by the token's digest in a table of its own, beside the tokens: this app is migrated where knox is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import JSONObject

from ..models import AsyncMigrationTokenScope

M = TypeVar("M", bound=Model)

#: What a scope can name; `view` alone reads. Pause, resume and the janitor's drop go with `run`.
VERBS = ("view", "run", "force", "cancel", "rollback", "tune", "hold")


@dataclass(frozen=True)
class Scope:
    """What a token is limited to.

    verbs: names out of VERBS, reading always included. databases: aliases of targets. None: no limit but the user's.
    """

    verbs: frozenset[str] | None = None
    databases: frozenset[str] | None = None

    def allows(self, verb: str) -> bool:
        """Whether the token may use this verb, as far as it is for the scope to say."""
        return self.verbs is None or verb == "view" or verb in self.verbs

    def covers(self, database: str) -> bool:
        """Whether this target is there for the token."""
        return self.databases is None or database in self.databases

    def among(self, rows: QuerySet[M]) -> QuerySet[M]:
        """Return those of the rows, by their field `database`, that are there for the token."""
        return rows if self.databases is None else rows.filter(database__in=self.databases)

    def __str__(self) -> str:
        verbs = "" if self.verbs is None else ", ".join(sorted(self.verbs))
        on = "" if self.databases is None else f"on {', '.join(sorted(self.databases))}"
        return " ".join(filter(None, (verbs, on))) or "all that its user may"


EVERYTHING = Scope()


def with_scope(tokens: QuerySet[Any]) -> QuerySet[Any]:
    """Have the query of tokens bring their scopes along, for `scope_of_token`."""
    kept = AsyncMigrationTokenScope.objects.filter(digest=OuterRef("digest"))
    said = kept.values(said=JSONObject(verbs="verbs", databases="databases"))[:1]
    found: QuerySet[Any] = tokens.annotate(api_scope=Subquery(said))
    return found


def scope_of_token(token: Any) -> Scope:
    """Return the scope of a token that `with_scope` has found."""
    kept = token.api_scope or {}
    limits = {name: frozenset(names) for name, names in kept.items() if names is not None}
    return Scope(**limits)


def scope_of(request: Any) -> Scope:
    """Return the scope of the token that a request came with; a person's session has none."""
    return scope_of_token(request.auth) if hasattr(request.auth, "api_scope") else EVERYTHING
