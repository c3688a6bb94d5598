"""`python -m api web|worker|ready|manage ...`: the service's commands, as an image runs them."""

from __future__ import annotations

import argparse
import os
import sys

from django.core.exceptions import ImproperlyConfigured

from api import counters
from api.processes import SERVICE_VARIABLES, WORKER_THREADS, manage_command, readiness, web_command, worker_command


def main(arguments: list[str]) -> int:
    """Become the command that is asked for; return an exit code where there is nothing to become."""
    chosen, rest = _parser().parse_known_args(arguments)
    if chosen.command == "ready":
        state = readiness(f"http://127.0.0.1:{chosen.port}")
        print(state)  # noqa: T201 - what the container's runtime shows beside "unhealthy"
        return int(state != "ready")
    if rest and chosen.command != "manage":
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    os.environ.update({name: value for name, value in SERVICE_VARIABLES.items() if name not in os.environ})
    try:
        import api.settings  # noqa: F401 - settings that make no sense are one line, not gunicorn's traceback
    except ImproperlyConfigured as exc:
        print(f"api: the settings cannot be used. {exc}", file=sys.stderr)  # noqa: T201
        return 1
    if chosen.command in ("web", "worker"):
        try:
            os.environ[counters.VARIABLE] = str(counters.shared_directory(os.environ.get(counters.VARIABLE)))
        except OSError as exc:
            print(f"api: there is no place for the metrics; name one in {counters.VARIABLE}. {exc}", file=sys.stderr)  # noqa: T201
            return 1
    command = _command(chosen, rest)
    # Replaces this process, so that a container's signals reach the command itself.
    return os.execv(command[0], command)  # noqa: S606


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api", description="Commands of the control-plane service.")
    commands = parser.add_subparsers(dest="command", required=True)
    web = commands.add_parser("web", help="answer HTTP")
    web.add_argument("--host", default="127.0.0.1")
    web.add_argument("--port", type=int, default=8000)
    web.add_argument("--workers", type=int, default=2, help="processes")
    web.add_argument("--threads", type=int, default=8, help="threads per process")
    worker = commands.add_parser("worker", help="carry migrations out")
    worker.add_argument("--processes", type=int, default=1)
    worker.add_argument("--threads", type=int, default=WORKER_THREADS, help="threads per process")
    ready = commands.add_parser("ready", help="exit with 0 when the web command here is ready")
    ready.add_argument("--port", type=int, default=8000)
    commands.add_parser("manage", help="a command of manage.py, such as migrate", add_help=False)
    return parser


def _command(chosen: argparse.Namespace, rest: list[str]) -> list[str]:
    if chosen.command == "web":
        return web_command(chosen.port, host=chosen.host, workers=chosen.workers, threads=chosen.threads)
    if chosen.command == "worker":
        return worker_command(processes=chosen.processes, threads=chosen.threads)
    return manage_command(*rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
