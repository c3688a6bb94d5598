"""Load from wrk, and what it saw."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from examples.demo.errors import CannotGoOn

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Load:
    """What one run saw. rate: answers a second. p50, p99: milliseconds. errors: of any kind, other than 2xx and 3xx."""

    rate: float
    p50: float
    p99: float
    errors: int


def require_wrk() -> None:
    """Raise CannotGoOn where wrk is missing."""
    if shutil.which("wrk") is None:
        raise CannotGoOn(
            "wrk, which makes the load, is not installed. Install it (Debian and Ubuntu: apt-get install wrk)."
        )


def load(url: str, seconds: int, connections: int, *headers: str, script: str | None = None) -> Load:
    """Ask for a URL over and over. script: path of a Lua script of wrk's."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--latency"]
    command += ["--timeout", "60s", *(part for header in headers for part in ("--header", header))]
    command += ["--script", script] if script else []
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotGoOn(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return read(done.stdout)


def read(report: str) -> Load:
    """Read what wrk prints. Raises CannotGoOn where it says something else."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)$", report, re.MULTILINE)
    p50, p99 = (re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)\s*$", report, re.MULTILINE) for share in (50, 99))
    if rate is None or p50 is None or p99 is None:
        raise CannotGoOn(f"wrk's report cannot be read: {report}")
    sockets = re.search(
        r"^\s+Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)\s*$", report, re.MULTILINE
    )
    answers = re.search(r"^\s+Non-2xx or 3xx responses: (\d+)$", report, re.MULTILINE)
    errors = sum(map(int, sockets.groups())) if sockets else 0
    return Load(float(rate[1]), _milliseconds(p50), _milliseconds(p99), errors + (int(answers[1]) if answers else 0))


def _milliseconds(found: re.Match[str]) -> float:
    return float(found[1]) * _UNITS[found[2]]
