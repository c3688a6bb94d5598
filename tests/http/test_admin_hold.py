"""The hold in the admin: set with a reason and an end, lifted with an action, by those who may."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationAudit

pytestmark = pytest.mark.django_db(databases=["default", "second"])

LIST = reverse("admin:async_migrations_asyncmigrationhold_changelist")
ADD = reverse("admin:async_migrations_asyncmigrationhold_add")


@pytest.fixture
def browser():
    def make(*verbs):
        user = User.objects.create_user(f"user-{'-'.join(verbs)}", is_staff=True)
        names = [f"{verb}_asyncmigrationstatus" for verb in ("view", *verbs)]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    return make


def put(client, database="", reason="Black Friday", until=None):
    when = {"expires_at_0": f"{until:%Y-%m-%d}", "expires_at_1": f"{until:%H:%M:%S}"} if until else {}
    return client.post(ADD, {"database": database, "reason": reason, **when})


def lift(client, *holds):
    data = {"action": "lift_selected", "_selected_action": [hold.pk for hold in holds], "index": "0"}
    return [str(message) for message in get_messages(client.post(LIST, data).wsgi_request)]


def asked():
    return list(AsyncMigrationAudit.objects.values_list("by", "channel", "action", "database", "outcome", "code"))


def test_it_works(browser):
    client = browser("hold")
    until = timezone.now().replace(microsecond=0) + timedelta(hours=1)
    assert put(client, "second", until=until).status_code == 302
    (hold,) = lifecycle.holds_in_force()
    assert (hold.database, hold.reason, hold.by, hold.expires_at) == ("second", "Black Friday", "user-hold", until)
    assert "Black Friday" in client.get(LIST).content.decode()
    page = reverse("admin:async_migrations_asyncmigrationhold_change", args=[hold.pk])
    assert "Black Friday" in client.get(page).content.decode()
    assert client.post(page, {"reason": "mine"}).status_code == 403
    assert lift(client, hold) == ["Lifted: second. What was held goes on."]
    assert lift(client, hold)[-1:] == ["Nothing to do: none of these is in force any more."]
    assert lifecycle.held("second") is None
    who = ("user-hold", "admin")
    assert asked() == [(*who, "hold", "second", "accepted", ""), (*who, "lift", "second", "accepted", "")]


def test_one_that_is_in_force_is_replaced(browser):
    lifecycle.set_hold("", "vacuum", Origin("bob"))
    put(browser("hold"), reason="an incident")
    assert [hold.reason for hold in lifecycle.holds_in_force()] == ["an incident"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reason": " "}, "This field is required"),
        ({"database": "nowhere"}, "Select a valid choice"),
        ({"until": timezone.now() - timedelta(days=1)}, "This time is over"),
    ],
)
def test_nonsense_is_refused(browser, wrong, said):
    page = put(browser("hold"), **wrong)
    assert (page.status_code, said in page.content.decode()) == (200, True)
    assert not lifecycle.holds().exists()


def test_who_may_look_at_migrations_sees_it_and_changes_nothing(browser):
    hold = lifecycle.set_hold("", "vacuum", Origin("bob"))
    client = browser("run")
    assert "vacuum" in client.get(LIST).content.decode()
    assert put(client).status_code == 403
    lift(client, hold)
    assert [each.reason for each in lifecycle.holds_in_force()] == ["vacuum"]
    who = ("user-run", "admin")
    refused = ("", "refused", "permission_denied")
    assert asked()[1:] == [(*who, "hold", *refused), (*who, "lift", *refused)]
