"""`make serve`: the whole control plane on this machine, from nothing to a token, until Ctrl-C.

Real servers are used where DATABASE_URL and BROKER_URL name them, embedded ones otherwise. PORT (8000) and DATA_DIR
(.data) say where it listens and where it keeps its files. An embedded database with nothing in it gets what the demo
has on show, and at a later start what shows progress there begins anew, unless DEMO says no.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from django.core.exceptions import ImproperlyConfigured

from api import counters, variables
from api.children import Ended, run_together
from api.embedded import EmbeddedError, data_directory, start_embedded
from api.processes import (
    ROOT,
    NotReady,
    child_environment,
    kill_group,
    manage_command,
    run_to_end,
    wait_until_ready,
    web_command,
    worker_command,
)
from examples.demo import showroom
from examples.demo.service import Door

MARK = "SERVE_DATA_DIR"  # in the environment of every child: how those of a killed run are found again
ASKER = "serve"  # name of the token that is printed
WORKER_GRACE = 3  # seconds that a running statement is given when the worker stops
READY_TIMEOUT = 60  # seconds


class CannotServe(Exception):
    """The service cannot be started, or did not stay up; the message is one line for a person."""


@dataclass(frozen=True)
class Plan:
    """What the environment asks for."""

    port: int
    data_dir: Path
    database_url: str | None
    broker_url: str | None
    demo: bool

    @property
    def url(self) -> str:
        """Where the service will answer."""
        return f"http://127.0.0.1:{self.port}"


def main() -> int:
    """Serve until told to stop; return the exit code: 0 when told to stop, 1 with one line on stderr otherwise."""
    # From here until honcho takes over, SIGTERM unwinds the stack as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(_plan(os.environ))
    except (CannotServe, EmbeddedError, Ended, NotReady, ImproperlyConfigured) as exc:
        print(f"serve: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    print("Stopped.")
    return 0


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def serve(plan: Plan) -> None:
    """Start everything that the plan asks for, stay until told to stop, and leave nothing behind."""
    with ExitStack() as stack:
        stack.enter_context(data_directory(plan.data_dir))
        _stop_leftovers(plan.data_dir)
        _check_port(plan.port)
        _check_broker(plan.broker_url)
        embedded = stack.enter_context(
            start_embedded(plan.data_dir, postgres=plan.database_url is None, redis=plan.broker_url is None)
        )
        kept = _kept_secrets(plan.data_dir)
        database_url = plan.database_url or embedded.database_url or ""
        broker_url = plan.broker_url or embedded.broker_url
        env = child_environment(database_url, broker_url, **_service_variables(plan, kept))
        _migrate(env, showroom.SETTINGS if plan.demo else "tracker.settings")
        is_new = plan.demo and showroom.is_empty(database_url)
        report = {
            "url": plan.url,
            "token": _command(manage_command("create_api_token", ASKER, "--role", "operator"), env).strip(),
            "database_url": database_url,
            "broker_url": broker_url,
        }
        if plan.database_url is None:
            report |= {"admin_user": "admin", "admin_password": _admin(kept["admin_password"], env)}
        # Not for the commands above, which would leave files there; nobody else is at work in our directory.
        env[counters.VARIABLE] = str(counters.empty_directory(plan.data_dir / "metrics"))
        report_file = plan.data_dir / "serve.json"
        stack.callback(report_file.unlink, missing_ok=True)
        _run_children(plan, env, report, report_file, is_new=is_new)


# --- before anything is started ---


def _plan(env: variables.Environment) -> Plan:
    """Read the environment; ImproperlyConfigured where a variable makes no sense."""
    text = env.get("PORT") or "8000"
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ImproperlyConfigured(f"PORT is {text!r}: say a number from 1 to 65535.")
    if env.get("DATABASE_URL"):
        variables.databases(env)
    return Plan(
        port=int(text),
        data_dir=Path(env.get("DATA_DIR") or ROOT / ".data").expanduser().absolute(),
        database_url=env.get("DATABASE_URL") or None,
        broker_url=env.get("BROKER_URL") or None,
        demo=variables.switch(env, "DEMO", default=True) and not env.get("DATABASE_URL"),
    )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        # As gunicorn will: a connection of an earlier run that is still winding down is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise CannotServe(
                f"port {port} on 127.0.0.1 cannot be used: {exc.strerror}. Name another one in PORT."
            ) from exc


def _check_broker(url: str | None) -> None:
    """Ask the broker for a sign of life: a worker would try for ever, and say so only in its log."""
    options = variables.broker({"BROKER_URL": url or ""})
    if url is None or options is None:
        return
    try:
        _greet(url, options["OPTIONS"])
    except Exception as exc:
        # Whatever the driver raises: some errors have no text, and none says where.
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise CannotServe(
            f"the broker at {variables.masked(url)} does not answer: {reason}. Look whether it runs and whether "
            "BROKER_URL names the right host and password."
        ) from exc


def _greet(url: str, options: dict[str, Any]) -> None:
    if "client" in options:
        options["client"].ping()
        return
    import pika

    pika.BlockingConnection(pika.URLParameters(options["url"])).close()


def _stop_leftovers(data_dir: Path) -> None:
    """Kill web and worker of a run in this directory that was killed itself; since we hold the lock, it is gone."""
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == str(data_dir)
        except psutil.Error:
            continue
        if ours and process.pid != os.getpid():
            kill_group(os.getpgid(process.pid)) if _leads(process.pid) else process.kill()
            process.wait(10)


def _leads(pid: int) -> bool:
    return os.getpgid(pid) == pid


# --- what the service keeps and needs ---


def _kept_secrets(data_dir: Path) -> dict[str, str]:
    """Return what was made up at the first start: the key that sessions are signed with, and the admin's password."""
    file = data_dir / "secrets.json"
    try:
        kept: dict[str, str] = json.loads(file.read_text())
    except FileNotFoundError:
        kept = {"secret_key": secrets.token_urlsafe(50), "admin_password": secrets.token_urlsafe(12)}
        _write_private(file, kept)
    except ValueError as exc:
        raise CannotServe(f"{file} cannot be read: it is not JSON. Remove it, and new secrets are made up.") from exc
    return kept


def _write_private(file: Path, content: dict[str, Any]) -> None:
    """Write JSON that only the owner can read, all of it or nothing."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(json.dumps(content, indent=2) + "\n")
    fresh.replace(file)


def _service_variables(plan: Plan, kept: dict[str, str]) -> dict[str, str]:
    """Return what a person may set otherwise, and the mark, which nobody may."""
    defaults = {
        "SECRET_KEY": kept["secret_key"],
        "ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS": str(WORKER_GRACE),
        "LOG_FORMAT": "console",
        **(showroom.VARIABLES if plan.demo else {}),
    }
    return {name: os.environ.get(name) or value for name, value in defaults.items()} | {MARK: str(plan.data_dir)}


def _migrate(env: dict[str, str], project: str) -> None:
    """Bring the service's own tables up to date, then record the migrations of the demo's project and run none.

    project: its settings module.
    """
    _command(manage_command("migrate", "--verbosity", "0"), env)
    host = env | {"DJANGO_SETTINGS_MODULE": project, "ALLOW_SCHEDULED_MIGRATIONS": "true"}
    _command([sys.executable, str(ROOT / "examples" / "manage.py"), "migrate", "--verbosity", "0"], host)


def _admin(password: str, env: dict[str, str]) -> str:
    """Make sure that the embedded database has its superuser, and return the password that it was made with."""
    command = manage_command("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@localhost")
    done = run_to_end(command, env | {"DJANGO_SUPERUSER_PASSWORD": password})
    if done.returncode and "already taken" not in done.stderr:
        raise CannotServe(f"the user admin cannot be made: {_last_line(done.stderr)}")
    return password


def _command(command: list[str], env: dict[str, str]) -> str:
    """Run a command of a project and return what it printed; CannotServe with its last line where it fails."""
    done = run_to_end(command, env)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        if len(said) > 1:  # a traceback is for whoever has to find a mistake of ours: all of it
            print(done.stderr, file=sys.stderr)
        raise CannotServe(f"`{shlex.join(Path(part).name for part in command)}` failed: {said[-1]}")
    return str(done.stdout)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _run_children(plan: Plan, env: dict[str, str], report: dict[str, Any], report_file: Path, *, is_new: bool) -> None:
    """Run web and worker, and what the demo shows; Ended or NotReady when one of the two does not do its part."""

    def announce(alive: Callable[[], bool]) -> None:
        wait_until_ready(plan.url, READY_TIMEOUT, alive=alive)
        _write_private(report_file, report)
        print(_summary(plan, report, report_file, is_new=is_new), flush=True)
        if plan.demo:
            showroom.show(Door(report["url"], report["token"], {}), report["database_url"], ASKER, alive)

    run_together({"web": web_command(plan.port), "worker": worker_command()}, env, beside=announce)


def _summary(plan: Plan, report: dict[str, Any], report_file: Path, *, is_new: bool) -> str:
    login = f", and log in as admin with the password {report['admin_password']}" if "admin_password" in report else ""
    lines = {
        "open": f"{report['url']}/{login}",
        "API": f"{report['url']}/api/async-migrations",
        "docs": f"{report['url']}/api/docs",
        "admin": f"{report['url']}/admin/",
        "token": report["token"],
        "for scripts": str(report_file),
    }
    if plan.demo:
        comes = "rows and migrations in every status come in now" if is_new else "what has ended of it begins anew now"
        lines["demo"] = f"{comes}, which takes some ten seconds: watch it on the page. DEMO=no leaves that out"
    if plan.database_url is None:
        lines["data"] = f"{plan.data_dir} keeps all of it; remove it to start afresh"
    return "\n".join(
        ["", *(f"{name:>12}  {value}" for name, value in lines.items()), "", "Ctrl-C stops all of it.", ""]
    )


if __name__ == "__main__":
    sys.exit(main())
