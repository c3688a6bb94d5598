"""What a preflight can say, and how bad each of it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

ERROR, WARNING, INFO = "error", "warning", "info"


class Kind(NamedTuple):
    """A kind of finding. levels: that it comes with. means: for people, in Markdown."""

    levels: tuple[str, ...]
    means: str


#: Scripts may depend on the codes. The table in docs/preflight.md is generated from them.
CODES: dict[str, Kind] = {
    "already_exists": Kind((ERROR, WARNING), "a plain CREATE INDEX, and the name is taken"),
    "disk_space": Kind(
        (ERROR, WARNING, INFO),
        "what the indexes of the migration need in a tablespace (`needed_bytes`), and what is free there "
        "(`free_bytes`; `basis` says who tells). Less than 1.2 times what is needed is an error, less than 2.5 "
        "times a warning",
    ),
    "disk_unknown": Kind((INFO,), "an index is built, and one of the two numbers is not known; the message says why"),
    "duplicate_key": Kind(
        (ERROR, WARNING),
        "a UNIQUE index cannot be built; `samples` has up to five keys with their counts",
    ),
    "duration": Kind(
        (INFO,),
        "how long a concurrent build or a backfill may take, by the up to 20 latest of its kind that are FINISHED "
        "on this target (of a backfill: on this table), waiting included: `basis` has their number and rate. `null`"
        " where there is none: it is never a guess",
    ),
    "index_differs": Kind(
        (ERROR, WARNING),
        "an index of this name is there with another definition; `difference` has both",
    ),
    "index_done": Kind(
        (INFO,),
        "the index is there as asked for, or gone as asked for: the statement has nothing to do",
    ),
    "index_invalid": Kind(
        (WARNING,),
        "an index of this name is INVALID. With CONCURRENTLY the worker waits for who builds it, else drops it and "
        "builds anew",
    ),
    "index_missing": Kind((ERROR, WARNING), "a DROP or REINDEX of an index that is not there"),
    "invalid_definition": Kind(
        (ERROR,), "the SQL cannot be read, or the `update` of a backfill sets a column of its key"
    ),
    "invalid_statement": Kind((ERROR,), "the condition of a backfill does not fit the table"),
    "lint": Kind((WARNING,), "what the linter says of the SQL; `rule` and `line`"),
    "lock": Kind(
        (WARNING, INFO),
        "which locks a statement takes, on what, whom it blocks and for how long, see [below](#locks); a warning if "
        "readers or writers have to wait, or if that is not known",
    ),
    "migration_not_applied": Kind(
        (WARNING,),
        "the migration file is not recorded in `django_migrations` of the target: `migrate` is not through, or "
        "failed behind it",
    ),
    "migration_unknown": Kind((INFO,), "this process has no app with that file, so it cannot look"),
    "no_key": Kind((ERROR,), "a backfill, and the table has no key to walk by"),
    "not_allowed": Kind(
        (ERROR, WARNING),
        "the role does not own the table, or lacks a privilege; `missing` names it. Looked at for CREATE and DROP "
        "INDEX, ALTER TABLE, INSERT, UPDATE, DELETE, TRUNCATE",
    ),
    "not_checked": Kind(
        (WARNING, INFO),
        "something could not be looked for: it took too long, the table is locked, or, as a warning, the role of "
        "this process lacks a privilege for it, which the message names; `error` has PostgreSQL's reason as a code "
        "of [errors.md](errors.md)",
    ),
    "not_linted": Kind((INFO,), "there is no linter here, or it does not work; `reason`"),
    "old_transaction": Kind(
        (WARNING,),
        "transactions older than `ASYNC_MIGRATIONS_PREFLIGHT_OLD_TRANSACTION_SECONDS` that hold a snapshot which a "
        "concurrent build waits for, or a lock of the table",
    ),
    "prepared_transaction": Kind(
        (WARNING,),
        "a prepared transaction holds a lock of the table; nothing ends it by itself",
    ),
    "read_only": Kind(
        (WARNING,),
        "a role that may do the work begins with `default_transaction_read_only = on`: it is refused every change",
    ),
    "replica_lag": Kind(
        (WARNING,),
        "a standby says that it is further behind than `ASYNC_MIGRATIONS_THROTTLE_REPLICA_LAG_SECONDS`. One whose "
        "replay stands still says nothing",
    ),
    "rows": Kind((INFO,), "how many rows a backfill is to change, by the statistics"),
    "settings_in_force": Kind(
        (INFO,),
        "role or database set `maintenance_work_mem` or `search_path`, and the work goes by that; see "
        "[below](#settings-of-roles)",
    ),
    "settings_overridden": Kind(
        (INFO,),
        "role, database or server set timeouts that would end the work; the worker's session overrides them",
    ),
    "table": Kind(
        (INFO,),
        "size of a table with its partitions, of its indexes, and rows by the last ANALYZE, `null` before the first",
    ),
    "table_busy": Kind((WARNING,), "somebody builds, vacuums, alters or has locked the table, or waits for that"),
    "target_unavailable": Kind((WARNING,), "the target does not answer from here"),
    "transaction_pooler": Kind(
        (WARNING,),
        "from here the target is behind a pooler that shares its sessions. A worker with the same way is refused",
    ),
    "undefined_table": Kind((ERROR, WARNING), "there is no such table"),
    "unknown_database": Kind((WARNING,), "the alias is not in `DATABASES` of this process"),
    "unsupported_database": Kind((WARNING,), "the alias is not PostgreSQL in this process"),
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
        if self.level not in CODES[self.code].levels:
            raise AssertionError(f"{self.code} does not come as {self.level}")
