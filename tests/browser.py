"""A real browser without a window, driven over a pipe: no port, and no library beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 30  # seconds


class Browser:
    """One page. What the browser complains of, blocked content first of all, is in `complaints`."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events, self._last = commands, events, 0
        self._session: dict[str, str] = {}
        self._rest = b""
        self.complaints: list[str] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the DevTools protocol; return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda event: event.get("id") == self._last)
        assert "result" in answer, answer
        return dict(answer["result"])

    def visit(self, url: str) -> None:
        """Open an address; return when the page and all that it needs are there."""
        self.tell("Page.navigate", url=url)
        self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def follow(self, script: str) -> None:
        """Do what leads to another page; return when that is there."""
        self.tell("Runtime.evaluate", expression=script)
        self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        done = self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return done["result"].get("value")

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            while b"\0" not in self._rest:
                self._rest += os.read(self._events, 65536) or pytest.fail("the browser has gone")
            line, _, self._rest = self._rest.partition(b"\0")
            event = json.loads(line)
            self._note(event)
            if wanted(event):
                return dict(event)
        pytest.fail("the browser does not answer")

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(f"{parameters['entry']['text']} ({parameters['entry'].get('url', '')})")
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.complaints.append(str(parameters["args"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run one for the length of the block; its files are in `folder`."""
    if CHROMIUM is None:
        pytest.fail("no Chromium is installed") if os.environ.get("CI") else pytest.skip("no Chromium is installed")
    reads, commands = os.pipe()
    events, writes = os.pipe()
    # The browser's two pipes are its file descriptors 3 and 4.
    line = f'exec 3<&{reads} 4>&{writes}; exec "$@"'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
    with (folder.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", line, "browser", str(CHROMIUM), *options, "about:blank"],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(reads)
    os.close(writes)
    try:
        yield Browser(commands, events)
    finally:
        with suppress(OSError):
            os.write(commands, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(commands)
        os.close(events)
