"""What the command understands: verbs, arguments, and how each is read."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime

from async_migrations import limits
from async_migrations.states import Status

EPILOG = """exit codes:
  0    done; with wait or --wait: all of them ended as wanted; gate: all are FINISHED
  1    one failed or was cancelled
  2    wrong usage, no such migration, or not allowed in its status
  3    the database cannot be reached
  75   still going on when the time was up; gate: in line, in progress, or waiting for somebody
  130  interrupted; the migrations go on
"""


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Give the parser its verbs; which one was chosen is `verb` in the options."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_list(verbs)
    _add_show(verbs)
    _add_preflight(verbs)
    _add_request(verbs, "run", "put migrations in line for a worker, forwards")
    _add_request(verbs, "pause", "stop migrations where they can go on later")
    _add_request(verbs, "resume", "go on with paused migrations")
    _add_request(verbs, "cancel", "stop migrations for good; the worker cleans up first")
    _add_request(verbs, "rollback", "carry out the backward SQL")
    _add_wait(verbs)
    _add_tune(verbs)
    _add_gate(verbs)
    _add_hold(verbs)
    _add_janitor(verbs)
    _add_grants(verbs)


def _add_list(verbs: Any) -> None:
    parser = _add(verbs, "list", "list migrations, newest first")
    parser.add_argument(
        "--status",
        action="append",
        type=_status,
        metavar="STATUS",
        help=f"only these; may be repeated: {', '.join(Status.values)}",
    )
    parser.add_argument("--search", metavar="TEXT", help="only names that contain it")


def _add_show(verbs: Any) -> None:
    parser = _add(verbs, "show", "show one migration with its error, SQL and events")
    parser.add_argument("migration", metavar="ID", help="id, name, or last part of the name")


def _add_preflight(verbs: Any) -> None:
    parser = _add(verbs, "preflight", "look what stands in the way of a migration; 1 if an error does")
    parser.add_argument("migration", metavar="ID", help="id, name, or last part of the name")


def _add_request(verbs: Any, verb: str, text: str) -> None:
    parser = _add(verbs, verb, text)
    _add_migrations(parser)
    until = "are paused" if verb == "pause" else "end"
    parser.add_argument("--wait", action="store_true", help=f"wait until they {until}")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="wait for at most so long")
    if verb == "run":
        parser.add_argument("--run-at", type=_moment, metavar="TIME", help="begin not before, ISO 8601 with an offset")
        priority, attempts = limits.TERMS["priority"], limits.TERMS["max_attempts"]
        parser.add_argument("--priority", type=int, metavar="N", help=f"the highest goes first, {priority}")
        parser.add_argument("--max-attempts", type=int, metavar="N", help=f"before it is final, {attempts}")
        parser.add_argument("--force", action="store_true", help="whatever the preflight says stands in the way")
    if verb == "rollback":
        parser.add_argument("--no-input", action="store_true", help="do not ask at a terminal")


def _add_wait(verbs: Any) -> None:
    parser = _add(verbs, "wait", "wait until migrations end: FINISHED, or ROLLED BACK for a rollback")
    _add_migrations(parser)
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="wait for at most so long")


def _add_tune(verbs: Any) -> None:
    parser = _add(verbs, "tune", "set values that win over the options of the file, also of what is in progress")
    _add_migrations(parser)
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        type=_setting,
        dest="changes",
        metavar="NAME=VALUE",
        help=f"VALUE as JSON, null takes back what was set; may be repeated: {', '.join(limits.NAMES)}",
    )


def _add_gate(verbs: Any) -> None:
    parser = _add(verbs, "gate", "say whether migrations are FINISHED, by the exit code, and if not, why")
    parser.add_argument("names", nargs="*", metavar="NAME", help="whole name of a migration")
    parser.add_argument("--prefix", action="append", default=[], help="all that begin so; may be repeated")
    parser.add_argument("--app", action="append", default=[], metavar="LABEL", help="all of an app; may be repeated")
    parser.add_argument("--wait", type=_seconds, default=0.0, metavar="SECONDS", help="wait for at most so long")


def _add_hold(verbs: Any) -> None:
    parser = _add(verbs, "hold", "keep every migration from going on; without --reason, show what is held")
    parser.add_argument("--reason", metavar="TEXT", help="for those who wonder why nothing moves")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="it ends by itself then, ISO 8601 with an offset")
    _add(verbs, "lift", "end the hold on all databases, or on the one that --database names")


def _add_janitor(verbs: Any) -> None:
    parser = _add(verbs, "janitor", "list INVALID indexes that builds have left behind, and drop them")
    parser.add_argument("--drop", action="store_true", help="drop them, concurrently, one after the other")


def _add_grants(verbs: Any) -> None:
    parser = _add(verbs, "grants", "print the SQL that gives each role the least that it needs in a database")
    for role, whose in (("api", "the web processes"), ("worker", "the workers"), ("migrate", "`migrate`")):
        parser.add_argument(f"--{role}", required=True, metavar="ROLE", help=f"that {whose} connect as")
    parser.add_argument(
        "--owner",
        metavar="ROLE",
        help="that owns the tables of this target, if it is another one than that of `migrate`",
    )


def _add(verbs: Any, verb: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        verb,
        help=text,
        description=text.capitalize() + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--database", metavar="ALIAS", help="only migrations of this target")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document, for scripts")
    return parser


def _add_migrations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("migrations", nargs="+", metavar="ID", help="id, name, or last part of the name")


def _status(text: str) -> str:
    status = text.upper().replace("_", " ").replace("-", " ")
    if status not in Status.values:
        raise argparse.ArgumentTypeError(f"{text!r} is no status: say one of {', '.join(Status.values)}")
    return status


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), json.loads(value)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=JSON: say it like batch_size=500") from exc


def _moment(text: str) -> datetime:
    try:
        value = parse_datetime(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time with an offset: say it like 2026-11-22T03:00:00+01:00")
    return value
