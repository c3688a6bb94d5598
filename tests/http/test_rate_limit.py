"""ASYNC_MIGRATIONS_RATE_LIMIT, on every door

A minute may end in the middle of a test: then twice as many are let through, and never more.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import F
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from knox.models import AuthToken

from api.processes import wait_until_ready, web_command
from async_migrations.conf import conf
from async_migrations.models import AsyncMigrationAudit, AsyncMigrationRate
from async_migrations.rest.rates import RateLimit, Shares
from tests.conftest import free_port

from .conftest import assert_problem

LIST = "/api/async-migrations"
FIVE = override_settings(ASYNC_MIGRATIONS_RATE_LIMIT=5)


def let_through(client):
    """Ask until the first refusal, and return how many were answered."""
    statuses = (client.get(LIST).status_code for _ in range(50))
    return len(list(takewhile(lambda status: status == 200, statuses)))


@FIVE
def test_it_works(viewer):
    assert 5 <= let_through(viewer) <= 10
    response = viewer.get(LIST)
    problem = assert_problem(response, 429, "rate_limited")
    assert 1 <= int(response["Retry-After"]) <= 60
    assert f"{response['Retry-After']} s" in problem["detail"]


@FIVE
def test_the_next_minute_begins_anew(viewer, monkeypatch):
    let_through(viewer)
    # What time does by itself: the database is in another minute, and what the process remembers is over.
    AsyncMigrationRate.objects.update(minute=F("minute") - 1)
    monkeypatch.setattr(RateLimit, "shares", Shares())
    assert 5 <= let_through(viewer) <= 10


@pytest.mark.django_db
def test_who_asks_no_more_is_forgotten():
    shares = Shares()
    for number in range(3):
        shares.spend(f"token:{number}", 5)
        for share in shares._of.values():
            share.until = 0  # Its minute is over.
    assert list(shares._of) == ["token:2"]


@FIVE
def test_each_token_has_its_own(client_of):
    first, second = client_of("viewer"), client_of("viewer")
    let_through(first)
    assert 5 <= let_through(second) <= 10


@FIVE
def test_a_session_is_limited_by_its_user(viewer, django_user_model):
    user = django_user_model.objects.get(username="viewer-1")
    let_through(viewer)
    browser, other = Client(), Client()
    browser.force_login(user)
    other.force_login(user)
    assert 5 <= let_through(browser) <= 10, "the token's requests do not count"
    assert let_through(other) <= 5, "the first session's do"


@FIVE
def test_what_is_not_allowed_counts_as_well(viewer, migration):
    row = migration()
    statuses = [viewer.post(f"{LIST}/{row.pk}/run").status_code for _ in range(11)]
    assert set(statuses) == {403, 429}
    assert AsyncMigrationAudit.objects.filter(action="run").count() == statuses.count(403), "it cannot be filled so"


@FIVE
def test_what_changes_something_is_not_done(operator, migration):
    row = migration()
    let_through(operator)
    response = operator.post(f"{LIST}/{row.pk}/run", content_type="application/json", headers={"Idempotency-Key": "k"})
    if response.status_code != 202:  # A minute may just have begun.
        assert_problem(response, 429, "rate_limited")
        row.refresh_from_db()
        assert row.status == "SCHEDULED"
        with override_settings(ASYNC_MIGRATIONS_RATE_LIMIT=None):
            again = operator.post(
                f"{LIST}/{row.pk}/run", content_type="application/json", headers={"Idempotency-Key": "k"}
            )
        assert (again.status_code, "Idempotency-Replayed" in again) == (202, False)


@pytest.mark.parametrize("off", [None, "off"])
def test_off_counts_nothing(viewer, off):
    with override_settings(ASYNC_MIGRATIONS_RATE_LIMIT=off):
        assert let_through(viewer) == 50
    assert not AsyncMigrationRate.objects.exists()


@pytest.mark.parametrize("value", [0, -1, "often", True, 0.5])
def test_a_limit_that_makes_no_sense_is_refused(value):
    with override_settings(ASYNC_MIGRATIONS_RATE_LIMIT=value), pytest.raises(ImproperlyConfigured):
        _ = conf.rate_limit


@override_settings(ASYNC_MIGRATIONS_RATE_LIMIT=30_000)
def test_a_request_within_its_share_costs_no_query(viewer):
    viewer.get(LIST)
    with CaptureQueriesContext(connections["default"]) as queries:
        for _ in range(20):
            viewer.get(LIST)
    writes = [query["sql"] for query in queries if "asyncmigrationrate" in query["sql"]]
    assert len(writes) <= 1, "one, if a minute has just begun"


@FIVE
def test_neither_token_nor_digest_is_kept_whole(viewer):
    viewer.get(LIST)
    kept = repr(AsyncMigrationRate.objects.values().get())
    assert viewer.defaults["HTTP_AUTHORIZATION"].split()[1] not in kept
    assert AuthToken.objects.get().digest not in kept


def test_it_holds_for_several_processes(processes, token):
    """
    Given a web server of three processes and a limit of 60 a minute
    When 300 requests come at once
    Then no more than 60 are let through in a minute, and the others are told when to come again
    """
    port = free_port()
    web = processes(web_command(port, workers=3, threads=4), ASYNC_MIGRATIONS_RATE_LIMIT="60")
    server = f"http://127.0.0.1:{port}"
    wait_until_ready(server, 60, alive=web.is_alive)

    headers = {"Authorization": f"Bearer {token('viewer')}"}
    # A connection for each request: one that the server has ended may be closed by one thread as another takes it.
    each = httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(base_url=server, headers=headers, timeout=60, limits=each)
    with client, ThreadPoolExecutor(30) as threads:
        found = list(threads.map(lambda _: client.get(LIST), range(300)))

    counts = {status: sum(answer.status_code == status for answer in found) for status in (200, 429)}
    assert sum(counts.values()) == 300
    assert 60 <= counts[200] <= 120
    assert all("Retry-After" in answer.headers for answer in found if answer.status_code == 429)
    assert AsyncMigrationRate.objects.get().granted <= 60
