"""The verbs of the client."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from ..words import Row, describe, findings, gate, printable, state
from . import many
from .arguments import TERMS, read
from .screen import EVENT_COLUMNS, Screen
from .service import PAGE_SIZE, Refused, Service, Unreachable, retry_after
from .waiting import Look, look_at, wait
from .watching import Bars, Exit, Lines, Watch, reasons, verdict

_GATE_EXITS = {"pass": Exit.DONE, "pending": Exit.STILL_GOING, "blocked": Exit.FAILED, "failed": Exit.FAILED}


class Output(Screen):
    """Writes to standard output; with `as_json` one document a line, each as soon as it is known."""

    def json(self, value: Any) -> None:
        """Write one JSON document; nothing where text is wanted."""
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False), file=self.console.file, flush=True)


def carry_out(arguments: Sequence[str] | None, going: list[Watch]) -> Exit:
    """Carry a command line out and say how it ended. going: is given what is waited for."""
    options = read(arguments)
    with closing(Service(options.url, options.token, options.retry_for)) as service:
        command = Command(options, service, going)
        try:
            code = command.verbs[options.verb]()
            sys.stdout.flush()
        except Refused as exc:
            command.refused(exc)
            return Exit.REFUSED
        except Unreachable as exc:
            _tell(str(exc))
            return Exit.UNREACHABLE
        except BrokenPipeError:
            # Keep the interpreter from complaining at its end about a reader, such as `head`, that has gone.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.FAILED
    return code


class Command:
    """One call of the client."""

    def __init__(self, options: argparse.Namespace, service: Service, going: list[Watch]) -> None:
        self._options, self._service, self._going = options, service, going
        self._output = Output(as_json=options.as_json)
        seconds = vars(options).get("timeout") if options.verb != "gate" else options.wait or None
        if seconds is not None:
            service.until = time.monotonic() + seconds
        self.verbs: dict[str, Callable[[], Exit]] = {
            "list": self._list,
            "show": self._show,
            "preflight": self._preflight,
            "events": self._events,
            "wait": self._wait,
            "gate": self._gate,
            **dict.fromkeys(("run", "pause", "resume", "cancel", "rollback"), self._request),
        }

    def refused(self, exc: Refused) -> None:
        """Say what the service refused; its problem is a line of the JSON, too."""
        if exc.problem is not None:
            self._output.json(exc.problem)
        _tell(f"Refused: {exc.lines[0]}", *exc.lines[1:])

    # --- looking ---------------------------------------------------------------------------------------------------

    def _list(self) -> Exit:
        asked = {name: getattr(self._options, name) for name in ("status", "search", "database")}
        found = self._service.pages(params={name: value for name, value in asked.items() if value})
        if self._output.as_json:
            for row in found:
                self._output.json(row)
        else:
            self._output.migrations(list(found))
        return Exit.DONE

    def _show(self) -> Exit:
        (row,) = self._detailed([self._options.migration])
        events = list(self._service.pages(f"/{row['id']}/events"))
        if self._output.as_json:
            self._output.json({**row, "events": events})
        else:
            self._output.migration(row, events)
        return Exit.DONE

    def _preflight(self) -> Exit:
        (row,) = self._detailed([self._options.migration])
        found = self._service.get(f"/{row['id']}/preflight").json()
        self._output.json(found)
        for line in findings(found["findings"]):
            self._output.line(line)
        return Exit.FAILED if found["level"] == "error" else Exit.DONE

    def _events(self) -> Exit:
        (row,) = self._detailed([self._options.migration])
        watch, look, told = Watch.after("wait", row), Look(), 0
        if not self._options.wait:
            self._tell_events(row, told)
            return Exit.DONE
        self._begin_to_wait([watch])
        while True:
            # Read before the events: what ends a migration and its event are committed together.
            over, up = watch.over, time.monotonic() >= self._service.until
            told = self._tell_events(row, told)
            if over or up:
                return self._end_of_waiting([watch])
            if (pause := look.due - time.monotonic()) > 0:
                time.sleep(min(pause, max(0.0, self._service.until - time.monotonic())))
            watch.row = look_at(self._service, watch.row, look, self._service.until)

    def _tell_events(self, row: Row, told: int) -> int:
        """Tell the events behind so many, and return how many there are now."""
        before = max(0, told - 1) // PAGE_SIZE  # full pages; a page behind the last one would be refused
        found = list(self._service.pages(f"/{row['id']}/events", first=before + 1))[told - before * PAGE_SIZE :]
        for event in found:
            self._output.json(event)
            cells = (printable(read(event)) for _, read in EVENT_COLUMNS)
            self._output.line("  ".join(filter(None, cells)))
        return told + len(found)

    # --- asking and waiting ----------------------------------------------------------------------------------------

    def _request(self) -> Exit:
        """Ask for each by itself, after all were found; what is refused keeps nothing from the others."""
        options, verb = self._options, self._options.verb
        if not options.migrations:
            return self._request_many()
        rows = self._detailed(options.migrations)
        if verb == "rollback" and not options.no_input and not self._confirmed(rows):
            _tell("Nothing was rolled back.")
            return Exit.REFUSED
        watches = [Watch.after(verb, answer) for row in rows if (answer := self._ask(verb, row)) is not None]
        code = Exit.DONE
        if options.wait:
            code = self._wait_for(watches)
        elif any(watch.row["status"] == "ERROR" for watch in watches):  # Carried out inline: there is no broker.
            code = Exit.FAILED
        return Exit.REFUSED if len(watches) < len(rows) else code

    def _request_many(self) -> Exit:
        """Ask for all that are meant in one request; what became of each is in its answer."""
        options, verb = self._options, self._options.verb
        said = self._service.post(f"/{verb}", many.body(options)).json()
        items = said["items"]
        self._output.json(said)
        if not options.as_json:
            self._output.table(many.COLUMNS, items, "No migrations.")
        _tell(*many.refusals(items))
        code = many.verdict(items)
        if not options.wait or options.dry_run:
            return code
        rows = [self._service.get(f"/{item['id']}").json() for item in many.granted(items)]
        waited = self._wait_for([Watch.after(verb, row) for row in rows])
        return code if code == Exit.REFUSED else waited

    def _ask(self, verb: str, row: Row) -> Row | None:
        """Ask for a verb and say what became of it; None where it was refused."""
        given = vars(self._options)
        terms = {name: given[name] for name in TERMS if given.get(name) is not None}
        if "run_at" in terms:
            terms["run_at"] = terms["run_at"].isoformat()
        try:
            answer = self._service.post(f"/{row['id']}/{verb}", terms)
        except Refused as exc:
            self.refused(exc)
            return None
        found: Row = answer.json()
        nothing = "nothing to do, " if answer.status_code == 200 else ""
        self._output.line(f"{found['name']} on {found['database']}: {nothing}{state(found)}.")
        if not self._options.wait:
            self._output.json(found)
        return found

    def _wait(self) -> Exit:
        return self._wait_for([Watch.after("wait", row) for row in self._detailed(self._options.migrations)])

    def _wait_for(self, watches: Sequence[Watch]) -> Exit:
        self._begin_to_wait(watches)
        output = self._output
        view = Bars(output.console) if output.rich else Lines(self._tell_row)
        wait(self._service, watches, view)
        return self._end_of_waiting(watches)

    def _tell_row(self, row: Row) -> None:
        self._output.json(row)
        self._output.line(describe(row))

    def _begin_to_wait(self, watches: Sequence[Watch]) -> None:
        self._going[:] = watches
        _tell(*(watch.stands for watch in watches if watch.stands))

    def _end_of_waiting(self, watches: Sequence[Watch]) -> Exit:
        _tell(*reasons(watches, self._options.timeout))
        return verdict(watches)

    def _gate(self) -> Exit:
        """Look at the gate until it is open, or a migration has failed, or the time is up."""
        options = self._options
        asked = {"name": options.names, "prefix": options.prefix, "app": options.app, "database": options.database}
        told: list[str] = []
        while True:
            answer = self._service.get("/gate", {name: value for name, value in asked.items() if value})
            said, now = answer.json(), time.monotonic()
            lines = gate(said)
            if lines != told:
                self._output.json(said)
            for line in lines:
                if line not in told:
                    self._output.line(line)
            told = lines
            if said["state"] in {"pass", "failed"} or not options.wait or now >= self._service.until:
                return _GATE_EXITS[said["state"]]
            time.sleep(min(retry_after(answer, 2.0), self._service.until - now))

    def _confirmed(self, rows: Sequence[Row]) -> bool:
        """Ask a person at a terminal; a script has said what it wants by calling."""
        if not (sys.stdin.isatty() and self._output.rich):
            return True
        for row in rows:
            self._output.sql(f"{row['name']} on {row['database']}, {row['status']}", row["sql_backwards"])
        try:
            return input("\nCarry out this backward SQL? [y/N] ").strip().lower() in {"y", "yes"}
        except EOFError:
            return False

    # --- which migrations are meant --------------------------------------------------------------------------------

    def _detailed(self, words: Sequence[str]) -> list[Row]:
        """Return the migrations that are meant, each once, in the order given, with their SQL.

        words: ids, full names, or the last parts of names. Raises Refused for one that is unknown or ambiguous.
        """
        found = {row["id"]: row for row in map(self._found, words)}
        return list(found.values())

    def _found(self, word: str) -> Row:
        database = self._options.database
        found = list(self._by_id(word) if word.isascii() and word.isdecimal() else self._by_name(word, database))
        if database:
            found = [row for row in found if row["database"] == database]
        if len(found) == 1:
            row: Row = self._service.get(f"/{found[0]['id']}").json()
            return row
        if not found:
            where = f" on database {database!r}" if database else ""
            raise Refused([f"There is no migration {word!r}{where}; `async-migrations list` shows what there is."])
        which = ", ".join(f"{row['id']} is {row['name']} on {row['database']}" for row in reversed(found))
        raise Refused([f"{word!r} is ambiguous: {which}. Say the id, or --database."])

    def _by_id(self, word: str) -> Iterator[Row]:
        try:
            yield self._service.get(f"/{word}").json()
        except Refused as exc:
            if exc.problem is None or exc.problem["code"] != "not_found":
                raise

    def _by_name(self, word: str, database: str | None) -> list[Row]:
        where = {"database": database} if database else {}
        exact = list(self._service.pages(params={"name": word, **where}))
        return exact or [
            row
            for row in self._service.pages(params={"search": f".{word}", **where})
            if row["name"].endswith(f".{word}")
        ]


def _tell(*lines: str) -> None:
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)  # noqa: T201
