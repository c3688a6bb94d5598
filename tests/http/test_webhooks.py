"""Webhooks, sent by this process over real connections: what arrives, what is tried again, what is refused."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.models.functions import Now

from async_migrations import lifecycle
from async_migrations.errors import WebhookRefused
from async_migrations.models import AsyncMigrationAudit, AsyncMigrationDelivery
from async_migrations.states import Status
from async_migrations.webhooks import couriers, deliveries, endpoints
from tests.conftest import eventually, free_port
from tests.db.conftest import query
from tests.http.conftest import ORIGIN, begin
from tests.receiver import Receiver, answering, receiving
from tests.test_docs import ROOT, block

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nearby")]


def call(*arguments: object) -> str:
    out = io.StringIO()
    call_command("async_migrations", "webhooks", *map(str, arguments), stdout=out)
    return out.getvalue()


def hook(receiver: Receiver, name: str = "ours", **options: Any):
    return endpoints.add(name, receiver.url, "somebody", **options)


def log() -> list[AsyncMigrationDelivery]:
    return list(deliveries.complete().order_by("pk"))


def send() -> None:
    for webhook in deliveries.due():
        couriers.send_all(webhook)


def test_it_works(migration, receiver):
    secret = call("add", "ours", receiver.url).splitlines()[-1]
    row = migration(Status.FINISHED, sql_forwards="SELECT 1 /* a statement of ours */")
    call("send")
    (message,) = receiver.messages
    assert message.is_signed_with(secret)
    assert not message.is_signed_with("whsec_AAAA")
    documented: dict[str, Any] = {}
    exec(block("verify", ROOT / "docs" / "notifications.md"), documented)  # noqa: S102 - ours
    assert documented["verify"](secret, message.headers, message.body)
    assert not documented["verify"](secret, message.headers, message.body + b" ")
    assert abs(int(message.headers["webhook-timestamp"]) - time.time()) < 60
    assert json.loads(message.body)["type"] == "migration.succeed"
    assert message.data["event"]["to_status"] == "FINISHED"
    assert (message.data["migration"]["id"], message.data["migration"]["status"]) == (row.pk, "FINISHED")
    assert b"a statement of ours" not in message.body
    (delivery,) = log()
    assert (delivery.status, delivery.answer, delivery.header) == ("delivered", 204, message.id)
    assert call("secret", "ours").strip() == secret


def test_a_body_holds_no_sql_of_the_events_either(migration, receiver):
    hook(receiver, events=["statement_done"])
    lease = begin(migration(Status.STARTED).pk)
    lifecycle.note(
        lease, "statement_done", sql="SELECT 1", proof="transaction", others=[{"pid": 7, "query": "SELECT 2"}]
    )
    send()
    assert receiver.messages[0].data["event"]["detail"] == {"proof": "transaction", "others": [{"pid": 7}]}


def test_only_what_is_wanted_is_sent(migration, receiver):
    hook(receiver, "ends")
    hook(receiver, "runs", events=["run"])
    hook(receiver, "errors", events=["ERROR"])
    hook(receiver, "second", databases=["second"])
    off = hook(receiver, "off")
    endpoints.set_active(off, False)
    pk = migration().pk
    lifecycle.run(pk, ORIGIN)
    lifecycle.pause(pk, ORIGIN)
    lifecycle.resume(pk, ORIGIN)
    lifecycle.cancel(pk, ORIGIN)
    assert [(each.webhook.name, each.event and each.event.kind) for each in log()] == [
        ("runs", "run"),
        ("ends", "pause"),
        ("ends", "cancel"),
    ]


def test_what_is_rolled_back_is_not_sent(migration, receiver):
    hook(receiver)
    pk = migration().pk
    with transaction.atomic():
        lifecycle.cancel(pk, ORIGIN)
        assert len(log()) == 1
        transaction.set_rollback(True)
    send()
    assert (log(), receiver.messages) == ([], [])


def test_a_move_is_one_statement_with_and_without_webhooks(migration, receiver, django_assert_num_queries):
    row = lifecycle.get(migration().pk)
    with django_assert_num_queries(2):  # One looks.
        lifecycle.run(row.pk, ORIGIN)
    hook(receiver, events=["pause"])
    with django_assert_num_queries(3):  # One looks before, one after.
        lifecycle.pause(row.pk, ORIGIN)
    assert len(log()) == 1


def test_what_fails_is_sent_again_with_the_same_id_and_body(migration, receiver):
    hook(receiver)
    receiver.answers = [500, answering(302, Location="/elsewhere")]
    lifecycle.cancel(migration().pk, ORIGIN)
    send()
    assert len(receiver.messages) == 3
    assert len(set(receiver.ids)) == 1
    assert len({message.body for message in receiver.messages}) == 1
    assert (log()[0].status, log()[0].attempts) == ("delivered", 3)
    assert endpoints.webhooks().get().state == "ok"


def test_what_never_arrives_is_given_up_shown_as_failing_and_can_be_sent_again(migration):
    port = free_port()
    webhook = endpoints.add("ours", f"http://127.0.0.1:{port}/", "somebody")
    lifecycle.cancel(migration().pk, ORIGIN)
    send()
    (delivery,) = log()
    assert (delivery.status, delivery.attempts, delivery.answer) == ("failed", 3, None)
    assert "refused" in delivery.error
    (line,) = json.loads(call("list", "--json"))
    assert (line["state"], "refused" in line["problem"]) == ("failing", True)
    with receiving(port) as receiver:
        call("resend", delivery.pk)
        send()
    assert receiver.ids == [delivery.header]
    assert log()[0].status == "delivered"
    webhook.refresh_from_db()
    assert (webhook.state, webhook.problem) == ("ok", "")


def test_the_back_off_lasts_about_a_day_and_is_not_the_same_for_all(settings):
    for name in ("BACKOFF_SECONDS", "MAX_ATTEMPTS"):
        delattr(settings, f"ASYNC_MIGRATIONS_WEBHOOK_{name}")
    hours = sum(deliveries._backoff(attempts) for attempts in range(1, 12)) / 3600
    assert 17 < hours < 28
    assert len({deliveries._backoff(3) for _ in range(10)}) > 1
    assert deliveries._backoff(1000) < 8 * 3600


def test_410_switches_the_webhook_off(migration, receiver):
    hook(receiver)
    receiver.answers = [410]
    for number in range(3):
        lifecycle.cancel(migration(name=f"m{number}").pk, ORIGIN)
    send()
    assert len(receiver.messages) == 1
    assert [each.status for each in log()] == ["failed"] * 3
    assert json.loads(call("list", "--json"))[0]["state"] == "off"
    lifecycle.cancel(migration(name="later").pk, ORIGIN)
    assert len(log()) == 3
    with pytest.raises(CommandError, match="switched off"):
        call("resend", log()[0].pk)


def test_a_redirect_is_followed_only_where_a_setting_allows_it(migration, receiver, settings):
    settings.ASYNC_MIGRATIONS_WEBHOOK_MAX_ATTEMPTS = 1
    hook(receiver)
    lifecycle.cancel(migration().pk, ORIGIN)
    receiver.answers = [answering(307, Location="/elsewhere")]
    send()
    assert [message.path for message in receiver.messages] == ["/hook"]
    assert (log()[0].status, log()[0].answer) == ("failed", 307)
    settings.ASYNC_MIGRATIONS_WEBHOOK_REDIRECTS = True
    receiver.answers = [answering(307, Location="/elsewhere?from=http://here")]
    call("resend", log()[0].pk)
    send()
    assert [message.path for message in receiver.messages[1:]] == ["/hook", "/elsewhere?from=http://here"]


def test_a_receiver_that_drips_is_left_when_the_time_is_up(receiver, settings):
    settings.ASYNC_MIGRATIONS_WEBHOOK_TIMEOUT_SECONDS = 0.5
    left = threading.Event()

    def drip(handler: Any) -> None:
        while not left.wait(0.02):
            handler.wfile.write(b"X")

    receiver.answers = [drip]
    delivery = couriers.send_test(hook(receiver))
    left.set()
    assert (delivery.status, delivery.error) == ("failed", "no answer within 0.5 s")


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_a_slow_receiver_holds_up_nobody_else(migration, receiver):
    go_on = threading.Event()
    with receiving() as slow:
        slow.answers = [lambda handler: [go_on.wait(), answering(204)(handler)][-1]]
        hook(slow, "slow")
        hook(receiver, "quick")
        lifecycle.cancel(migration().pk, ORIGIN)
        crew = couriers.Couriers(lambda: False)
        crew.send_out()
        eventually(lambda: receiver.messages and slow.messages)
        lifecycle.cancel(migration(name="next").pk, ORIGIN)
        crew.send_out()
        eventually(lambda: len(receiver.messages) == 2)
        assert len(slow.messages) == 1
        go_on.set()
        eventually(lambda: {each.status for each in log()} == {"delivered"} and not crew._threads)


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_everybody_has_a_turn_where_there_are_more_webhooks_than_couriers(migration, receiver, monkeypatch):
    """
    Given one courier, who is at a webhook that more is due for, and another webhook that waits
    When that delivery is over
    Then the one that waits comes first
    """
    monkeypatch.setattr(couriers, "_MOST_COURIERS", 1)
    go_on = threading.Event()
    with receiving() as slow:
        slow.answers = [lambda handler: [go_on.wait(), answering(204)(handler)][-1]]
        hook(slow, "a", events=["run", "cancel"])
        hook(receiver, "b", events=["cancel"])
        pk = migration().pk
        lifecycle.run(pk, ORIGIN)
        lifecycle.cancel(pk, ORIGIN)
        crew = couriers.Couriers(lambda: False)
        crew.send_out()
        eventually(lambda: slow.messages)
        with monkeypatch.context() as later:
            later.setattr(couriers, "_TURN", -1.0)
            go_on.set()
            eventually(lambda: not crew._threads)
        crew.send_out()
        eventually(lambda: not crew._threads)
        assert (len(slow.messages), len(receiver.messages)) == (1, 1)
        crew.send_out()
        eventually(lambda: {each.status for each in log()} == {"delivered"} and not crew._threads)


def test_nobody_else_takes_what_is_being_sent(migration, receiver):
    webhook = hook(receiver)
    lifecycle.cancel(migration().pk, ORIGIN)
    ours = deliveries.claim(webhook.pk)
    assert ours is not None
    assert (deliveries.claim(webhook.pk), deliveries.due()) == (None, [])
    query("UPDATE async_migrations_asyncmigrationdelivery SET next_attempt_at = now()")  # As if we had been frozen.
    theirs = deliveries.claim(webhook.pk)
    assert theirs is not None
    assert theirs.header == ours.header
    deliveries.failed(ours, 500, "what we say counts no more")
    assert log()[0].error == ""
    assert endpoints.webhooks().get().state == "ok"
    deliveries.delivered(theirs, 204)
    assert log()[0].status == "delivered"


def test_what_arrives_after_the_webhook_was_switched_off_has_arrived(migration, receiver):
    webhook = hook(receiver)
    lifecycle.cancel(migration().pk, ORIGIN)
    delivery = deliveries.claim(webhook.pk)
    assert delivery is not None
    endpoints.set_active(webhook, False)
    assert log()[0].status == "failed"
    deliveries.delivered(delivery, 204)
    assert (log()[0].status, log()[0].error) == ("delivered", "")


def test_who_is_failing_is_sent_to_last(migration, receiver):
    failing, fine = (hook(receiver, name, events=["cancel"]) for name in ("a", "b"))
    endpoints.webhooks().filter(pk=failing.pk).update(failing_since=Now())
    lifecycle.cancel(migration().pk, ORIGIN)
    assert deliveries.due() == [fine.pk, failing.pk]


def test_what_arrives_ends_the_failing_that_began_while_it_was_sent(migration, receiver):
    webhook = hook(receiver)
    for number in range(2):
        lifecycle.cancel(migration(name=f"m{number}").pk, ORIGIN)
    first, second = deliveries.claim(webhook.pk), deliveries.claim(webhook.pk)
    assert first is not None
    assert second is not None
    deliveries.failed(first, 500, "HTTP 500")
    assert endpoints.webhooks().get().state == "failing"
    deliveries.delivered(second, 204)
    assert endpoints.webhooks().get().state == "ok"


def test_the_log_is_kept_for_a_while(migration, receiver, settings):
    hook(receiver)
    for number in range(2):
        lifecycle.cancel(migration(name=f"m{number}").pk, ORIGIN)
    send()
    query("UPDATE async_migrations_asyncmigrationdelivery SET created_at = now() - interval '31 days' WHERE id % 2 = 0")
    deliveries.remove_old()
    assert len(log()) == 1


def test_a_secret_is_tied_to_the_key_of_the_installation(receiver, settings):
    secret = call("add", "ours", receiver.url).splitlines()[-1]
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another"
    assert call("secret", "ours").strip() == secret
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(CommandError, match="made with another SECRET_KEY"):
        call("secret", "ours")
    assert "made with another SECRET_KEY" in couriers.send_test(endpoints.webhooks().get()).error
    assert query("SELECT count(*) FROM async_migrations_asyncmigrationwebhook AS w WHERE w::text LIKE '%whsec%'") == [
        (0,)
    ]


def test_without_httpx_it_is_said_what_is_missing(receiver, monkeypatch):
    webhook = hook(receiver)
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "async_migrations.webhooks.line", raising=False)
    monkeypatch.delattr("async_migrations.webhooks.line", raising=False)
    with pytest.raises(WebhookRefused, match=r"httpx is not installed.*django-async-migrations\[worker\]"):
        couriers.send_test(webhook)


def test_the_command_refuses_and_shows(receiver):
    with pytest.raises(CommandError, match="no event 'finished'"):
        call("add", "ours", receiver.url, "--event", "finished")
    with pytest.raises(CommandError, match="no database 'third'"):
        call("add", "ours", receiver.url, "--database", "third")
    call("add", "ours", receiver.url, "--event", "ERROR", "--database", "second")
    with pytest.raises(CommandError, match="already"):
        call("add", "ours", receiver.url)
    assert "Arrived: HTTP 204." in call("test", "ours")
    receiver.answers = [500]
    with pytest.raises(SystemExit):
        call("test", "ours")
    assert "HTTP 500" in call("deliveries", "ours", "--failed")
    assert len(json.loads(call("deliveries", "--json"))) == 2
    with pytest.raises(CommandError, match="no delivery 4711"):
        call("resend", 4711)
    call("disable", "ours")
    call("enable", "ours")
    call("remove", "ours")
    with pytest.raises(CommandError, match="no webhook 'ours'"):
        call("test", "ours")
    assert (call("list"), log()) == ("No webhooks.\n", [])


def test_what_is_done_to_a_webhook_is_in_the_audit(receiver):
    call("add", "ours", receiver.url)
    for action in ("disable", "enable", "remove"):
        call(action, "ours")
    said = [(entry.action, entry.detail["url"]) for entry in AsyncMigrationAudit.objects.order_by("id")]
    actions = ("add_webhook", "disable_webhook", "enable_webhook", "remove_webhook")
    assert said == [(action, receiver.url) for action in actions]
