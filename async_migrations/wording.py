"""A row in words, for the admin and the command line. Nothing here touches a database."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from .models import AsyncMigrationStatus


def duration(seconds: float) -> str:
    """Say how long: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def blockers(row: AsyncMigrationStatus) -> list[str]:
    """Describe each session that keeps the statement waiting."""
    return [_blocker(session) for session in row.waiting_on]


def progress(row: AsyncMigrationStatus) -> str:
    """Say how far it is: "26.8 %, building index, about 35 s left"; empty when nothing is known."""
    percent = "" if row.percent is None else f"{row.percent:.1f} %"
    left = f"about {duration(row.eta_seconds)} left" if row.eta_seconds and not row.terminal else ""
    return ", ".join(filter(None, (percent, row.phase, left)))


def as_json(value: Any) -> str:
    """Return the value as indented JSON, readable in any language."""
    return json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False)


def facts(detail: dict[str, Any]) -> str:
    """Return the detail of an event, one fact a line."""
    return "\n".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)}"
        for key, value in detail.items()
    )


def _blocker(session: dict[str, Any]) -> str:
    who = f"pid {session.get('pid')}"
    if session.get("application_name"):
        who += f" ({session['application_name']})"
    state = f" {session['state']}" if session.get("state") else ""
    since = f" for {duration(float(session['seconds']))}" if session.get("seconds") is not None else ""
    return f"{who}{state}{since}"
