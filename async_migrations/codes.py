"""The codes that an error of a migration can have, `meta.error.code`: what each means, and what to do.

docs/errors.md is generated from them. Where an error is raised it is said whether another attempt follows; a test
holds that it is the same here.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a code means.

    repeated: another attempt follows by itself. means, then: what happened and what to do about it, in Markdown.
    """

    repeated: bool
    means: str
    then: str


#: Scripts may depend on the codes.
ERRORS: dict[str, Meaning] = {
    "already_exists": Meaning(
        False,
        "SQLSTATE 42P07: a table or index of that name is there",
        "drop or rename it if it is not what was asked for, then `run`",
    ),
    "bad_row": Meaning(
        False,
        "a backfill met a row that cannot be changed; `message` has the reason, `key` the texts of its key columns."
        " What is before it is done",
        'correct the row or the SQL, `run`: it goes on there; or `on_bad_row="quarantine"`',
    ),
    "bad_rows": Meaning(
        False,
        "all others are done, but a backfill has set more rows aside than `max_bad_rows`",
        "look at them (`GET .../quarantine`), correct them, `run`: just those are tried",
    ),
    "connection_lost": Meaning(
        True,
        "classes 08, 57P, or no connection at all: the server went away, was restarted, cannot be reached, or "
        "refused user, password or database; `message` says which",
        "look whether the server runs and what `DATABASES` of the worker says",
    ),
    "constraint_violation": Meaning(
        False,
        "class 23: rows break a constraint; `detail` names one",
        "correct the rows, `run`",
    ),
    "control_database_lost": Meaning(
        True,
        "the control database did not answer in the course of the attempt",
        "nothing; the next attempt goes on behind what is marked as done in the target",
    ),
    "data_error": Meaning(
        False,
        "class 22: a value does not fit (division by zero, too long, not a number)",
        "correct the rows or the SQL",
    ),
    "database_error": Meaning(False, "any SQLSTATE without a code of its own here", "read message and `sqlstate`"),
    "deadlock": Meaning(
        True,
        "40P01: PostgreSQL ended the statement to end a deadlock",
        "nothing; if it comes back, find who else locks the table",
    ),
    "disk_full": Meaning(False, "53100", "make room on the server's disk, `run`"),
    "duplicate_key": Meaning(
        False,
        "23505: a unique index or constraint is broken; `detail` names the key",
        "remove the duplicates, `run`",
    ),
    "effect_invalid": Meaning(
        True,
        "the statement returned, but the index is INVALID",
        "nothing; the next attempt drops it and builds anew",
    ),
    "effect_missing": Meaning(
        True,
        "the statement returned, but the index is not there, or one that was dropped still is",
        "find who else changes the index",
    ),
    "index_differs": Meaning(
        False,
        "an index of that name is there, with another definition; `detail` has both",
        "drop or rename the one that is there, or choose another name",
    ),
    "insufficient_resources": Meaning(True, "class 53: memory, connections", "give the server what it lacks"),
    "internal_error": Meaning(
        False,
        "a defect of this app or of its set-up",
        "the worker's log has the details; report it",
    ),
    "invalid_definition": Meaning(
        False,
        "the SQL cannot be read, or controls transactions by itself; the `update` of a backfill sets a column of its "
        "key. Usually `migrate` refuses it before",
        "correct the file, migrate again, `run`",
    ),
    "invalid_statement": Meaning(
        False,
        "class 42: the SQL does not fit the schema",
        "correct the file, migrate again, `run`",
    ),
    "left_invalid": Meaning(
        False,
        "a REINDEX CONCURRENTLY of a table returned, but PostgreSQL skipped its INVALID indexes; `message` names them",
        "`REINDEX INDEX CONCURRENTLY` or drop them, then `run`",
    ),
    "leftovers_stay": Meaning(
        True,
        "it was to be cancelled, but what it has left running or behind cannot be removed; `message` says why. "
        "Repeated if that may pass. One reason: another session holds the migration's lock for longer than "
        "a lease; `detail` says which",
        "see to what `message` says, then `run`; or `cancel` again, which leaves everything as it is",
    ),
    "lock_timeout": Meaning(
        True,
        "55P03: the lock was not free, after trying again for `ASYNC_MIGRATIONS_LOCK_RETRY_SECONDS`",
        "find who holds it, `run`",
    ),
    "no_key": Meaning(
        False,
        "a backfill's table has no primary key, or no unique index on the columns of `key`; `hint` names those that"
        " would do",
        "say `key`, or make such an index; then migrate again or `run`",
    ),
    "not_allowed": Meaning(False, "42501: the role lacks a privilege", "grant it, `run`"),
    "not_authorised": Meaning(
        False,
        "class 28 within a session. When connecting it is `connection_lost`: the driver gives no SQLSTATE there",
        "correct `DATABASES` of the worker, `run`",
    ),
    "not_supported": Meaning(False, "class 0A: PostgreSQL cannot do this here", "change the SQL"),
    "outcome_unknown": Meaning(
        False,
        "an attempt ended inside a statement that cannot share a transaction with its mark and leaves no trace to "
        "look up",
        "see below",
    ),
    "process_failed": Meaning(
        False,
        "the function of a backfill raised something; `message` has it. In the row it is a `bad_row`, in the "
        "quarantine it stands by itself",
        "correct the function or the row, `run`",
    ),
    "rows_keep_coming": Meaning(
        False,
        "after ten more walks there still were rows that meet `where`: something goes on writing them",
        'deploy the code that writes them right, `run`; or `verify="report"`',
    ),
    "read_only": Meaning(
        True,
        "SQLSTATE 25006: the server, or the session, is read only: a standby, or what `DATABASES` still leads to "
        "behind a failover",
        "behind a failover nothing; else point the alias at the primary",
    ),
    "serialization_failure": Meaning(True, "40001", "nothing"),
    "statement_cancelled": Meaning(
        False,
        "57014: somebody cancelled it in the database, or `statement_timeout` did",
        "`run` to go on",
    ),
    "syntax_error": Meaning(False, "42601", "correct the file, migrate again, `run`"),
    "system_error": Meaning(
        True,
        "class 58: an error of the server's operating system",
        "look into the server's log",
    ),
    "transaction_rolled_back": Meaning(True, "another error of class 40", "nothing"),
    "transaction_state": Meaning(
        False,
        "class 25: the statement does not run in a transaction",
        "`atomic=False`",
    ),
    "transaction_pooler": Meaning(
        False,
        "the connection goes through a pooler (PgBouncer in transaction or statement mode, or the like) that does "
        "not keep its server process, so that settings, locks and cancels would hit somebody else's. Nothing was "
        "done",
        "give the alias in the worker's `DATABASES` the server's own host and port, or a pool in session mode, `run`",
    ),
    "undefined_table": Meaning(False, "42P01", "apply the migration that makes the table to this database, `run`"),
    "unknown_database": Meaning(
        False,
        "the alias is not in `DATABASES` of the worker, or class 3D within a session",
        "configure the worker as `migrate` is, `run`",
    ),
    "unsupported_database": Meaning(
        False,
        "the alias is not PostgreSQL in the worker",
        "correct `DATABASES` of the worker",
    ),
    "where_stays_true": Meaning(
        False,
        "the rows of a backfill's first batch met `where` after the change as before, so it would have no end. "
        "Nothing was changed",
        'let `where` leave out what is done, or say `verify="off"`; migrate again, `run`',
    ),
    "worker_lost": Meaning(
        False,
        "the worker fell silent in the last of all attempts",
        "find out why (memory, restarts), `run`; or `cancel`, which ends what may still run",
    ),
}
