"""What squawk, a linter for PostgreSQL migrations, says of the SQL, where it is installed (extra `lint`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..conf import conf
from ..states import Direction
from .definition import PROCESS, whole
from .findings import INFO, WARNING, Finding
from .look import Look

# It takes milliseconds; longer than this it hangs.
_SECONDS = 5


def lint(look: Look) -> Iterator[Finding]:
    """Return what the linter warns of. It reads text alone, so all of it is a warning."""
    backwards = look.direction == Direction.BACKWARDS
    sql = whole(look.migration.sql_backwards if backwards else look.migration.sql_forwards)
    if sql.startswith(PROCESS):
        return
    try:
        said = _said(sql, look.session.one("preflight_version")["major"])
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        message = "The SQL was not linted: squawk is not installed beside this process, or does not work."
        yield Finding("not_linted", INFO, message, {"reason": str(exc)}, "Install the extra `lint`.")
        return
    for each in said:
        detail = {"rule": each["rule_name"], "line": each["line"] + 1}
        message = f"Line {each['line'] + 1}: {each['message']} ({each['rule_name']})"
        yield Finding("lint", WARNING, message, detail, each["help"])


def _said(sql: str, version: int) -> list[dict[str, Any]]:
    """Return the answer of the linter; OSError, SubprocessError or ValueError where there is none."""
    binary = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if binary is None:
        raise FileNotFoundError("there is no program squawk")
    command = [binary, "--reporter", "json", f"--pg-version={version}"]
    command += [f"--exclude={rule}" for rule in conf.squawk_exclude]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode not in {0, 1}:  # 1: it has something to say.
        raise ValueError(done.stderr[:200])
    return list(json.loads(done.stdout))
