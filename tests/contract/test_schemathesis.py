"""schemathesis asks the live server, with a worker behind it, what the document allows, and much that it does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.processes import ROOT
from async_migrations.states import Status
from tests.http.conftest import migration  # noqa: F401 - a fixture

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = {True: 60, False: 3}  # of each operation, by whether it is in full
MOST_PHASES = "examples,fuzzing,stateful"  # without the one that tries every edge of every value, and takes the longest


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_every_answer_is_one_that_the_document_promises(
    role,
    extent,
    shared_api,
    start_worker,
    token,
    migration,  # noqa: F811
    tmp_path,
):
    rows = [migration(status) for status in Status if status != Status.IN_PROGRESS for _ in range(2)]
    rows.append(migration(Status.IN_PROGRESS))  # It takes the only place, so it comes last.
    start_worker()
    config = tmp_path / "schemathesis.toml"
    known = {"ids": [row.pk for row in rows], "names": [row.name for row in rows]}
    dictionaries = [f"{name} = {{ values = {json.dumps(values)} }}" for name, values in known.items()]
    text = CONFIG.read_text()
    if role == "viewer":
        text = re.sub("401(?!, 403)", "401, 403", text)
    config.write_text("\n".join([text, "[dictionaries]", *dictionaries]))
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(config),
        "run",
        str(ROOT / "openapi.yaml"),
    ]
    command += ["--url", shared_api.url, "--header", f"Authorization: Bearer {token(role)}", "--no-color"]
    command += ["--checks", "all", "--seed", str(extent.seed), "--max-examples", str(EXAMPLES[extent.full])]
    command += [] if extent.full or role == "operator" else ["--phases", MOST_PHASES]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)

    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"^  (\d+) generated, \d+ passed", done.stdout, re.MULTILINE)
    assert cases, done.stdout
    extent.told.append(f"{role}: {cases[0].strip()}")
    assert int(cases[1]) >= (1000 if extent.full else 100), done.stdout
