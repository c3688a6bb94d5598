"""What the client understands: verbs, arguments, and where it finds the service and its token.

What the management command understands as well is read by the same functions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import limits

URL, TOKEN = "ASYNC_MIGRATIONS_URL", "ASYNC_MIGRATIONS_TOKEN"
LIST = "/async-migrations"
RETRY_SECONDS = 120.0

EPILOG = f"""where and who:
  {URL}    address of the service, unless --url says it
  {TOKEN}  token of `manage.py create_api_token`, unless --token or --token-file does

exit codes:
  0    done; with wait or --wait: all of them ended as wanted; gate: all are FINISHED
  1    one failed or was cancelled; gate: one failed, waits for somebody, or is not there; preflight: it would fail
  2    wrong usage, no such migration, or refused: not allowed to you, or not in its status
  3    the service cannot be reached, or gave no answer in time
  75   still going on when the time was up; gate: what is left is in line or in progress
  130  interrupted (143: terminated); the migrations go on
"""

#: What may be asked of many migrations in one request; which are meant is said by one of these, or by --database.
MANY = ("run", "cancel")
FILTERS = ("status", "name", "search", "kind", "app")

#: What may be said with `run` besides.
TERMS = ("run_at", "priority", "max_attempts", "force")

MIGRATION = "id, name, or last part of the name"
REQUESTS = {
    "run": "put migrations in line for a worker, forwards",
    "pause": "stop migrations where they can go on later",
    "resume": "go on with paused migrations",
    "cancel": "stop migrations for good; the worker cleans up first",
    "rollback": "carry out the backward SQL",
}


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, the environment for what it leaves open; ends by SystemExit(2) where it makes no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.url = _address(options.url or os.environ.get(URL, ""))
        options.token = _token(options.token, options.token_file)
    except ValueError as exc:
        parser.error(str(exc))
    if vars(options).get("timeout") is not None and not vars(options).get("wait", True):
        parser.error("--timeout says for how long to wait: add --wait.")
    if options.verb in MANY and (problem := _wrong_with_choice(options)):
        parser.error(problem)
    if options.verb == "gate" and not (options.names or options.prefix or options.app):
        parser.error("say which migrations: --name, --prefix or --app.")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _described(
        argparse.ArgumentParser(
            prog="async-migrations", description="Look after async migrations over HTTP, from anywhere."
        )
    )
    _add_connection(parser, None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = _add(verbs, "list", "list migrations, newest first")
    listing.add_argument("--status", action="append", type=status, metavar="STATUS", help="only these; may be repeated")
    listing.add_argument("--search", metavar="TEXT", help="only names that contain it")
    for verb, text in (
        ("show", "show one migration with its error, SQL and events"),
        ("preflight", "look what stands in the way of a migration; 1 if an error does"),
        ("events", "show the history of a migration"),
    ):
        _add(verbs, verb, text).add_argument("migration", metavar="ID", help=MIGRATION)
    follow = verbs.choices["events"]
    follow.add_argument("--follow", action="store_true", dest="wait", help="go on until it ends; then as with wait")
    follow.add_argument("--timeout", type=seconds, metavar="SECONDS", help="follow for at most so long")
    for verb, text in REQUESTS.items():
        parser_of_verb = _add(verbs, verb, text)
        add_request(parser_of_verb, verb, "*" if verb in MANY else "+")
        if verb in MANY:
            _add_many(parser_of_verb)
    add_wait(_add(verbs, "wait", "wait until migrations end: FINISHED, or ROLLED BACK for a rollback"))
    gate = _add(verbs, "gate", "say whether migrations are FINISHED, by the exit code, and if not, why")
    gate.add_argument("--name", action="append", default=[], dest="names", help="a whole name; may be repeated")
    add_gate(gate)
    return parser


# --- read by the management command too ------------------------------------------------------------------------------


def add_request(parser: argparse.ArgumentParser, verb: str, migrations: str = "+") -> None:
    """Give the parser of a verb that asks for something its arguments. migrations: how many it takes, as `nargs`."""
    parser.add_argument("migrations", nargs=migrations, metavar="ID", help=MIGRATION)
    until = "are paused" if verb == "pause" else "end"
    parser.add_argument("--wait", action="store_true", help=f"wait until they {until}")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="wait for at most so long")
    if verb == "run":
        parser.add_argument("--run-at", type=moment, metavar="TIME", help="begin not before, ISO 8601 with an offset")
        priority, attempts = limits.TERMS["priority"], limits.TERMS["max_attempts"]
        parser.add_argument("--priority", type=int, metavar="N", help=f"the highest goes first, {priority}")
        parser.add_argument("--max-attempts", type=int, metavar="N", help=f"before it is final, {attempts}")
        parser.add_argument("--force", action="store_true", help="whatever the preflight says stands in the way")
    if verb == "rollback":
        parser.add_argument("--no-input", action="store_true", help="do not ask at a terminal")


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `wait` its arguments."""
    parser.add_argument("migrations", nargs="+", metavar="ID", help=MIGRATION)
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="wait for at most so long")


def add_many(parser: argparse._ActionsContainer) -> None:
    """Give `run` or `cancel` of many what is no filter."""
    parser.add_argument("--ids", nargs="+", type=int, metavar="NUMBER", help="those with these ids")
    parser.add_argument("--dry-run", action="store_true", help="only say what would become of each")


def add_names(parser: argparse._ActionsContainer) -> None:
    """Give a parser the filters by name."""
    parser.add_argument("--app", metavar="LABEL", help="only those of this Django app")
    parser.add_argument("--name", metavar="NAME", help="only this whole name, on every target")
    parser.add_argument("--search", metavar="TEXT", help="only names that contain it")


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `gate` its arguments but the names."""
    parser.add_argument("--prefix", action="append", default=[], help="all that begin so; may be repeated")
    parser.add_argument("--app", action="append", default=[], metavar="LABEL", help="all of an app; may be repeated")
    parser.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS", help="wait for at most so long")


def status(text: str) -> str:
    """Read a status, also as in-progress."""
    return text.upper().replace("_", " ").replace("-", " ")


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def moment(text: str) -> datetime:
    """Read a time with its offset."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time with an offset: say it like 2026-11-22T03:00:00+01:00")
    return value


# --- the client's own ------------------------------------------------------------------------------------------------


def _add(verbs: Any, verb: str, text: str) -> argparse.ArgumentParser:
    parser = _described(verbs.add_parser(verb, help=text, description=text.capitalize() + "."))
    _add_connection(parser, argparse.SUPPRESS)
    parser.add_argument("--database", metavar="ALIAS", help="only migrations of this target")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document a line, for scripts")
    return parser


def _add_many(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many at once", "without ID: one request for at most 500 migrations, and an answer for each of them"
    )
    group.add_argument("--all", action="store_true", help="every migration there is; with --database, there")
    add_many(group)
    group.add_argument("--status", action="append", type=status, metavar="STATUS", help="only these; may be repeated")
    add_names(group)
    group.add_argument("--kind", metavar="KIND", help="only this kind of work: sql or backfill")


def _wrong_with_choice(options: argparse.Namespace) -> str:
    """Say why it is not clear which migrations are meant; empty when it is."""
    given = vars(options)
    filters = [name for name in FILTERS if given[name]]
    ways = [name for name in ("migrations", "ids", "all") if given[name]] + (["filters"] if filters else [])
    if not (ways or options.database):
        return "say which migrations: ID, --ids, a filter such as --status or --app, or --all."
    if len(ways) > 1:
        return "say which migrations in one way: ID, --ids, --all, or filters such as --status and --app."
    if options.ids and options.database:
        return "--ids are of one migration each, on whatever target: leave --database out."
    if options.migrations:
        return "--dry-run is for many at once; preflight says what stands in the way of one." if options.dry_run else ""
    if terms := [name for name in TERMS if given.get(name) not in (None, False)]:
        return f"--{terms[0].replace('_', '-')} is for migrations that are named by ID, not for many at once."
    return ""


def _described(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    return parser


def _add_connection(parser: argparse.ArgumentParser, default: Any) -> None:
    """Give a parser what may stand before the verb or behind it."""
    parser.add_argument("--url", default=default, help="address of the service, such as https://migrations.example.com")
    parser.add_argument("--token", default=default, help="others on this machine may see it there: rather --token-file")
    parser.add_argument("--token-file", type=Path, default=default, metavar="FILE", help="file that holds the token")
    parser.add_argument(
        "--retry-for",
        type=seconds,
        default=RETRY_SECONDS if default is None else default,
        metavar="SECONDS",
        help=f"how long to try again where the service does not answer, {RETRY_SECONDS:g} if not said",
    )


def _address(text: str) -> str:
    """Return the address of the list: below /api, unless the text is the whole of it."""
    if not text:
        raise ValueError(f"say where the service is: --url or {URL}.")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
        own = parts.username or parts.password
        parts.port  # noqa: B018 - it raises ValueError for what is no port
    except ValueError:
        usable, own = False, None
    if not usable or own:
        raise ValueError(
            "the address of the service is no URL such as https://migrations.example.com, without user and query."
        )
    address = text.rstrip("/")
    return address if address.endswith(LIST) else f"{address}/api{LIST}"


def _token(given: str | None, file: Path | None) -> str:
    """Return the token, empty where there is none; it is in no message."""
    if given is not None and file is not None:
        raise ValueError("say --token or --token-file, not both.")
    if file is not None:
        try:
            given = file.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
            raise ValueError(f"the token file {file} cannot be read: {reason}.") from exc
    token = (os.environ.get(TOKEN, "") if given is None else given).strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("what was given as the token is none: it has spaces or characters that no token has.")
    return token
