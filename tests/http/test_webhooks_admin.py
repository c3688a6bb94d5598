"""Webhooks in the admin: made there, their secret shown to who may, the log read and sent again."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from async_migrations.models import AsyncMigrationDelivery, AsyncMigrationWebhook
from async_migrations.states import Status
from async_migrations.webhooks import deliveries, endpoints

pytestmark = pytest.mark.django_db

WEBHOOKS = reverse("admin:async_migrations_asyncmigrationwebhook_changelist")
ADD = reverse("admin:async_migrations_asyncmigrationwebhook_add")
LOG = reverse("admin:async_migrations_asyncmigrationdelivery_changelist")
URL = "https://93.184.215.14/hook"
HOOK = {"name": "ours", "url": URL, "events": ["ERROR"], "active": "on"}


@pytest.fixture
def browser():
    def make(*verbs: str) -> Client:
        user = User.objects.create_user(f"user-{'-'.join(verbs)}", is_staff=True)
        names = ["view_asyncmigrationdelivery", *(f"{verb}_asyncmigrationwebhook" for verb in ("view", *verbs))]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    return make


def told(response) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]


def assert_only_the_page_says(secret: str, response) -> None:
    """Assert that nothing keeps it: no cookie, no table of sessions and no cache."""
    assert secret in response.text
    assert "no-store" in response["Cache-Control"]
    assert told(response) == []


def test_a_webhook_is_made_and_its_secret_shown(browser):
    response = browser("add").post(ADD, HOOK)
    webhook = AsyncMigrationWebhook.objects.get()
    assert (webhook.name, webhook.events, webhook.databases, webhook.created_by) == ("ours", ["ERROR"], [], "user-add")
    assert_only_the_page_says(endpoints.shown(endpoints.secret_of(webhook)), response)


def test_what_cannot_be_is_refused_in_the_form(browser):
    page = browser("add").post(ADD, {**HOOK, "url": "https://127.0.0.1/"}).content.decode()
    assert "not a public address" in page
    assert not AsyncMigrationWebhook.objects.exists()


def test_the_secret_is_shown_again_only_to_who_may_change(browser):
    webhook = endpoints.add("ours", URL, "somebody")
    secret = endpoints.shown(endpoints.secret_of(webhook))
    asked = {"action": "show_secret", "_selected_action": [webhook.pk]}
    assert_only_the_page_says(secret, browser("change").post(WEBHOOKS, asked))
    assert secret not in browser().post(WEBHOOKS, asked, follow=True).text


def test_the_log_is_read_and_what_was_given_up_is_sent_again_by_who_may(browser, migration):
    webhook = endpoints.add("ours", URL, "somebody")
    row = migration(Status.CANCELLED)
    delivery = deliveries.claim(webhook.pk)
    assert delivery is not None
    deliveries.failed(delivery, 410, "HTTP 410 <b>gone</b>")
    page = browser().get(LOG).content.decode()
    assert re.search(rf"{row.name}.*Given up.*HTTP 410 &lt;b&gt;gone", page, re.DOTALL)
    asked = {"action": "resend_selected", "_selected_action": [delivery.pk]}
    assert any("switched off" in message for message in told(browser("change").post(LOG, asked)))
    endpoints.set_active(webhook, True)
    browser("add").post(LOG, asked)
    assert AsyncMigrationDelivery.objects.get().status == "failed"
    User.objects.get(username="user-change").delete()
    browser("change").post(LOG, asked)
    assert AsyncMigrationDelivery.objects.get().status == "pending"
    assert browser("delete").get(f"{LOG}{delivery.pk}/change/").status_code == 200
    assert browser("add", "delete").get(f"{LOG}add/").status_code == 403


def test_a_webhook_is_removed_with_its_log(browser, migration):
    webhook = endpoints.add("ours", URL, "somebody")
    migration(Status.CANCELLED)
    browser("delete").post(f"{WEBHOOKS}{webhook.pk}/delete/", {"post": "yes"})
    assert not AsyncMigrationWebhook.objects.exists()
    assert not AsyncMigrationDelivery.objects.exists()
