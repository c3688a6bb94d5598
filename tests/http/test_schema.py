"""GET /api/schema, and openapi.yaml"""

from pathlib import Path

import pytest
import yaml
from django.core.management import call_command

from async_migrations import limits
from async_migrations.rest.codes import PROBLEMS
from async_migrations.rest.problems import MEDIA_TYPE

from .conftest import assert_problem

ROOT = Path(__file__).resolve().parents[2]

OPERATIONS = {
    "async_migrations_list": ("get", "/api/async-migrations"),
    "async_migrations_summary": ("get", "/api/async-migrations/summary"),
    "async_migrations_gate": ("get", "/api/async-migrations/gate"),
    "async_migrations_hold_retrieve": ("get", "/api/async-migrations/hold"),
    "async_migrations_hold": ("put", "/api/async-migrations/hold"),
    "async_migrations_hold_lift": ("delete", "/api/async-migrations/hold"),
    "async_migrations_bulk_run": ("post", "/api/async-migrations/run"),
    "async_migrations_bulk_cancel": ("post", "/api/async-migrations/cancel"),
    "async_migrations_janitor_list": ("get", "/api/async-migrations/janitor"),
    "async_migrations_janitor_drop": ("post", "/api/async-migrations/janitor/drop"),
    "async_migrations_retrieve": ("get", "/api/async-migrations/{id}"),
    "async_migrations_preflight": ("get", "/api/async-migrations/{id}/preflight"),
    "async_migrations_run": ("post", "/api/async-migrations/{id}/run"),
    "async_migrations_pause": ("post", "/api/async-migrations/{id}/pause"),
    "async_migrations_resume": ("post", "/api/async-migrations/{id}/resume"),
    "async_migrations_cancel": ("post", "/api/async-migrations/{id}/cancel"),
    "async_migrations_rollback": ("post", "/api/async-migrations/{id}/rollback"),
    "async_migrations_tune": ("patch", "/api/async-migrations/{id}/tuning"),
    "async_migrations_quarantine_list": ("get", "/api/async-migrations/{id}/quarantine"),
    "async_migrations_events_list": ("get", "/api/async-migrations/{id}/events"),
}


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


@pytest.fixture(params=OPERATIONS)
def operation(request, document):
    method, path = OPERATIONS[request.param]
    return document["paths"][path][method]


def test_it_works(client):
    response = client.get("/api/schema")
    assert response.status_code == 200
    assert yaml.safe_load(response.content)["openapi"].startswith("3.")


def test_it_is_json_for_whoever_wants_json(client):
    response = client.get("/api/schema", headers={"Accept": "application/json"})
    assert response.json()["info"]["title"] == "django-async-migrations"


def test_the_committed_file_is_what_the_code_generates(tmp_path):
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "openapi.yaml"))
    assert (tmp_path / "openapi.yaml").read_text() == (ROOT / "openapi.yaml").read_text(), "run `make openapi`"


def test_the_operations_keep_their_names(document):
    found = {
        operation["operationId"]: (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/api/async-migrations")
    }
    assert found == OPERATIONS


def test_every_code_is_in_the_document():
    text = (ROOT / "openapi.yaml").read_text()
    assert [code for code in PROBLEMS if f"`{code}`" not in text] == []


def test_every_error_of_an_operation_is_a_problem_with_an_example(operation):
    for status, answer in operation["responses"].items():
        if int(status) >= 400:
            content = answer["content"][MEDIA_TYPE]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert content["examples"]


def test_every_answer_names_its_headers(operation):
    for status, answer in operation["responses"].items():
        assert "X-Request-ID" in answer["headers"], status
    assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
    for status in ("429", "503"):
        assert "Retry-After" in operation["responses"][status]["headers"]


def test_what_takes_a_body_takes_a_key(operation):
    takes = "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}
    assert takes == ("requestBody" in operation)
    assert takes == ("422" in operation["responses"])


def test_verbs_name_what_they_answer_in_headers(document):
    for name in ("run", "pause", "resume", "cancel", "rollback"):
        method, path = OPERATIONS[f"async_migrations_{name}"]
        operation = document["paths"][path][method]
        for status in ("200", "202"):
            assert {"Location", "ETag", "Retry-After"} <= set(operation["responses"][status]["headers"])
        assert "If-Match" in [parameter["name"] for parameter in operation["parameters"]]
        assert not operation.get("requestBody", {}).get("required")


def test_unknown_fields_are_said_to_be_refused(document):
    bodies = "RunRequest", "EmptyRequest", "DropRequest", "HoldRequest", "BulkRequest", "BulkFilter"
    for name in (*bodies, "PatchedTuningRequest"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False


def test_the_limits_of_live_tuning_are_said(document):
    values = document["components"]["schemas"]["PatchedTuningRequest"]["properties"]
    assert set(values) == set(limits.NAMES)
    assert (values["batch_size"]["minimum"], values["batch_size"]["maximum"]) == (1, 1_000_000)
    assert set(values["throttle"]["oneOf"][1]["properties"]) == set(limits.THRESHOLDS)


def test_polling_is_described(document):
    operation = document["paths"]["/api/async-migrations/{id}"]["get"]
    assert {"If-None-Match", "X-Request-ID", "id"} <= {parameter["name"] for parameter in operation["parameters"]}
    for status in ("200", "304"):
        assert {"ETag", "Retry-After"} <= set(operation["responses"][status]["headers"])


def test_the_parameters_of_the_list_are_all_there(document):
    parameters = {p["name"]: p for p in document["paths"]["/api/async-migrations"]["get"]["parameters"]}
    assert set(parameters) == {
        "status", "name", "search", "database", "app", "kind", "created_after", "created_before", "ordering", "page",
        "page_size", "X-Request-ID",
    }  # fmt: skip
    assert parameters["page_size"]["schema"]["maximum"] == 500


def test_two_ways_to_say_who_asks(document, operation):
    assert set(document["components"]["securitySchemes"]) == {"bearerAuth", "sessionAuth"}
    assert operation["security"] == [{"bearerAuth": []}, {"sessionAuth": []}]


def test_health_is_in_the_document(document):
    assert set(document["paths"]["/readyz"]["get"]["responses"]) == {"200", "503"}
    assert "/healthz" in document["paths"]


def test_the_page_comes_from_local_files(client):
    response = client.get("/api/docs")
    assert response.status_code == 200
    assert "https://" not in response.text.replace("https://www.w3.org", "")


@pytest.mark.parametrize("path", ["/api/docs", "/api/schema"])
def test_the_document_is_for_reading_alone(client, path):
    for method in ("OPTIONS", "POST"):
        assert_problem(client.generic(method, path), 405, "method_not_allowed")
    assert client.head(path).status_code == 200
