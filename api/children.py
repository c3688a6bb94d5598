"""Several processes run together by honcho: their output in one stream, and when one ends, all end."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable

import honcho.manager
import psutil
from honcho.printer import Printer

from api.processes import ROOT, kill_group

KILL_AFTER = 15  # seconds after which a child that does not stop is killed
GLANCE = 0.3  # seconds between two looks whether a leader has died
SIGNALLED = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # how honcho says that it was asked to stop


class Ended(Exception):
    """A child ended by itself; the message says which."""


def run_together(
    commands: dict[str, list[str]], env: dict[str, str], *, beside: Callable[[Callable[[], bool]], None]
) -> None:
    """Run the commands, by name, until SIGINT or SIGTERM; return when nothing of them is left.

    beside: called in a thread once they are started, with a function that says whether they are to go on. What it
    raises stops everything and is raised here.

    Raises Ended when a child ends by itself; the others are stopped first.
    """
    honcho.manager.KILL_WAIT = KILL_AFTER
    children = Children(beside)
    for name, command in commands.items():
        children.add_process(name, f"exec {shlex.join(command)}", env=env, cwd=str(ROOT))
    try:
        children.loop()
    finally:
        children.over.set()
        children.kill_what_is_left()
    if children.trouble:
        raise children.trouble
    if children.returncode not in SIGNALLED:
        raise Ended(f"{children.stopped[0]}, see its last lines above; everything else was stopped")


class LeaderFirst:
    """How honcho stops a child: it asks the leader alone, and kills the whole group.

    Its own way is to tell the whole group. Dramatiq's main process passes the signal on, so its workers would hear it
    twice, which they take for "at once", and give nothing back.
    """

    def terminate(self, pid: int) -> None:
        """Ask the leader to stop."""
        os.kill(pid, signal.SIGTERM)

    def kill(self, pid: int) -> None:
        """Kill all of it."""
        kill_group(pid)


class Children(honcho.manager.Manager):  # type: ignore[misc]  # honcho has no types
    """honcho's manager, with threads beside the children, and a memory of who ended first."""

    def __init__(self, beside: Callable[[Callable[[], bool]], None]) -> None:
        super().__init__(Printer(sys.stdout))
        self._procmgr = LeaderFirst()
        self._beside = beside
        self.over = threading.Event()
        self.stopped: list[str] = []
        self.trouble: Exception | None = None

    def terminate(self) -> None:
        """Ask all to stop, a little later where one has not told its process id yet: honcho would stumble over it."""
        if self._all_started():
            super().terminate()
        else:
            threading.Timer(0.1, self.terminate).start()

    def kill_what_is_left(self) -> None:
        """Kill what a leader that is gone has left of its group."""
        for pid in self._leaders():
            kill_group(pid)

    def _start(self) -> None:
        super()._start()
        # After the children, which are forked: threads and a fork do not go together.
        for work in (self._run_beside, self._watch_leaders):
            threading.Thread(target=work, daemon=True).start()

    def _run_beside(self) -> None:
        try:
            # Set as soon as all are asked to stop, or one has.
            self._beside(lambda: self.returncode is None)
        except Exception as exc:
            if self.returncode is None:
                # Raised again by run_together, in the thread that can end the program.
                self.trouble = exc
                os.kill(os.getpid(), signal.SIGTERM)

    def _watch_leaders(self) -> None:
        """Kill the group of a leader that died: honcho waits for the end of its output, which the group holds open."""
        while not self.over.wait(GLANCE):
            for pid in self._leaders():
                if _has_died(pid):
                    kill_group(pid)

    def _leaders(self) -> list[int]:
        return [process["pid"] for process in self._processes.values() if "pid" in process]

    def _system_print(self, data: str) -> None:
        if " stopped " in data:
            self.stopped.append(data.strip())


def _has_died(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
