"""If-Match, on every door that changes something"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationKey

from .conftest import assert_problem

PATHS = yaml.safe_load((Path(__file__).resolve().parents[2] / "openapi.yaml").read_text())["paths"]
WRITING = {
    (method, path): any(parameter["name"] == "If-Match" for parameter in operation["parameters"])
    for path, methods in PATHS.items()
    for method, operation in methods.items()
    if method != "get"
}
BODIES = {
    "async-migrations/run": {"ids": [1]},
    "async-migrations/cancel": {"ids": [1]},
    "janitor/drop": {"database": "default", "schema": "public", "name": "there_is_no_such_index"},
    "async-migrations/hold": {"reason": "release night"},
    "{id}/tuning": {"priority": 3},
}


def test_which_doors_compare_it():
    without = {path for (_, path), compares in WRITING.items() if not compares}
    assert without == {f"/api/async-migrations/{door}" for door in ("run", "cancel", "janitor/drop")}
    assert len(WRITING) == 11


@pytest.mark.parametrize(("door", "compares"), WRITING.items(), ids=lambda value: str(value))
def test_no_door_ignores_it(operator, migration, door, compares):
    method, path = door
    row = migration()
    body = {name: [row.pk] if name == "ids" else value for name, value in body_of(path).items()}

    def send(**headers):
        address = path.replace("{id}", str(row.pk))
        return getattr(operator, method)(address, body, content_type="application/json", headers=headers)

    refused = send(**{"If-Match": '"of-yesterday"', "Idempotency-Key": "k-1"})
    if compares:
        assert_problem(refused, 412, "precondition_failed")
    else:
        problem = assert_problem(refused, 400, "validation_error")
        assert "the door of one migration" in problem["errors"]["If-Match"][0]
        assert not AsyncMigrationKey.objects.exists(), "the key is free for the request without it"
    now = lifecycle.get(row.pk)
    assert (now.status, now.updated_at, lifecycle.held("default")) == (row.status, row.updated_at, None)
    assert send().status_code != refused.status_code, "without it, it is another answer"


def body_of(path):
    return next((body for end, body in BODIES.items() if path.endswith(end)), {})
