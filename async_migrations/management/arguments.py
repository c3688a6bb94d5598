"""What the command understands: verbs, arguments, and how each is read."""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from typing import Any

from async_migrations import limits
from async_migrations.client.arguments import (
    MIGRATION,
    REQUESTS,
    add_gate,
    add_many,
    add_names,
    add_request,
    add_wait,
    moment,
    status,
)
from async_migrations.states import NOTABLE, Direction, Kind, Status

EPILOG = """exit codes:
  0    done; with wait or --wait: all of them ended as wanted; gate: all are FINISHED
  1    one failed or was cancelled; gate: one has failed, or waits for somebody
  2    wrong usage, no such migration, or not allowed in its status
  3    the database cannot be reached
  75   still going on when the time was up; gate: in line or in progress
  130  interrupted; the migrations go on
"""


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Give the parser its verbs; which one was chosen is `verb` in the options."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_list(verbs)
    _add_show(verbs)
    _add_preflight(verbs)
    for verb, text in REQUESTS.items():
        _add_request(verbs, verb, text)
    add_wait(_add(verbs, "wait", "wait until migrations end: FINISHED, or ROLLED BACK for a rollback"))
    _add_tune(verbs)
    _add_gate(verbs)
    _add_hold(verbs)
    _add_janitor(verbs)
    _add_webhooks(verbs)
    _add_audit(verbs)
    _add_grants(verbs)


def _add_list(verbs: Any) -> None:
    _add_filters(_add(verbs, "list", "list migrations, newest first"))


def _add_show(verbs: Any) -> None:
    parser = _add(verbs, "show", "show one migration with its error, SQL and events")
    parser.add_argument("migration", metavar="ID", help=MIGRATION)


def _add_preflight(verbs: Any) -> None:
    parser = _add(verbs, "preflight", "look what stands in the way of a migration; 1 if an error does")
    parser.add_argument("migration", metavar="ID", help=MIGRATION)
    parser.add_argument("--direction", choices=Direction.values, help="default: the one that it has")


def _add_request(verbs: Any, verb: str, text: str) -> None:
    parser = _add(verbs, verb, text)
    if verb not in {"run", "cancel"}:
        add_request(parser, verb)
        return
    add_request(parser, verb, "*")
    group = parser.add_argument_group("many at once", "without ID: at most 500 migrations, and an answer for each")
    add_many(group)
    _add_filters(group)


def _add_tune(verbs: Any) -> None:
    parser = _add(verbs, "tune", "set values that win over the options of the file, also of what is in progress")
    parser.add_argument("migrations", nargs="+", metavar="ID", help=MIGRATION)
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
    add_gate(parser)


def _add_hold(verbs: Any) -> None:
    parser = _add(verbs, "hold", "keep every migration from going on; without --reason, show what is held")
    parser.add_argument("--reason", metavar="TEXT", help="for those who wonder why nothing moves")
    parser.add_argument("--until", type=moment, metavar="TIME", help="it ends by itself then, ISO 8601 with an offset")
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


def _add_audit(verbs: Any) -> None:
    parser = _add(
        verbs, "audit", "show who asked for what, oldest first", as_json="one JSON object a line, for archives"
    )
    parser.add_argument("--since", type=moment, metavar="TIME", help="only from then on, ISO 8601 with an offset")
    parser.add_argument("--until", type=moment, metavar="TIME", help="only before it")
    parser.add_argument("--user", metavar="NAME", help="only what this one asked for")
    parser.add_argument("--prune", action="store_true", help="remove what is old, of everybody and everything")
    parser.add_argument("--older-than", type=_days, metavar="DAYS", help="with --prune: how old, such as 365d")


def _add_webhooks(verbs: Any) -> None:
    parser = verbs.add_parser("webhooks", help="have events sent to addresses, and look what became of them")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add(actions, "list", "list webhooks, and whether they arrive", database=False)
    parser = _add(actions, "add", "have events sent to an address; prints the signing secret", database=False)
    parser.add_argument("name", metavar="NAME", help="a name for it, of your choice")
    parser.add_argument("url", metavar="URL", help="https://..., which the events are sent to by POST")
    parser.add_argument(
        "--event",
        action="append",
        default=[],
        dest="events",
        metavar="EVENT",
        help="only these: a status that is reached, such as ERROR, or a kind of event, such as run; may be repeated. "
        f"Without: {', '.join(NOTABLE)}",
    )
    parser.add_argument(
        "--database", action="append", default=[], metavar="ALIAS", help="only of this target; may be repeated"
    )
    for action, text in _WEBHOOK_ACTIONS.items():
        _add(actions, action, text, database=False).add_argument("name", metavar="NAME", help="of the webhook")
    parser = _add(actions, "deliveries", "list what was sent or is to be sent, newest first", database=False)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only of this webhook")
    parser.add_argument("--failed", action="store_true", help="only those that were given up")
    parser.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many; 50")
    parser = _add(actions, "resend", "send deliveries again, with the same ids", database=False)
    parser.add_argument("deliveries", nargs="+", type=int, metavar="ID", help="id of a delivery")
    _add(actions, "send", "send what is due, from here: for installations without workers", database=False)


_WEBHOOK_ACTIONS = {
    "secret": "print the signing secret",
    "test": "send a test from here, and say what was answered",
    "disable": "send nothing more; what is yet to be sent is given up",
    "enable": "send again from now on",
    "remove": "remove a webhook with the log of its deliveries",
}


def _add(
    verbs: Any, verb: str, text: str, *, database: bool = True, as_json: str = "one JSON document, for scripts"
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        verb,
        help=text,
        description=text.capitalize() + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if database:
        parser.add_argument("--database", metavar="ALIAS", help="only migrations of this target")
    parser.add_argument("--json", action="store_true", dest="as_json", help=as_json)
    return parser


def _add_filters(parser: argparse._ActionsContainer) -> None:
    statuses = ", ".join(Status.values)
    parser.add_argument(
        "--status", action="append", type=_status, metavar="STATUS", help=f"only these; may be repeated: {statuses}"
    )
    add_names(parser)
    parser.add_argument("--kind", choices=Kind.values, help="only this kind of work")


def _status(text: str) -> str:
    found = status(text)
    if found not in Status.values:
        raise argparse.ArgumentTypeError(f"{text!r} is no status: say one of {', '.join(Status.values)}")
    return found


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _days(text: str) -> timedelta:
    days = text.removesuffix("d")
    if not (days.isdecimal() and text != days and len(days) < 6):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days: say it like 365d")
    return timedelta(days=int(days))


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), json.loads(value)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=JSON: say it like batch_size=500") from exc
