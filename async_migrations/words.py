"""How a migration is put into words, for the pages and for both commands: without Django, from plain values.

A row is what the HTTP contract calls so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]

#: What `state` reads of a row.
OF_THE_STATE = ("status", "direction", "stop_requested", "run_at", "attempt", "meta")

_ERROR_TERMS = {
    "message": "What happened",
    "detail": "Detail",
    "hint": "What to do",
    "statement": "Statement number",
    "key": "Key of the row",
    "code": "Code",
    "sqlstate": "SQLSTATE",
}

# What an event says; what is not here is said by its own name.
_EVENTS = {
    "schedule": "Recorded by migrate",
    "run": "Asked to run",
    "retry": "Asked to try the rows again that were set aside",
    "rollback": "Asked to be rolled back",
    "withdraw": "Withdrawn: nothing of it had run",
    "claim": "A worker began",
    "release": "Given back by the worker, to go on later",
    "pause": "Paused",
    "resume": "Asked to go on",
    "cancel": "Cancelled",
    "succeed": "Done: what it was to bring about is there",
    "fail": "Failed",
    "reap": "The worker was gone; taken from it",
    "tuned": "Tuned",
    "throttled": "Waited for a healthier database",
    "went_gently": "Went gently while others wrote",
    "guard_report": "A session queued behind it for the table",
    "guard_cancel": "A session that queued behind it for the table was cancelled",
    "lock_retry": "Tried again to get a lock",
    "statement_begun": "A statement has begun that nobody can look up",
    "statement_done": "A statement is done",
    "found_done": "Found done already",
    "row_set_aside": "A row was set aside",
}


# How an attempt ended, by the kind of the event that says so.
_ENDS = {
    "succeed": "done",
    "fail": "failed",
    "release": "given back",
    "pause": "paused",
    "cancel": "cancelled",
    "reap": "taken from a worker that was gone",
}


def state(row: Row) -> str:
    """Say in half a sentence where a migration is that was just asked for; `run_at` may be a text or a time."""
    backwards = row["direction"] == "backwards"
    if row["stop_requested"] == "cancel":
        return "asked to stop; the worker cleans up, then it is CANCELLED"
    if row["stop_requested"] == "pause":
        return "asked to pause; the worker stops at the next checkpoint, then it is PAUSED"
    if row["status"] == "STARTED":
        when = f", not before {parsed(row['run_at']).isoformat(timespec='seconds')}" if row["run_at"] else ""
        return f"in line for a worker{', to be rolled back' if backwards else ''}{when}"
    if row["status"] == "IN PROGRESS":
        return f"{'being rolled back' if backwards else 'in progress'}, attempt {row['attempt']}"
    if row["status"] == "ERROR":
        return f"ERROR: {row['meta'].get('error', {}).get('message', 'no reason is recorded')}"
    return str(row["status"])


def describe(row: Row) -> str:
    """Return one line about a migration for a log."""
    said = ", ".join(filter(None, (status(row), progress(row), _waits(row))))
    return f"{row['id']} {row['name']} on {row['database']}: {said}"


def shortly(row: Row) -> str:
    """Say what is worth saying beside a progress bar."""
    return ", ".join(filter(None, (status(row), _waits(row) or row["phase"], left(row))))


def status(row: Row) -> str:
    """Say the status, what was asked for meanwhile, and which attempt it is unless it is the first."""
    stop = f" (asked to {asked_to(row['stop_requested'])})" if row["stop_requested"] else ""
    attempt = f", attempt {row['attempt']}" if row["attempt"] > 1 and not row["terminal"] else ""
    return f"{row['status']}{stop}{attempt}"


def progress(row: Row) -> str:
    """Say how far it is: "26.8 %, building index, about 35 s left"; empty when nothing is known."""
    percent = row["progress"]["percent"]
    return ", ".join(filter(None, ("" if percent is None else f"{percent:.1f} %", row["phase"], left(row))))


def left(row: Row) -> str:
    """Say how long it may take from now on; empty when that is not known, or it is over."""
    eta = row["progress"]["eta_seconds"]
    return f"about {duration(eta)} left" if eta and not row["terminal"] else ""


def ended(row: Row, wanted: str) -> str:
    """Say how a migration ended that did not end as was wanted, and why."""
    error = row["meta"].get("error") or {}
    why = " ".join(str(error[key]) for key in ("message", "detail", "hint") if error.get(key))
    return f"{row['id']} {row['name']} on {row['database']} ended as {row['status']}, not {wanted}. {why}".rstrip()


def error(said: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield the term and the text of each thing that is known of an error, in the shape of `meta.error`."""
    for key, term in _ERROR_TERMS.items():
        if said and said.get(key) not in (None, ""):
            yield term, str(said[key])


def asked_to(stop_requested: str | None) -> str:
    """Say what a stop request wants of the worker: "stop" for good, "pause"; empty when there is none."""
    return {"cancel": "stop", "pause": "pause"}.get(stop_requested or "", "")


def blockers(waiting_on: Iterable[Mapping[str, Any]]) -> list[str]:
    """Describe each session that keeps the statement waiting."""
    return [_blocker(session) for session in waiting_on]


def throttling(throttled: Mapping[str, Any] | None) -> str:
    """Say why it waits for a healthier database: "throttled by lock_waiters: 12, limit 5"; empty when it does not."""
    if not throttled:
        return ""
    measured = [str(throttled["value"])] if throttled.get("value") is not None else []
    measured += [f"limit {throttled['limit']}"] if throttled.get("limit") is not None else []
    return ": ".join(filter(None, (f"throttled by {throttled['reason']}", ", ".join(measured))))


def event(said: Mapping[str, Any]) -> str:
    """Say what happened to a migration: "A worker began, attempt 2"."""
    what = _EVENTS.get(said["kind"], str(said["kind"]).replace("_", " ").capitalize())
    return f"{what}, attempt {said['attempt']}" if said["kind"] == "claim" else what


def attempt_end(said: Mapping[str, Any]) -> str:
    """Say how an attempt ended, of the event that says so: "failed: unique_violation"."""
    code = (said["detail"].get("error") or {}).get("code", "")
    return ": ".join(filter(None, (_ENDS.get(said["kind"], said["kind"]), code)))


def gate(verdict: Mapping[str, Any]) -> list[str]:
    """Say what a gate says, in a line, and a line for each reason."""
    more = [f"and {verdict['more']} more"] if verdict["more"] else []
    return [
        f"{verdict['state']}: {verdict['checked']} migrations looked at",
        *(f"{reason['state']}: {_subject(reason)}: {reason['detail']}" for reason in verdict["reasons"]),
        *more,
    ]


def findings(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what a preflight has found: a line for each finding, and one for what to do about it."""
    lines = []
    for finding in found:
        lines.append(f"{finding['level']:<7}  {finding['code']}: {finding['message']}")
        lines += [f"         {finding['hint']}"] if finding["hint"] else []
    return lines


def duration(seconds: float) -> str:
    """Say how long: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Say how much: "16 kB", "1.5 GB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in {"bytes", "kB"} else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def moment(value: datetime | str | None) -> str:
    """Return the time to the second, with its offset; "-" for none."""
    return parsed(value).isoformat(sep=" ", timespec="seconds") if value else "-"


def parsed(value: datetime | str) -> datetime:
    """Return the time that a text of the HTTP contract says; a time as it is."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def printable(text: str) -> str:
    """Show control characters instead of sending them: values out of a table must not steer somebody's terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def _waits(row: Row) -> str:
    if row["waiting_on"]:
        return f"waits for {'; '.join(blockers(row['waiting_on']))}"
    return throttling(row["throttled"])


def _subject(reason: Mapping[str, Any]) -> str:
    if reason["id"] is None:
        return str(reason["name"])
    return f"{reason['id']} {reason['name']} on {reason['database']}, {reason['status']}"


def _blocker(session: Mapping[str, Any]) -> str:
    who = f"pid {session.get('pid')}"
    if session.get("application_name"):
        who += f" ({session['application_name']})"
    doing = f" {session['state']}" if session.get("state") else ""
    since = f" for {duration(float(session['seconds']))}" if session.get("seconds") is not None else ""
    return f"{who}{doing}{since}"
