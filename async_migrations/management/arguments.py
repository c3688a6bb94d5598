"""What the command understands: verbs, arguments, and how each is read."""

from __future__ import annotations

import argparse
import json
from typing import Any

from async_migrations import limits
from async_migrations.client.arguments import MIGRATION, REQUESTS, add_gate, add_request, add_wait, moment, status
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
    for verb, text in REQUESTS.items():
        add_request(_add(verbs, verb, text), verb)
    add_wait(_add(verbs, "wait", "wait until migrations end: FINISHED, or ROLLED BACK for a rollback"))
    _add_tune(verbs)
    _add_gate(verbs)
    _add_hold(verbs)
    _add_janitor(verbs)


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
    parser.add_argument("migration", metavar="ID", help=MIGRATION)


def _add_preflight(verbs: Any) -> None:
    parser = _add(verbs, "preflight", "look what stands in the way of a migration; 1 if an error does")
    parser.add_argument("migration", metavar="ID", help=MIGRATION)


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


def _status(text: str) -> str:
    found = status(text)
    if found not in Status.values:
        raise argparse.ArgumentTypeError(f"{text!r} is no status: say one of {', '.join(Status.values)}")
    return found


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), json.loads(value)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=JSON: say it like batch_size=500") from exc
