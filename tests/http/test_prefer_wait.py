"""Prefer: wait on GET /api/async-migrations/{id}"""

from __future__ import annotations

import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.lifecycle import Request
from async_migrations.rest import waiting
from async_migrations.rest.waiting import Places, preferred
from async_migrations.states import Status
from tests.conftest import eventually
from tests.test_docs import ROOT, block

from .conftest import ORIGIN, assert_problem

DEPLOYMENT = ROOT / "docs" / "deployment.md"
APPLIED = "Preference-Applied"
SOONER = 20  # seconds; who waited to the end would have waited for 30


def url(pk):
    return f"/api/async-migrations/{pk}"


# --- what is asked for ---


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("wait=5", 5), ("WAIT=5", 5), ("wait = 5 ", 5), ('wait="5"', 5), ("wait=0", 0), ("wait=30", 30), ("wait=31", 30),
     ("wait=" + "9" * 5000, 30), ("respond-async, wait=5", 5), ("wait=5, wait=7", 5), ("wait=5; x=y", 5),
     ('a="b, wait=3", wait=5', 5), ("handling=lenient,wait=5;q", 5), ("wait=007", 7)],
)  # fmt: skip
def test_a_time_is_understood(header, seconds):
    assert preferred(header) == seconds


@pytest.mark.parametrize(
    "header",
    ["", "wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=5s", "wait=1 2", "waiting=5", "x; wait=5", "=5",
     ",,;", '"wait=5"', 'a="b, wait=3"', "wait=\xb2", "wait=\u0665", "wait=x, wait=5", 'wait="5;x"', "\x00"],
)  # fmt: skip
def test_what_is_malformed_is_ignored(header):
    assert preferred(header) is None


@pytest.mark.parametrize("header", ["wait=soon", "respond-async", "wait=-5", "\xff"])
def test_it_is_answered_at_once_then(viewer, migration, header):
    response = viewer.get(url(migration().pk), headers={"Prefer": header})
    assert (response.status_code, APPLIED in response) == (200, False)


# --- where there is nothing to wait for ---


@pytest.mark.parametrize("status", [Status.FINISHED, Status.ERROR, Status.CANCELLED, Status.ROLLED_BACK])
def test_what_is_terminal_is_not_waited_for(viewer, migration, status):
    row = migration(status)
    response = viewer.get(url(row.pk), headers={"Prefer": "wait=30"})
    assert (response.status_code, response[APPLIED]) == (200, "wait=30")
    again = viewer.get(url(row.pk), headers={"Prefer": "wait=60", "If-None-Match": response["ETag"]})
    assert (again.status_code, again[APPLIED]) == (304, "wait=30")


def test_what_differs_already_is_answered(viewer, migration):
    row = migration(Status.STARTED)
    response = viewer.get(url(row.pk), headers={"Prefer": "wait=30", "If-None-Match": '"other"'})
    assert (response.status_code, response[APPLIED]) == (200, "wait=30")


def test_an_unknown_id_is_not_found(viewer):
    assert_problem(viewer.get(url(999_999), headers={"Prefer": "wait=30"}), 404, "not_found")


def test_when_the_time_is_up_it_is_answered_as_without(viewer, migration):
    row = migration(Status.STARTED)
    etag = viewer.get(url(row.pk))["ETag"]
    for headers, status in (({}, 200), ({"If-None-Match": etag}, 304)):
        response = viewer.get(url(row.pk), headers={"Prefer": "wait=1", **headers})
        assert (response.status_code, response[APPLIED], response["ETag"]) == (status, "wait=1", etag)
        assert "Retry-After" in response


def test_with_no_places_it_is_answered_at_once(viewer, migration):
    row = migration(Status.STARTED)
    with override_settings(ASYNC_MIGRATIONS_WAITING_PLACES=0):
        answers = [viewer.get(url(row.pk), headers={"Prefer": "wait=30"}) for _ in range(40)]
    assert {(answer.status_code, APPLIED in answer) for answer in answers} == {(200, False)}
    again = {int(answer["Retry-After"]) for answer in answers}
    assert len(again) > 1, "a crowd does not come back all at once"
    assert again <= {2, 3, 4, 5, 6}


def test_a_look_is_one_query_of_a_narrow_row(viewer, migration, django_assert_num_queries):
    row = migration(Status.FINISHED)
    viewer.get(url(row.pk))
    with CaptureQueriesContext(connections["default"]) as without:
        viewer.get(url(row.pk))
    with django_assert_num_queries(len(without) + 1) as waiting:
        viewer.get(url(row.pk), headers={"Prefer": "wait=30"})
    (look,) = {query["sql"] for query in waiting} - {query["sql"] for query in without}
    assert not [wide for wide in ("sql_forwards", "meta", "options", "JOIN") if wide in look]


# --- the places ---


def test_there_are_as_many_places_as_the_setting_says():
    places = Places()
    with override_settings(ASYNC_MIGRATIONS_WAITING_PLACES=2):
        with places.one() as first, places.one() as second, places.one() as third:
            assert (first, second, third) == (True, True, False)
        with places.one() as again:
            assert again


def test_a_thread_is_kept_for_those_who_do_not_wait():
    places = Places()
    places.fit(threads=2, closed=lambda: False)
    with override_settings(ASYNC_MIGRATIONS_WAITING_PLACES=8), places.one() as first, places.one() as second:
        assert (first, second) == (True, False)


def test_the_configuration_for_gunicorn_in_the_documents_says_who_may_wait(monkeypatch):
    monkeypatch.setattr(waiting, "places", places := Places())
    exec(block("gunicorn.conf.py", DEPLOYMENT), configuration := {})  # noqa: S102 - our own document
    worker = SimpleNamespace(cfg=SimpleNamespace(threads=2), alive=True)
    configuration["post_worker_init"](worker)
    with places.one() as first, places.one() as second:
        assert (first, second) == (True, False)
    worker.alive = False
    with places.one() as late:
        assert (late, places.closed) == (False, True)


# --- over HTTP ---


def started():
    row = lifecycle.take_over(Request("schedule", f"app.migrations.{uuid.uuid4()}", "default", "SELECT 1", "SELECT 2"))
    assert row is not None
    return lifecycle.run(row.pk, ORIGIN).migration


class Pollers:
    """Requests that wait, each in a thread of its own, and what keeps count of them."""

    def __init__(self, threads):
        self.threads = threads

    def ask(self, client, pk, **headers):
        return self.threads.submit(client.get, url(pk), headers={"Prefer": "wait=30", **headers}, timeout=40)


@pytest.fixture
def pollers(control):
    with ThreadPoolExecutor(16) as threads:
        yield Pollers(threads)


def waiting_sessions():
    """Return the state of each session of a web server whose last query was a look at a row."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            'AND query LIKE \'SELECT%"updated_at" FROM "async_migrations_asyncmigrationstatus" WHERE%\' '
            "AND query NOT LIKE '%sql_forwards%' "
            # Who waits looks four times a second; of an answer that was not waited for it may be the last query too.
            "AND query_start > clock_timestamp() - interval '1 second'"
        )
        return [state for (state,) in cursor.fetchall()]


@pytest.mark.parametrize("known", [True, False], ids=["If-None-Match", "without"])
def test_news_are_answered_when_they_come(api, pollers, known):
    client, row = api("viewer"), started()
    headers = {"If-None-Match": client.get(url(row.pk)).headers["ETag"]} if known else {}
    waiting = pollers.ask(client, row.pk, **headers)
    eventually(lambda: len(waiting_sessions()) == 1, what="the request waits")
    lifecycle.cancel(row.pk, ORIGIN)
    answer = waiting.result(SOONER)
    assert (answer.status_code, answer.headers[APPLIED]) == (200, "wait=30")
    assert answer.json()["status"] == "CANCELLED"


def test_without_if_none_match_only_the_end_counts(api, pollers):
    client, row = api("viewer"), started()
    waiting = pollers.ask(client, row.pk)
    eventually(lambda: len(waiting_sessions()) == 1, what="the request waits")
    lifecycle.tune(row.pk, ORIGIN, {"priority": 5})
    lifecycle.pause(row.pk, ORIGIN)
    lifecycle.cancel(row.pk, ORIGIN)
    assert waiting.result().json()["status"] == "CANCELLED"


def test_who_waits_holds_no_transaction(api, pollers):
    client, row = api("viewer"), started()
    waiting = pollers.ask(client, row.pk)
    eventually(lambda: len(waiting_sessions()) == 1, what="the request waits")
    assert set(waiting_sessions()) <= {"idle", "active"}
    lifecycle.cancel(row.pk, ORIGIN)
    waiting.result()


def test_when_the_places_are_taken_others_are_answered_at_once(start_api, api, pollers):
    row = started()
    client = api("viewer", at=start_api(ASYNC_MIGRATIONS_WAITING_PLACES="2"))
    held = [pollers.ask(client, row.pk) for _ in range(2)]
    eventually(lambda: len(waiting_sessions()) == 2, what="both places are taken")
    for _ in range(20):
        answer = client.get(url(row.pk), headers={"Prefer": "wait=30"})
        assert (answer.status_code, APPLIED in answer.headers) == (200, False)
    assert not any(waiting.done() for waiting in held)
    lifecycle.cancel(row.pk, ORIGIN)
    assert {waiting.result().headers[APPLIED] for waiting in held} == {"wait=30"}


def test_more_places_than_threads_leave_one_thread_for_short_requests(start_api, api, pollers):
    row = started()
    client = api("viewer", at=start_api(threads=3, ASYNC_MIGRATIONS_WAITING_PLACES="100"))
    waiting = [pollers.ask(client, row.pk) for _ in range(8)]
    eventually(lambda: sum(one.done() for one in waiting) == 6, what="all but two were answered at once")
    for _ in range(10):
        assert client.get(url(row.pk)).status_code == 200
    lifecycle.cancel(row.pk, ORIGIN)
    assert sum(APPLIED in one.result().headers for one in waiting) == 2


def test_a_client_that_goes_away_frees_its_place(start_api, api, pollers, token):
    row, web = started(), start_api(ASYNC_MIGRATIONS_WAITING_PLACES="1")
    client = api("viewer", at=web)
    where = httpx.URL(web.url)
    gone = socket.create_connection((where.host, where.port))
    gone.sendall(
        f"GET {url(row.pk)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token('viewer')}\r\n"
        "Prefer: wait=30\r\n\r\n".encode()
    )
    eventually(lambda: len(waiting_sessions()) == 1, what="the place is taken")
    assert APPLIED not in client.get(url(row.pk), headers={"Prefer": "wait=1"}).headers
    gone.close()
    eventually(
        lambda: APPLIED in client.get(url(row.pk), headers={"Prefer": "wait=1"}).headers, SOONER, what="it is free"
    )


def test_a_server_that_ends_answers_who_waits(start_api, api, pollers):
    row, web = started(), start_api()
    client = api("viewer", at=web)
    etag = client.get(url(row.pk)).headers["ETag"]
    waiting = [pollers.ask(client, row.pk), pollers.ask(client, row.pk, **{"If-None-Match": etag})]
    eventually(lambda: len(waiting_sessions()) == 2, what="both wait")
    web.terminate()
    answers = [one.result() for one in waiting]
    assert [answer.status_code for answer in answers] == [200, 304]
    assert not any(APPLIED in answer.headers for answer in answers)


def test_500_at_once_get_no_error_and_the_news(api, token, shared_api):
    row = started()
    headers = {"Authorization": f"Bearer {token('viewer')}"}
    # A connection that is idle is given up before the server does, which would cross a request on its way.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1)
    client = httpx.Client(base_url=shared_api.url, headers=headers, limits=limits)

    def follow(_):
        """Poll as a client does that takes every answer for what it is."""
        etag, answers = "", []
        while True:
            answer = client.get(url(row.pk), headers={"Prefer": "wait=30", "If-None-Match": etag}, timeout=60)
            answers.append(answer.status_code)
            etag = answer.headers.get("ETag", "")
            if answer.status_code == 200 and answer.json()["terminal"]:
                return answers

    with client, ThreadPoolExecutor(500) as threads:
        following = [threads.submit(follow, number) for number in range(500)]
        eventually(lambda: waiting_sessions(), what="some wait")
        lifecycle.cancel(row.pk, ORIGIN)
        answers = [one.result() for one in following]
    assert {status for each in answers for status in each} <= {200, 304}
