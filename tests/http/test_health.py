"""GET /healthz and /readyz, and what else is true of every address of the service."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection
from django.test import Client
from redis import Redis

from api import health


@pytest.mark.django_db
def test_it_works(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert set(ready.json()["parts"].values()) == {"ok"}


def test_alive_asks_nothing_of_the_database(client):
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_a_broker_that_is_away_is_named_without_its_secrets(client, settings, monkeypatch):
    import dramatiq

    monkeypatch.setattr(dramatiq.get_broker(), "client", Redis.from_url("redis://:hidden@127.0.0.1:1/0"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["broker"].startswith("does not answer")
    assert answer.json()["parts"]["database"] == "ok"
    assert "hidden" not in answer.text


@pytest.mark.django_db
def test_migrations_that_are_not_applied_are_named(client):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'async_migrations'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "async_migrations.0001_initial first: run manage.py migrate" in answer.json()["parts"]["migrations"]


def test_a_database_that_is_away_is_named_without_its_secrets(client, monkeypatch):
    def refuse():
        raise OperationalError("password authentication failed for user hidden")

    monkeypatch.setitem(health.PARTS, "database", refuse)
    monkeypatch.setitem(health.PARTS, "migrations", refuse)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["database"] == "does not answer (OperationalError)"
    assert "hidden" not in answer.text


@pytest.mark.django_db
def test_without_a_broker_it_is_ready_too(client, settings):
    del settings.DRAMATIQ_BROKER
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]["broker"]) == (200, health.INLINE)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_nothing_can_be_written_there(method):
    answer = getattr(Client(enforce_csrf_checks=True), method)("/healthz")
    assert (answer.status_code, answer["Allow"], answer.json()["code"]) == (405, "GET, HEAD", "method_not_allowed")


@pytest.mark.django_db
def test_the_front_page_asks_who_it_is(client):
    assert client.get("/").headers["Location"] == "/login?next=/"


@pytest.mark.parametrize("path", ["/api/docs/", "/api/schema/", "/api/async-migrations/", "/readyz/"])
def test_a_trailing_slash_is_not_found_and_not_a_redirect(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/api/docs", "/nowhere"])
def test_every_answer_has_its_security_headers_and_an_id(client, path):
    headers = client.get(path, headers={"X-Request-ID": "mine-1"}).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Request-ID"] == "mine-1"
