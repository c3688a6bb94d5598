"""Idempotency-Key on what changes something"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
from django.db import connections
from django.db.models.functions import Now
from django.test import Client

from async_migrations import asking, lifecycle
from async_migrations.lifecycle import Request
from async_migrations.models import AsyncMigrationKey
from async_migrations.rest import idempotency
from async_migrations.rest.views import RunDoor
from async_migrations.states import Status
from tests.conftest import eventually
from tests.driving import held

from .conftest import ORIGIN, assert_problem

REPLAYED = "Idempotency-Replayed"


def url(row, verb="run"):
    return f"/api/async-migrations/{row.pk}/{verb}"


def post(client, row, key, body="", *, verb="run", **headers):
    headers = {"Idempotency-Key": key, **headers}
    return client.generic("POST", url(row, verb), body, "application/json", headers=headers)


def later(**passed):
    """Let so much time pass for everything that is kept."""
    for kept in AsyncMigrationKey.objects.all():
        kept.expires_at -= timedelta(**passed)
        kept.save()


def test_it_works(operator, migration):
    row = migration()
    first = post(operator, row, "k-1", '{"priority": 3}')
    assert (first.status_code, REPLAYED in first) == (202, False)
    lifecycle.cancel(row.pk, ORIGIN)
    events = row.events.count()

    again = post(operator, row, "k-1", '{"priority": 3}')

    assert (again.status_code, again.content, again[REPLAYED]) == (202, first.content, "true")
    for name in ("Content-Type", "Cache-Control", "Location", "ETag", "Retry-After"):
        assert again[name] == first[name]
    assert again["X-Request-ID"] != first["X-Request-ID"]
    assert row.events.count() == events, "the first answer was given again, nothing was done"
    assert lifecycle.get(row.pk).status == Status.CANCELLED


def test_a_refusal_is_given_again_as_well(operator, migration):
    row = migration(Status.FINISHED)
    first = post(operator, row, "k-1", verb="cancel")
    assert_problem(first, 409, "invalid_transition")
    again = post(operator, row, "k-1", verb="cancel")
    assert (again.status_code, again.content, again["Content-Type"]) == (409, first.content, first["Content-Type"])
    assert again[REPLAYED] == "true"


def test_patch_has_it_too(operator, migration):
    row = migration()

    def tune(priority):
        body = {"priority": priority}
        headers = {"Idempotency-Key": "k-1"}
        return operator.patch(url(row, "tuning"), body, content_type="application/json", headers=headers)

    first, again = tune(5), tune(5)
    assert (first.status_code, again.content, again[REPLAYED]) == (200, first.content, "true")
    assert row.events.filter(kind="tuned").count() == 1
    assert_problem(tune(6), 422, "idempotency_key_reused")


def test_what_only_reads_takes_no_notice_of_it(operator, migration):
    row = migration()
    for _ in range(2):
        response = operator.get(f"/api/async-migrations/{row.pk}", headers={"Idempotency-Key": "k-1"})
        assert (response.status_code, REPLAYED in response) == (200, False)
    assert not AsyncMigrationKey.objects.exists()


def test_a_method_that_is_not_allowed_is_said_so_whatever_the_key(operator, migration):
    row = migration()
    headers = {"Idempotency-Key": "k-1"}
    assert_problem(operator.put(url(row), headers=headers), 405, "method_not_allowed")
    assert post(operator, row, "k-1").status_code == 202
    assert_problem(operator.put(url(row), headers=headers), 405, "method_not_allowed")


def test_another_request_with_the_same_key_is_refused(operator, migration):
    row, other = migration(), migration()
    assert post(operator, row, "k-1", "{}").status_code == 202
    events = other.events.count()
    for refused in (
        post(operator, row, "k-1", '{"priority": 1}'),
        post(operator, row, "k-1", "{} "),
        post(operator, row, "k-1", "{}", verb="cancel"),
        post(operator, other, "k-1", "{}"),
        post(operator, row, "k-1", "{}", **{"If-Match": "*"}),
        operator.generic("POST", url(row), "{}", "text/plain", headers={"Idempotency-Key": "k-1"}),
    ):
        assert_problem(refused, 422, "idempotency_key_reused")
        assert REPLAYED not in refused
    assert other.events.count() == events
    assert lifecycle.get(row.pk).status == Status.STARTED


def test_another_user_has_keys_of_their_own(client_of, migration):
    first, second = migration(), migration()
    assert post(client_of("operator"), first, "k-1").status_code == 202
    answer = post(client_of("operator"), second, "k-1")
    assert (answer.status_code, REPLAYED in answer) == (202, False)
    assert lifecycle.get(second.pk).status == Status.STARTED


def test_who_lost_the_permission_gets_no_answer_again(operator, migration, django_user_model):
    row = migration()
    assert post(operator, row, "k-1").status_code == 202
    django_user_model.objects.get(username="operator-1").groups.clear()
    assert_problem(post(operator, row, "k-1"), 403, "permission_denied")


@pytest.mark.parametrize("key", ["", "k" * 256, "größe", "line\nbreak", "tab\t", "\x7f", "\x00"])
def test_what_is_no_key_is_refused(operator, migration, key):
    row = migration()
    problem = assert_problem(post(operator, row, key), 400, "validation_error")
    assert list(problem["errors"]) == ["Idempotency-Key"]
    assert lifecycle.get(row.pk).status == Status.SCHEDULED


@pytest.mark.parametrize("key", ["k", "k" * 255, '"8e03978e-40d5-43e8-bc93-6894a57f9324"', "a b: {}"])
def test_every_printable_text_is_a_key(operator, migration, key):
    row = migration()
    assert post(operator, row, key).status_code == 202
    assert post(operator, row, key)[REPLAYED] == "true"


def test_while_the_first_is_in_progress_the_second_is_told_so(operator, migration, monkeypatch):
    row = migration()
    seen = []

    def asking_meanwhile(*args, **kwargs):
        seen.append(post(operator, row, "k-1"))
        return asking.ask(*args, **kwargs)

    monkeypatch.setattr("async_migrations.rest.views.ask", asking_meanwhile)
    assert post(operator, row, "k-1").status_code == 202
    problem = seen.pop()
    assert_problem(problem, 409, "idempotency_key_in_use")
    assert int(problem["Retry-After"]) > 0
    assert post(operator, row, "k-1")[REPLAYED] == "true"


def test_a_failure_of_the_server_gives_the_key_back(operator, migration, monkeypatch):
    row = migration()

    def fail(*args, **kwargs):
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr("async_migrations.rest.views.ask", fail)
        assert_problem(post(operator, row, "k-1"), 500, "internal_error")
    answer = post(operator, row, "k-1")
    assert (answer.status_code, REPLAYED in answer) == (202, False)


def test_a_process_that_died_keeps_nobody_out_for_long(operator, migration):
    row = migration()
    assert post(operator, row, "k-1").status_code == 202
    # As the row is between the reservation and the answer.
    AsyncMigrationKey.objects.update(answer=None, expires_at=Now() + timedelta(seconds=60))
    for passed, pause in ((0, {"1", "2"}), (20, {"5"}), (37, {"1", "2", "3"})):  # longer, but not beyond its end
        later(seconds=passed)
        refused = post(operator, row, "k-1")
        assert_problem(refused, 409, "idempotency_key_in_use")
        assert refused["Retry-After"] in pause

    later(seconds=4)

    answer = post(operator, row, "k-1")
    assert (answer.status_code, REPLAYED in answer) == (202, False)
    assert row.events.filter(kind="run").count() == 1, "asking twice changes nothing"
    assert post(operator, row, "k-1")[REPLAYED] == "true"


def test_who_answers_late_does_not_overwrite_who_took_over(operator, migration, monkeypatch):
    row = migration()
    answers = []

    def overtaken(*args, **kwargs):
        monkeypatch.undo()
        later(seconds=61)
        answers.append(post(operator, row, "k-1", "{}", **{"X-Request-ID": "second"}))
        lifecycle.cancel(row.pk, ORIGIN)
        return asking.ask(*args, **kwargs)

    monkeypatch.setattr("async_migrations.rest.views.ask", overtaken)
    first = post(operator, row, "k-1", "{}")
    (second,) = answers
    again = post(operator, row, "k-1", "{}")
    assert again.content == second.content != first.content


def test_after_a_day_the_key_is_forgotten(operator, migration):
    row = migration()
    post(operator, row, "k-1")
    later(hours=23, minutes=59)
    assert post(operator, row, "k-1")[REPLAYED] == "true"
    later(minutes=1)
    answer = post(operator, row, "k-1", '{"priority": 1}')
    assert (answer.status_code, REPLAYED in answer) == (202, False)


def test_what_has_expired_is_removed_on_the_way(operator, migration):
    row = migration()
    for number in range(12):
        post(operator, row, f"old-{number}")
    later(hours=25)
    post(operator, row, "new-1")
    assert AsyncMigrationKey.objects.count() == 3
    post(operator, row, "new-2")
    assert set(AsyncMigrationKey.objects.values_list("key", flat=True)) == {"new-1", "new-2"}


def test_neither_the_token_nor_the_body_is_kept(operator, migration):
    assert post(operator, migration(), "k-1", '{"priority": "s3cret"}').status_code == 400
    kept = repr(AsyncMigrationKey.objects.values().get())
    assert "s3cret" not in kept
    assert operator.defaults["HTTP_AUTHORIZATION"].split()[1] not in kept


def test_atomic_requests_of_the_project_do_not_hide_a_reservation():
    assert RunDoor.as_view()._non_atomic_requests == set(connections)


# --- at once, over HTTP ---


def scheduled():
    row = lifecycle.take_over(Request("schedule", f"app.migrations.{uuid.uuid4()}", "default", "SELECT 1", "SELECT 2"))
    assert row is not None
    return row


def test_200_at_once_act_once(api, control):
    client, row = api("operator"), scheduled()

    def ask(number):
        answer = client.post(url(row), headers={"Idempotency-Key": "k-1"}, json={"priority": 7})
        return answer.status_code, answer.headers.get(REPLAYED), answer.text

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(ask, range(200)))

    assert {status for status, _, _ in answers} <= {202, 409}
    (acted,) = [text for status, replayed, text in answers if status == 202 and replayed is None]
    assert {text for status, replayed, text in answers if replayed} <= {acted}
    assert all('"idempotency_key_in_use"' in text for status, _, text in answers if status == 409)
    assert row.events.filter(kind="run").count() == 1
    assert ask(0) == (202, "true", acted)


def nobody_renews():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("reservation-")]


def test_who_is_still_at_work_is_not_overtaken(control, token, monkeypatch):
    """
    Given a request that waits for the row for longer than a reservation counts
    When the same request is sent again
    Then it hears that the first is not answered yet, and afterwards what the first was answered
    """
    monkeypatch.setattr(idempotency, "_RENEWED_EVERY", 0.05)
    row, client = scheduled(), Client(headers={"Authorization": f"Bearer {token()}"})
    at_work = AsyncMigrationKey.objects.filter(answer__isnull=True, expires_at__gt=Now())

    def ask():
        try:
            return post(client, row, "k-1")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as threads:
        with held(f"SELECT FROM {row._meta.db_table} WHERE id = {row.pk} FOR UPDATE"):
            first = threads.submit(ask)
            eventually(at_work.exists, what="the key is reserved")
            AsyncMigrationKey.objects.update(expires_at=Now() - timedelta(seconds=1))
            eventually(at_work.exists, what="the reservation is renewed")
            assert_problem(post(client, row, "k-1"), 409, "idempotency_key_in_use")
        answer = first.result()
    again = post(client, row, "k-1")
    assert (answer.status_code, again[REPLAYED], again.content) == (202, "true", answer.content)
    eventually(nobody_renews, what="nobody renews it any more")


def test_a_killed_web_server_leaves_nothing_that_lasts(api, start_api, token, control):
    """
    Given a request that waits for the row, which another session has locked, behind its reservation
    When the web server is killed
    Then the key is in use until the reservation has run out, and works after that
    """
    row, web, credentials = scheduled(), start_api(), {"Authorization": f"Bearer {token()}", "Idempotency-Key": "k-1"}

    def send(at):
        return httpx.post(at.rstrip("/") + url(row), headers=credentials, timeout=60)

    shared = str(api(None).base_url)
    with ThreadPoolExecutor(1) as threads:
        with held(f"SELECT FROM {row._meta.db_table} WHERE id = {row.pk} FOR UPDATE"):
            lost = threads.submit(send, web.url)
            eventually(
                lambda: AsyncMigrationKey.objects.filter(answer__isnull=True).exists(), what="the key is reserved"
            )
            web.kill()
            assert isinstance(lost.exception(), httpx.HTTPError)
            assert send(shared).json()["code"] == "idempotency_key_in_use"
        later(seconds=61)
        answer = send(shared)
    assert (answer.status_code, REPLAYED in answer.headers) == (202, False)
    assert row.events.filter(kind="run").count() == 1
