"""`manage.py async_migrations`: look after migrations from the command line of a host that reaches the database."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, ProgrammingError, connections
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.asking import ask, drop, lift, refused, tell, tell_tuned
from async_migrations.client.watching import Bars, Exit, Lines, Watch, reasons
from async_migrations.conf import conf
from async_migrations.contract import as_dict, detail_as_dict
from async_migrations.errors import ExecutionError, NotALeftover, PreflightFailed, TransitionRefused
from async_migrations.execution import janitor, preflight
from async_migrations.execution.findings import ERROR
from async_migrations.execution.janitor import Leftover
from async_migrations.lifecycle import Answer, Wanted, audit
from async_migrations.limits import OutOfLimits
from async_migrations.management import auditing, grants, many, webhooks
from async_migrations.management.arguments import EPILOG, add_verbs
from async_migrations.management.display import Display
from async_migrations.management.grants import Roles
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
            "hold": self._hold,
            "lift": self._lift,
            "janitor": self._janitor,
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
        answers = self._ask_each(rows, verb, lambda pk: ask(verb, pk, origin(), **wishes), tell)
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
        """Run or cancel all that match the filters, each by itself."""
        verb, dry_run = options["verb"], options["dry_run"]
        items = many.ask(verb, options)
        many.show(self.display, items, dry_run=dry_run)
        code = Exit.DONE
        if options["wait"] and not dry_run:
            granted = [item.migration for item in items if item.migration and not item.error]
            code = self._wait_for([Watch.after(verb, as_dict(row)) for row in granted], options["timeout"])
        return Exit.REFUSED if any(item.error for item in items) else code

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
        try:
            verdict = wait_at_gate(wanted, options["wait"], self.display.line)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted; nothing was stopped, the migrations go on.")
            return Exit.INTERRUPTED
        if self.display.as_json:
            self.display.json(asdict(verdict))
        return GATE_EXITS[verdict.state]

    def _hold(self, options: Options) -> Exit:
        """Set a hold; without a reason show those that are in force."""
        if options["reason"] is None:
            if options["until"]:
                raise CommandError("Say --reason too: others wonder why nothing moves.", returncode=Exit.REFUSED)
            found = list(lifecycle.holds_in_force(options["database"]))
            self.display.holds(found)
            return Exit.DONE
        reason, until, alias = options["reason"].strip(), options["until"], options["database"]
        if problem := _wrong_with_hold(reason, until, alias):
            raise CommandError(problem, returncode=Exit.REFUSED)
        self.display.holds([lifecycle.set_hold(alias or "", reason, origin(), expires_at=until)])
        return Exit.DONE

    def _lift(self, options: Options) -> Exit:
        alias = options["database"]
        lifted = lift(alias or "", origin())
        where = f"on {alias}" if alias else "on all databases"
        self.display.line(f"Lifted: {lifted} ({where})." if lifted else f"Nothing to do: there is no hold {where}.")
        left = list(lifecycle.holds_in_force(alias))
        if left or self.display.as_json:
            self.display.holds(left)
        return Exit.DONE

    def _janitor(self, options: Options) -> Exit:
        """List what builds have left behind; with --drop, drop all of it but what is somebody's by now."""
        aliases = [options["database"]] if options["database"] else janitor.databases()
        try:
            found = [leftover for alias in aliases for leftover in janitor.leftovers(alias)]
        except ExecutionError as exc:
            code = Exit.UNREACHABLE if exc.retryable else Exit.REFUSED
            raise CommandError(f"{exc.message} {exc.hint or ''}".strip(), returncode=code) from exc
        if not options["drop"]:
            self.display.leftovers(found)
            return Exit.DONE
        codes = [self._drop(leftover) for leftover in found]
        self.display.leftovers([leftover for leftover, code in zip(found, codes, strict=True) if code == Exit.DONE])
        return max(codes, default=Exit.DONE)

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

    def _drop(self, leftover: Leftover) -> Exit:
        """Drop one; what becomes of it keeps none of the others."""
        name = f"{leftover.schema}.{leftover.name} on {leftover.database}"
        try:
            drop(leftover.database, leftover.schema, leftover.name, origin(), janitor.drop)
        except NotALeftover as exc:
            audit.refuse("drop_leftover", origin(), exc.code, str(exc), database=leftover.database)
            self.stderr.write(printable(f"Refused: {exc}"))
            return Exit.REFUSED
        except ExecutionError as exc:
            failed = audit.Outcome.FAILED
            audit.refuse("drop_leftover", origin(), exc.code, str(exc), database=leftover.database, outcome=failed)
            self.stderr.write(printable(f"Not dropped: {name}: {exc.message} {exc.hint or ''}".rstrip()))
            return Exit.FAILED
        self.display.line(f"Dropped: {name}.")
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


def _wrong_with_hold(reason: str, until: datetime | None, alias: str | None) -> str:
    """Say why a hold cannot be set; empty when it can."""
    if not 0 < len(reason) <= 1000:
        return "Give a --reason of 1 to 1000 characters."
    if until is not None and until <= timezone.now():
        return f"--until {until.isoformat()} is over: the hold would never be in force."
    known = lifecycle.databases()
    return f"There is no database {alias!r}. There are: {', '.join(known)}." if alias and alias not in known else ""


def find(words: Sequence[str], database: str | None) -> list[AsyncMigrationStatus]:
    """Return the migrations that are meant, each once, in the order given.

    words: ids, full names, or the last parts of names. Raises CommandError for one that is unknown or ambiguous.
    """
    rows = {row.pk: row for row in (_find(word, database) for word in words)}
    return list(rows.values())


def _find(word: str, database: str | None) -> AsyncMigrationStatus:
    known = lifecycle.rows().filter(database=database) if database else lifecycle.rows()
    if word.isdecimal():
        found = list(known.filter(pk=int(word)))
    else:
        found = list(known.filter(name=word)) or list(known.filter(name__endswith=f".{word}"))
    if len(found) == 1:
        return found[0]
    if not found:
        where = f" on database {database!r}" if database else ""
        raise CommandError(
            f"There is no migration {word!r}{where}; `manage.py async_migrations list` shows what there is.",
            returncode=Exit.REFUSED,
        )
    which = ", ".join(f"{row.pk} is {row.name} on {row.database}" for row in reversed(found))
    raise CommandError(f"{word!r} is ambiguous: {which}. Say the id, or --database.", returncode=Exit.REFUSED)


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
