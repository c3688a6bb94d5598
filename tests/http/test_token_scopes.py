"""What a token is limited to: by verb and by database, at every door; a scope only ever narrows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationTokenScope
from async_migrations.rest import urls
from async_migrations.rest.permissions import FORCE
from async_migrations.rest.scopes import VERBS
from async_migrations.states import Status

from .conftest import assert_problem

URL = "/api/async-migrations"
pytestmark = pytest.mark.django_db(databases=["default", "second"])


@pytest.fixture
def limited(bearer) -> Callable[..., Client]:
    """Make a client whose token is limited: `limited("run", "cancel", on=["second"], role="operator")`."""

    def make(*verbs: str, on: list[str] | None = None, role: str = "operator") -> Client:
        token = bearer(role, verb=list(verbs) or None, database=on)
        return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})

    return make


def post(client, path, body=None, **headers):
    return client.post(f"{URL}{path}", body or {}, content_type="application/json", headers=headers)


@pytest.fixture
def here(migration):
    return migration(name="app.migrations.0001_here")


@pytest.fixture
def there(migration):
    return migration(name="app.migrations.0002_there", database="second")


def test_it_works(limited, here, there):
    client = limited("run", on=["default"])
    assert [row["id"] for row in client.get(URL).json()["results"]] == [here.pk]
    assert post(client, f"/{here.pk}/run").status_code == 202
    assert_problem(post(client, f"/{there.pk}/run"), 404, "not_found")
    problem = assert_problem(post(client, f"/{here.pk}/cancel"), 403, "permission_denied")
    assert "limited to: run on default" in problem["detail"]
    assert lifecycle.get(here.pk).status == Status.STARTED
    assert lifecycle.get(there.pk).status == Status.SCHEDULED


# --- verbs ---


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_opens_its_own_doors_and_reading(limited, migration, verb):
    client = limited(verb)
    pk = migration(Status.PAUSED).pk
    doors = {
        "run": [("post", f"/{pk}/resume"), ("post", f"/{pk}/pause"), ("post", f"/{pk}/run"), ("post", "/run"),
                ("post", "/janitor/drop")],
        "tune": [("patch", f"/{pk}/tuning")],
        "hold": [("put", "/hold"), ("delete", "/hold")],
        "rollback": [("post", f"/{pk}/rollback")],
        "cancel": [("post", f"/{pk}/cancel"), ("post", "/cancel")],
    }  # fmt: skip
    for name, its in doors.items():
        for method, path in its:
            status = getattr(client, method)(URL + path, "{}", content_type="application/json").status_code
            assert (status == 403) is (name != verb), (verb, path, status)
    assert client.get(f"{URL}/{pk}/events").status_code == 200


def test_a_scope_gives_nothing_that_the_user_has_not(limited, here):
    client = limited("run", "force", "hold", role="viewer")
    assert_problem(post(client, f"/{here.pk}/run"), 403, "permission_denied")


def test_to_force_is_a_verb_of_its_own(limited, here, django_user_model, grant):
    client = limited("run")
    grant(django_user_model.objects.get(), FORCE)
    assert_problem(post(client, f"/{here.pk}/run", {"force": True}), 403, "permission_denied")
    assert post(client, f"/{here.pk}/run").status_code == 202


@pytest.fixture
def grant():
    from django.contrib.auth.models import Permission

    def give(user, permission):
        user.user_permissions.add(Permission.objects.get(codename=permission.rpartition(".")[2]))

    return give


# --- databases ---


def test_what_is_on_other_databases_is_not_there(limited, here, there):
    client = limited(on=["second"])
    for method, path in [
        ("get", ""),
        ("get", "/events"),
        ("get", "/preflight"),
        ("get", "/quarantine"),
        ("patch", "/tuning"),
    ] + [("post", f"/{verb}") for verb in ("run", "pause", "resume", "cancel", "rollback")]:
        body = {} if method == "get" else {"data": "{}", "content_type": "application/json"}
        problem = assert_problem(getattr(client, method)(f"{URL}/{here.pk}{path}", **body), 404, "not_found")
        missing = getattr(client, method)(f"{URL}/999999{path}", **body).json()
        assert {**problem, "instance": "", "request_id": ""} == {**missing, "instance": "", "request_id": ""}
    assert client.get(f"{URL}/{there.pk}").status_code == 200
    assert lifecycle.get(here.pk).status == Status.SCHEDULED


def test_the_summary_counts_what_is_there(limited, here, there):
    lifecycle.run(here.pk, Origin("ci"))
    summary = limited(on=["second"]).get(f"{URL}/summary").json()
    assert summary["by_database"] == {"second": {"SCHEDULED": 1}}
    assert (summary["total"], summary["oldest_in_line_seconds"]) == (1, None)


def test_the_list_cannot_be_filtered_past_the_scope(limited, here, there):
    client = limited(on=["second"])
    for query in ("database=default", f"name={here.name}", "search=0001"):
        assert client.get(f"{URL}?{query}").json()["count"] == 0


def test_the_gate_is_shut_for_a_name_on_another_database(limited, migration):
    row = migration(Status.FINISHED, name="app.migrations.0003_done")
    query = f"{URL}/gate?name={row.name}"
    assert limited(on=["default"]).get(query).json()["state"] == "pass"
    verdict = limited(on=["second"]).get(query).json()
    assert (verdict["state"], verdict["checked"], verdict["reasons"][0]["id"]) == ("blocked", 0, None)


@pytest.mark.parametrize("asked", ["ids", "filter"])
def test_bulk_leaves_other_databases_alone(limited, here, there, asked):
    body = {"ids": [here.pk, there.pk]} if asked == "ids" else {"filter": {"search": "app.migrations"}}
    items = post(limited(on=["second"]), "/run", body).json()["items"]
    assert {item["id"]: item["outcome"] for item in items if item["outcome"] != "not_found"} == {there.pk: "accepted"}
    assert not any(item["name"] == here.name for item in items)
    assert lifecycle.get(here.pk).status == Status.SCHEDULED


def test_the_hold_of_ones_own_database_only(limited):
    lifecycle.set_hold("default", "not for your eyes", Origin("alice"))
    client = limited(on=["second"])
    body = {"reason": "release"}
    for database in ("", "?database=default", "?database=nowhere"):
        status, code = (400, "validation_error") if database else (403, "permission_denied")
        assert_problem(client.put(f"{URL}/hold{database}", body, content_type="application/json"), status, code)
        assert_problem(client.delete(f"{URL}/hold{database}"), status, code)
    held = client.put(f"{URL}/hold?database=second", body, content_type="application/json").json()
    assert [hold["database"] for hold in held["holds"]] == ["second"]
    for query in ("", "?database=default"):
        assert "eyes" not in client.get(f"{URL}/hold{query}").text
    assert client.delete(f"{URL}/hold?database=second").json()["held"] is False
    assert lifecycle.held("default") is not None


def test_a_hold_on_everything_is_seen_by_everybody(limited):
    lifecycle.set_hold("", "all stop", Origin("alice"))
    assert limited(on=["second"]).get(f"{URL}/hold").json()["holds"][0]["reason"] == "all stop"


def test_the_janitor_looks_at_ones_own_databases_only(limited):
    client = limited(on=["second"])
    assert [found["database"] for found in client.get(f"{URL}/janitor").json()] == ["second"]
    body = {"database": "default", "schema": "public", "name": "x"}
    problem = assert_problem(post(client, "/janitor/drop", body), 400, "validation_error")
    assert problem["errors"]["database"] == ["There is no such PostgreSQL target. There are: second."]


def test_a_kept_answer_is_not_given_to_a_token_for_fewer_databases(bearer, here, there):
    everything, limited = bearer("operator"), None
    from knox.models import AuthToken

    from async_migrations.rest import tokens
    from async_migrations.rest.scopes import Scope

    limited = tokens.create(
        AuthToken.objects.get().user, Origin(), lifetime=None, scope=Scope(databases=frozenset({"second"}))
    )
    asked = {"ids": [here.pk, there.pk]}
    key = {"Idempotency-Key": "one"}
    assert post(Client(), "/run", asked, Authorization=f"Bearer {everything}", **key).status_code == 200
    response = post(Client(), "/run", asked, Authorization=f"Bearer {limited}", **key)
    assert_problem(response, 422, "idempotency_key_reused")


def test_every_door_says_how_it_keeps_to_the_scope():
    doors = {str(url.pattern): url.callback.view_class for url in urls.urlpatterns if isinstance(url, URLPattern)
             and hasattr(url.callback, "view_class")}  # fmt: skip
    assert len(doors) > 15
    for address, door in doors.items():
        assert door.scoped_by == ("migration" if "<int:id>" in address else "door"), address


def test_a_door_that_does_not_say_is_not_for_a_token_for_some_databases(limited, monkeypatch):
    from async_migrations.rest.views import SummaryDoor

    monkeypatch.setattr(SummaryDoor, "scoped_by", None)
    assert_problem(limited(on=["default"]).get(f"{URL}/summary"), 403, "permission_denied")
    assert limited("view").get(f"{URL}/summary").status_code == 200


# --- the scope itself ---


def test_it_costs_no_query(limited, viewer, here):
    counts = []
    for client in (viewer, limited("view")):
        with CaptureQueriesContext(connection) as captured:
            assert client.get(f"{URL}/{here.pk}").status_code == 200
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_a_session_has_no_scope(client, admin_user, here, there):
    client.force_login(admin_user)
    assert client.get(URL).json()["count"] == 2


def test_a_token_without_one_has_all_that_its_user_has(operator, here, there):
    assert not AsyncMigrationTokenScope.objects.exists()
    assert operator.get(URL).json()["count"] == 2
