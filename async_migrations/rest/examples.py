"""Examples of answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

ROW: dict[str, Any] = {
    "id": 12,
    "name": "tasks.migrations.0055_task_proj_octlen_idx_async",
    "database": "default",
    "kind": "sql",
    "direction": "forwards",
    "status": "IN PROGRESS",
    "terminal": False,
    "stop_requested": None,
    "meta": {"job_id": "3f0c9a56-0c0e-4c55-8f52-0a6c6a1f3b1e"},
    "phase": "building index: scanning table",
    "progress": {
        "done": 118211,
        "total": 441021,
        "unit": "blocks",
        "percent": 26.8,
        "rate_per_second": 9120.0,
        "eta_seconds": 35,
    },
    "waiting_on": [],
    "throttled": None,
    "attempt": 1,
    "max_attempts": 5,
    "worker": "db-worker-2:4711",
    "requested_by": "ci",
    "run_at": None,
    "created_at": "2026-11-22T10:00:00Z",
    "updated_at": "2026-11-22T10:31:07.104112Z",
    "requested_at": "2026-11-22T10:30:54.250911Z",
    "started_at": "2026-11-22T10:30:54.391004Z",
    "finished_at": None,
    "heartbeat_at": "2026-11-22T10:31:07.104112Z",
}
DETAIL: dict[str, Any] = {
    **ROW,
    "sql_forwards": "CREATE INDEX CONCURRENTLY task_proj_octlen_idx ON task (project_id)",
    "sql_backwards": "DROP INDEX CONCURRENTLY IF EXISTS task_proj_octlen_idx",
    "queued_behind": [],
    "priority": 0,
    "tuning": {},
    "quarantined": 0,
    "sql_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "options": {},
}
STARTED: dict[str, Any] = {
    **ROW,
    "status": "STARTED",
    "meta": {},
    "phase": "",
    "progress": {
        "done": None,
        "total": None,
        "unit": "",
        "percent": None,
        "rate_per_second": None,
        "eta_seconds": None,
    },
    "attempt": 0,
    "worker": "",
    "started_at": None,
    "heartbeat_at": None,
}
TUNED: dict[str, Any] = {
    **DETAIL,
    "name": "tasks.migrations.0056_task_octlen_async",
    "kind": "backfill",
    "phase": "",
    "progress": {
        "done": 118000,
        "total": 441021,
        "unit": "rows",
        "percent": 26.8,
        "rate_per_second": 1900.0,
        "eta_seconds": 170,
    },
    "throttled": {"reason": "replica_lag_seconds", "value": 12.5, "limit": 5.0, "since": "2026-11-22T10:31:02Z"},
    "tuning": {"batch_size": 500, "batch_delay_seconds": 0.2},
    "quarantined": 1,
    "sql_forwards": "UPDATE task\nSET octlen = octet_length(body)\nWHERE {batch}",
    "sql_backwards": "UPDATE task\nSET octlen = NULL\nWHERE {batch}",
    "options": {"table": "task", "update": "octlen = octet_length(body)"},
}
BAD_ROW: dict[str, Any] = {
    "key": ["88120"],
    "error": {
        "code": "data_error",
        "message": "value out of range",
        "sqlstate": "22003",
        "detail": None,
        "hint": "Correct the rows or the SQL, then run the migration again.",
        "statement": None,
        "key": ["88120"],
    },
    "created_at": "2026-11-22T10:31:04.210911Z",
}
EVENT: dict[str, Any] = {
    "id": 40,
    "kind": "run",
    "from_status": "SCHEDULED",
    "to_status": "STARTED",
    "attempt": 0,
    "by": "ci",
    "request_id": "4f9d2c1e-6f1c-4a63-9a40-0f1f3f6a2b77",
    "detail": {},
    "created_at": "2026-11-22T10:30:54.250911Z",
}
SUMMARY: dict[str, Any] = {
    "total": 3,
    "by_status": {
        "SCHEDULED": 0,
        "STARTED": 1,
        "IN PROGRESS": 1,
        "FINISHED": 1,
        "ERROR": 0,
        "PAUSED": 0,
        "CANCELLED": 0,
        "ROLLED BACK": 0,
    },
    "by_database": {"default": {"STARTED": 1, "IN PROGRESS": 1, "FINISHED": 1}},
    "oldest_in_line_seconds": 12.4,
}
DROP: dict[str, Any] = {"database": "default", "schema": "public", "name": "task_proj_octlen_idx"}
LEFTOVERS: list[dict[str, Any]] = [
    {
        "database": "default",
        "leftovers": [
            {
                "schema": "public",
                "name": "task_proj_octlen_idx",
                "table": "public.task",
                "kind": "invalid",
                "size_bytes": 90112,
                "definition": "CREATE INDEX task_proj_octlen_idx ON public.task USING btree (project_id)",
                "migration": 12,
                "running": False,
            }
        ],
        "error": None,
    }
]
GATE_OPEN: dict[str, Any] = {"state": "pass", "checked": 2, "reasons": [], "more": 0}
GATE_PENDING: dict[str, Any] = {
    "state": "pending",
    "checked": 2,
    "reasons": [
        {
            "id": 12,
            "name": "tasks.migrations.0055_task_proj_octlen_idx_async",
            "database": "default",
            "status": "IN PROGRESS",
            "state": "pending",
            "detail": "It is in progress, 26.8 %: building index: scanning table.",
        }
    ],
    "more": 0,
}
HOLD_REQUEST: dict[str, Any] = {"reason": "Black Friday", "expires_at": "2026-11-28T06:00:00Z"}
_HOLD: dict[str, Any] = {
    "id": 3,
    "database": None,
    **HOLD_REQUEST,
    "by": "alice",
    "request_id": "4f9d2c1e-6f1c-4a63-9a40-0f1f3f6a2b77",
    "created_at": "2026-11-22T10:30:54.250911Z",
    "lifted_at": None,
    "lifted_by": "",
}
HELD: dict[str, Any] = {"held": True, "holds": [_HOLD], "history": [_HOLD]}
BULK: dict[str, Any] = {
    "dry_run": False,
    "counts": {"accepted": 1, "unchanged": 0, "refused": 1, "not_found": 0},
    "items": [
        {
            "id": 12,
            "name": "tasks.migrations.0055_task_proj_octlen_idx_async",
            "database": "default",
            "outcome": "accepted",
            "status": "STARTED",
            "code": None,
            "detail": None,
        },
        {
            "id": 13,
            "name": "tasks.migrations.0056_task_octlen_async",
            "database": "default",
            "outcome": "refused",
            "status": "IN PROGRESS",
            "code": "invalid_transition",
            "detail": "run is not possible while tasks.migrations.0056_task_octlen_async is IN PROGRESS (backwards); "
            "allowed now: pause, cancel.",
        },
    ],
}
OBSTACLE: dict[str, Any] = {
    "code": "undefined_table",
    "level": "error",
    "message": "Statement 1 is about task, and there is no such table in this database.",
    "detail": {"statement": 1, "table": "task"},
    "hint": "Apply the migration that makes it to this database first.",
}
PREFLIGHT: dict[str, Any] = {
    "level": "warning",
    "findings": [
        {
            "code": "old_transaction",
            "level": "warning",
            "message": "Transactions older than 60 s: 1; the oldest has lasted 412 s. "
            "A concurrent build ends only when they have.",
            "detail": {
                "sessions": [
                    {"pid": 4711, "application_name": "report", "state": "active", "seconds": 412, "query": "SELECT 1"}
                ],
                "threshold_seconds": 60.0,
            },
            "hint": "Let them end, or end them (pg_terminate_backend), or the migration waits until they do.",
        }
    ],
}
