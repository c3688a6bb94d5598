"""No request can say what SQL is carried out: through no door of the document, and through no form of the admin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import assert_problem

DOCUMENT = yaml.safe_load((Path(__file__).resolve().parents[2] / "openapi.yaml").read_text())
#: What decides which SQL runs, and where and how.
DECIDING = ("sql_forwards", "sql_backwards", "sql_digest", "options", "kind", "name", "database", "direction", "meta")
EVIL = "DROP TABLE book"

#: Fields of bodies that have such a name and only choose among what is there.
CHOOSING = {
    "async_migrations_bulk_run": {"name", "database", "kind"},
    "async_migrations_bulk_cancel": {"name", "database", "kind"},
    "async_migrations_janitor_drop": {"name", "database"},
}
#: The same of the forms of the admin, by the name of the model.
CHOOSING_IN_ADMIN = {"asyncmigrationhold": {"database"}, "asyncmigrationwebhook": {"name"}}
WRITING = [
    (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if method in {"post", "put", "patch", "delete"}
]

pytestmark = pytest.mark.django_db(databases=["default", "second"])


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema or len(schema.get("allOf", ())) == 1:
        schema = schema["allOf"][0] if "allOf" in schema else _component(schema["$ref"])
    return schema


def _component(reference: str) -> dict[str, Any]:
    return dict(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]])


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every object of a schema, however deep."""
    schema = resolved(schema)
    if schema.get("type") == "object" or "properties" in schema:
        yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("oneOf", ()), *schema.get("anyOf", ())]
    inner += [schema["items"]] if "items" in schema else []
    for each in inner:
        yield from objects(each)


def body_of(operation: dict[str, Any]) -> dict[str, Any] | None:
    content = operation.get("requestBody", {}).get("content")
    return None if content is None else dict(content["application/json"]["schema"])


def what_runs() -> list[tuple[Any, ...]]:
    """Return everything about all migrations that decides what is carried out."""
    return list(lifecycle.rows().order_by("pk").values_list("pk", *DECIDING[:-2]))


def test_there_are_doors_that_write():
    assert len(WRITING) >= 10


@pytest.mark.parametrize(
    ("method", "path", "operation"), WRITING, ids=lambda part: part if isinstance(part, str) else ""
)
def test_no_field_of_the_document_decides_what_runs(method, path, operation):
    found = list(objects(body)) if (body := body_of(operation)) else []
    for each in found:
        assert each.get("additionalProperties") is False, each
    names = {name for each in found for name in each.get("properties", {})}
    assert names & set(DECIDING) <= CHOOSING.get(operation["operationId"], set())
    queries = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
    assert queries <= {"database"}


@pytest.mark.parametrize(
    ("method", "path", "operation"), WRITING, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_door_takes_no_such_field(operator, migration, method, path, operation):
    migration(Status.PAUSED, database="second")
    address, before = path.replace("{id}", str(migration().pk)), what_runs()
    for name in ("sql_forwards", "sql_backwards", "options", "sql", "migration"):
        in_query = getattr(operator, method)(f"{address}?{name}={EVIL}", "{}", content_type="application/json")
        assert_problem(in_query, 400, "validation_error")
        if body_of(operation):
            body = json.dumps({name: EVIL, "ids": [1]} if "/run" in path else {name: EVIL})
            assert getattr(operator, method)(address, body, content_type="application/json").status_code == 400
            assert getattr(operator, method)(address, f"{name}={EVIL}", content_type="text/plain").status_code == 415
    assert what_runs() == before


def test_a_migration_cannot_be_made_or_replaced(operator, migration):
    row, before = migration(), what_runs()
    for method in ("post", "put", "patch", "delete"):
        for address in ("/api/async-migrations", f"/api/async-migrations/{row.pk}"):
            response = getattr(operator, method)(address, {"sql_forwards": EVIL}, content_type="application/json")
            assert_problem(response, 405, "method_not_allowed")
    assert what_runs() == before


def test_no_form_of_the_admin_writes_a_migration(admin_client: Client, migration):
    row, before = migration(), what_runs()
    ours = [model for model in admin.site._registry if model._meta.app_label == "async_migrations"]
    assert AsyncMigrationStatus in ours
    fields = {**dict.fromkeys(DECIDING, EVIL), "_save": "Save", "form-0-sql_forwards": EVIL, "form-0-id": row.pk}
    for model in ours:
        name = f"admin:async_migrations_{model._meta.model_name}"
        addresses = [reverse(f"{name}_changelist"), reverse(f"{name}_add"), reverse(f"{name}_change", args=[row.pk])]
        for address in addresses:
            page = admin_client.get(address).content.decode()
            named = set(re.findall(r'<(?:input|textarea|select)[^>]*\sname="([^"]+)"', page))
            choosing = CHOOSING_IN_ADMIN.get(str(model._meta.model_name), set())
            assert not named & set(DECIDING) - choosing, (address, named)
            admin_client.post(address, fields)
    assert what_runs() == before
    assert not lifecycle.rows().exclude(pk=row.pk).exists()
