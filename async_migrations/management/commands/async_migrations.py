"""`manage.py async_migrations`: look after migrations from the command line of a host that reaches the database."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, ProgrammingError, connections

from async_migrations import lifecycle
from async_migrations.asking import ask, refused, tell, tell_tuned
from async_migrations.client.watching import Bars, Exit, Lines, Watch, reasons
from async_migrations.conf import conf
from async_migrations.contract import as_dict, detail_as_dict
from async_migrations.errors import NotAllTried, PreflightFailed, TransitionRefused
from async_migrations.execution import preflight
from async_migrations.execution.findings import ERROR
from async_migrations.lifecycle import Answer, Wanted
from async_migrations.limits import OutOfLimits
from async_migrations.management import auditing, grants, holding, leftovers, many, webhooks
from async_migrations.management.arguments import EPILOG, add_verbs
from async_migrations.management.display import Display
from async_migrations.management.grants import Roles
from async_migrations.management.naming import find
from async_migrations.management.origin import origin
from async_migrations.management.waiting import GATE_EXITS, wait, wait_at_gate
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from async_migrations.words import describe, printable

Options = dict[str, Any]


class Command(BaseCommand):
    help = (
        "List, show, check, run, pause, cancel, roll back, tune, hold and audit async migrations, wait for them, "
        "and clean up."
    )
    # A check that looks into the database would fail before the exit code for "unreachable" can be given.
    requires_system_checks = ()

    display: Display

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add_verbs(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Carry one verb out; ends by SystemExit with one of the exit codes unless all is well."""
        colour = True if options["force_color"] else False if options["no_color"] else None
        self.display = Display(options.get("stdout"), as_json=options["as_json"], colour=colour)
        verbs: dict[str, Callable[[Options], Exit]] = {
            "list": self._list,
            "show": self._show,
            "preflight": self._preflight,
            "wait": self._wait,
            "tune": self._tune,
            "gate": self._gate,
            "hold": lambda options: holding.hold(self.display, options),
            "lift": lambda options: holding.lift(self.display, options),
            "janitor": lambda options: leftovers.act(self.display, self.stderr, options),
            "webhooks": self._webhooks,
            "audit": self._audit,
            "grants": self._grants,
        }
        try:
            with _log_level(logging.WARNING if options["verbosity"] < 2 else logging.NOTSET):
                code = verbs.get(options["verb"], self._request)(options)
            self.display.console.file.flush()
        except (OperationalError, InterfaceError) as exc:
            raise CommandError(_unreachable(exc), returncode=Exit.UNREACHABLE) from exc
        except NotAllTried as exc:
            raise CommandError(str(exc), returncode=Exit.UNREACHABLE) from exc
        except ProgrammingError as exc:
            raise CommandError(_no_tables(exc), returncode=Exit.REFUSED) from exc
        except KeyboardInterrupt:
            self.stderr.write("Interrupted.")
            code = Exit.INTERRUPTED
        except BrokenPipeError:
            _quiet_stdout()
            code = Exit.FAILED
        if code:
            sys.exit(code)

    # --- the verbs -------------------------------------------------------------------------------------------------

    def _list(self, options: Options) -> Exit:
        self.display.rows(list(many.chosen(options)))
        return Exit.DONE

    def _show(self, options: Options) -> Exit:
        (row,) = find([options["migration"]], options["database"])
        events = list(row.events.using(conf.control_database))
        self.display.detail(row, events)
        return Exit.DONE

    def _preflight(self, options: Options) -> Exit:
        (row,) = find([options["migration"]], options["database"])
        findings = preflight.look(row, options["direction"])
        self.display.findings(findings)
        return Exit.FAILED if any(found.level == ERROR for found in findings) else Exit.DONE

    def _request(self, options: Options) -> Exit:
        """Run, pause, cancel and so on; all names are looked up before anything is asked for."""
        verb = options["verb"]
        if not options["migrations"]:
            return self._request_many(options)
        many.refuse_filters(options)
        rows = find(options["migrations"], options["database"])
        if verb == "rollback" and not options["no_input"] and not self._confirmed(rows):
            self.stderr.write("Nothing was rolled back.")
            return Exit.REFUSED
        terms = ("run_at", "priority", "max_attempts", "force")
        wishes = {name: options[name] for name in terms if name in options}
        looks = preflight.Looks()
        answers = self._ask_each(rows, verb, lambda pk: ask(verb, pk, origin(), **wishes, looks=looks), tell)
        watches = [Watch.after(verb, as_dict(answer.migration)) for answer in answers]
        code = Exit.DONE
        if options["wait"]:
            code = self._wait_for(watches, options["timeout"])
        elif any(watch.row["status"] == Status.ERROR for watch in watches):  # Carried out inline: there is no broker.
            code = Exit.FAILED
        if self.display.as_json:
            self.display.json([watch.row for watch in watches])
        return Exit.REFUSED if len(answers) < len(rows) else code

    def _request_many(self, options: Options) -> Exit:
        """Run or cancel all that have one of the ids, or match the filters, each by itself."""
        verb, dry_run = options["verb"], options["dry_run"]
        items = many.ask(verb, options)
        many.show(self.display, items, dry_run=dry_run)
        code = Exit.DONE
        if options["wait"] and not dry_run:
            granted = [item.migration for item in items if item.migration and not item.error]
            code = self._wait_for([Watch.after(verb, as_dict(row)) for row in granted], options["timeout"])
        return Exit.REFUSED if any(item.outcome in {"refused", "not_found"} for item in items) else code

    def _ask_each(
        self,
        rows: Sequence[AsyncMigrationStatus],
        verb: str,
        wish: Callable[[int], Answer],
        told: Callable[[Answer], str],
    ) -> list[Answer]:
        """Ask for each one by itself, and return what was granted; one refusal keeps nothing else from happening."""
        answers = []
        for row in rows:
            try:
                answer = wish(row.pk)
            except (TransitionRefused, PreflightFailed, OutOfLimits) as exc:
                refused(verb, origin(), exc, row)
                self.stderr.write(printable(f"Refused: {exc}"))
            except AsyncMigrationStatus.DoesNotExist as exc:
                refused(verb, origin(), exc, row)
                self.stderr.write(f"Refused: {row.name} on {row.database} is not there any more.")
            else:
                self.display.line(told(answer))
                answers.append(answer)
        return answers

    def _tune(self, options: Options) -> Exit:
        rows, changes = find(options["migrations"], options["database"]), dict(options["changes"])
        answers = self._ask_each(rows, "tune", lambda pk: lifecycle.tune(pk, origin(), changes), tell_tuned)
        if self.display.as_json:
            self.display.json([detail_as_dict(answer.migration) for answer in answers])
        return Exit.REFUSED if len(answers) < len(rows) else Exit.DONE

    def _wait(self, options: Options) -> Exit:
        watches = [Watch.after("wait", as_dict(row)) for row in find(options["migrations"], options["database"])]
        code = self._wait_for(watches, options["timeout"])
        if self.display.as_json:
            self.display.json([watch.row for watch in watches])
        return code

    def _gate(self, options: Options) -> Exit:
        wanted = Wanted(options["names"], options["prefix"], options["app"], options["database"])
        if not (wanted.names or wanted.prefixes or wanted.apps):
            raise CommandError("Say which migrations: NAME, --prefix or --app.", returncode=Exit.REFUSED)
        if not all(
            (*wanted.names, *wanted.prefixes, *wanted.apps)
        ):  # Of a variable that is not set; each begins with it.
            raise CommandError("A NAME, --prefix or --app is empty. Say which migrations.", returncode=Exit.REFUSED)
        try:
            verdict = wait_at_gate(wanted, options["wait"], self.display.line)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted; nothing was stopped, the migrations go on.")
            return Exit.INTERRUPTED
        if self.display.as_json:
            self.display.json(asdict(verdict))
        return GATE_EXITS[verdict.state]

    def _webhooks(self, options: Options) -> Exit:
        return webhooks.act(options, self.display)

    def _audit(self, options: Options) -> Exit:
        (auditing.prune if options["prune"] else auditing.export)(self.display, options)
        return Exit.DONE

    def _grants(self, options: Options) -> Exit:
        """Print the SQL for one database, the control database unless said otherwise; nothing is asked or changed."""
        alias = options["database"] or conf.control_database
        if alias not in connections:
            raise CommandError(f"There is no database {alias!r}: {', '.join(connections)}.", returncode=Exit.REFUSED)
        owner = options["owner"] or (options["migrate"] if alias != conf.control_database else None)
        self.stdout.write(grants.sql(alias, Roles(options["api"], options["worker"], options["migrate"], owner)))
        return Exit.DONE

    def _wait_for(self, watches: Sequence[Watch], timeout: float | None) -> Exit:
        for watch in watches:
            if watch.stands:
                self.stderr.write(watch.stands)
        display = self.display
        view = Bars(display.console) if display.rich else Lines(lambda row: display.line(describe(row)))
        try:
            code = wait(watches, timeout, view)
        except KeyboardInterrupt:
            going = [str(watch.row["id"]) for watch in watches if not watch.over]
            self.stderr.write(
                f"Interrupted; nothing was stopped, the migrations go on. Look again: "
                f"manage.py async_migrations wait {' '.join(going)}"
            )
            return Exit.INTERRUPTED
        except AsyncMigrationStatus.DoesNotExist as exc:
            raise CommandError(str(exc), returncode=Exit.REFUSED) from exc
        for reason in reasons(watches, timeout):
            self.stderr.write(printable(reason))
        return code

    def _confirmed(self, rows: Sequence[AsyncMigrationStatus]) -> bool:
        """Ask a person at a terminal; a script has said what it wants by calling."""
        if not (sys.stdin.isatty() and self.display.rich):
            return True
        for row in rows:
            self.display.sql(f"{row.name} on {row.database}, {row.status}", row.sql_backwards)
        try:
            return input("\nCarry out this backward SQL? [y/N] ").strip().lower() in {"y", "yes"}
        except EOFError:
            return False


@contextmanager
def _log_level(level: int) -> Iterator[None]:
    """Keep the log from saying a second time, between the lines for people, what the events record anyway."""
    logger = logging.getLogger("async_migrations")
    before = logger.level
    logger.setLevel(level or before)
    try:
        yield
    finally:
        logger.setLevel(before)


def _unreachable(exc: Exception) -> str:
    reason = " ".join(str(exc).split())
    return f"The control database {conf.control_database!r} cannot be reached: {reason}. Migrations under way go on."


def _no_tables(exc: Exception) -> str:
    reason = str(exc).strip().splitlines()[0]
    return f"The control database {conf.control_database!r} refused: {reason}. Has `manage.py migrate` been run there?"


def _quiet_stdout() -> None:
    """Keep the interpreter from complaining at its end about a reader, such as `head`, that has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
