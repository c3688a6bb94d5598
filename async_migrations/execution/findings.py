"""What a preflight can say, and how bad each of it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ERROR, WARNING, INFO = "error", "warning", "info"

#: code -> the levels that it comes with. Scripts may depend on the codes; docs/preflight.md says what each means.
CODES: dict[str, tuple[str, ...]] = {
    "already_exists": (ERROR, WARNING),
    "disk_space": (ERROR, WARNING, INFO),
    "disk_unknown": (INFO,),
    "duplicate_key": (ERROR, WARNING),
    "duration": (INFO,),
    "index_differs": (ERROR, WARNING),
    "index_done": (INFO,),
    "index_invalid": (WARNING,),
    "index_missing": (ERROR, WARNING),
    "invalid_definition": (ERROR,),
    "invalid_statement": (ERROR,),
    "lint": (WARNING,),
    "lock": (WARNING, INFO),
    "migration_not_applied": (WARNING,),
    "migration_unknown": (INFO,),
    "no_key": (ERROR,),
    "not_allowed": (ERROR, WARNING),
    "not_checked": (WARNING, INFO),
    "not_linted": (INFO,),
    "old_transaction": (WARNING,),
    "prepared_transaction": (WARNING,),
    "read_only": (WARNING,),
    "replica_lag": (WARNING,),
    "rows": (INFO,),
    "settings_in_force": (INFO,),
    "settings_overridden": (INFO,),
    "table": (INFO,),
    "table_busy": (WARNING,),
    "target_unavailable": (WARNING,),
    "transaction_pooler": (WARNING,),
    "undefined_table": (ERROR, WARNING),
    "unknown_database": (WARNING,),
    "unsupported_database": (WARNING,),
}


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way of a migration, or is good to know before it begins.

    code: a key of CODES. level: `error` stands in the way, `warning` may, `info` does not. hint: what to do next.
    """

    code: str
    level: str
    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None

    def __post_init__(self) -> None:
        if self.level not in CODES[self.code]:
            raise AssertionError(f"{self.code} does not come as {self.level}")
