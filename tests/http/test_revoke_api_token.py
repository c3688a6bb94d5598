"""manage.py revoke_api_token NAME | --prefix ... | --all, and manage.py list_api_tokens"""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from knox.models import AuthToken

from async_migrations.models import AsyncMigrationTokenScope

from .conftest import assert_problem

URL = "/api/async-migrations"


def told(command, *arguments):
    out = StringIO()
    call_command(command, *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def get(token, client=None):
    return (client or Client()).get(URL, headers={"Authorization": f"Bearer {token}"})


def test_it_works(bearer):
    first, second = bearer("operator", verb=["run"]), bearer("viewer")
    assert get(first).status_code == 200
    assert told("revoke_api_token", "operator-1") == f"Revoked: {first[:8]}...  operator-1  run\n"
    assert_problem(get(first), 401, "invalid_token")
    assert get(second).status_code == 200
    assert not AsyncMigrationTokenScope.objects.exists()


def test_it_counts_from_the_next_request_on_in_every_process(api, shared_api, token):
    kept, gone = api("viewer"), api("viewer")
    assert (kept.get(URL).status_code, gone.get(URL).status_code) == (200, 200)
    told("revoke_api_token", "--prefix", gone.headers["Authorization"].split()[1][:8])
    assert (kept.get(URL).status_code, gone.get(URL).status_code) == (200, 401)


def test_the_whole_of_a_token_that_leaked_will_do(bearer):
    token = bearer("viewer")
    told("revoke_api_token", "--prefix", token)
    assert get(token).status_code == 401


def test_all_of_them(bearer):
    tokens = bearer("viewer"), bearer("operator")
    assert told("revoke_api_token", "--all").count("Revoked") == 2
    assert {get(token).status_code for token in tokens} == {401}
    assert told("revoke_api_token", "--all") == ""


@pytest.mark.django_db
@pytest.mark.parametrize("chosen", [["nobody"], [""], ["--prefix", "00000000"], ["--prefix", "0000"], []])
def test_nothing_to_revoke_is_said(bearer, chosen):
    token = bearer("viewer")
    with pytest.raises(CommandError):
        told("revoke_api_token", *chosen)
    assert get(token).status_code == 200


def test_a_prefix_of_two_revokes_none(bearer):
    bearer("viewer"), bearer("viewer")
    AuthToken.objects.update(token_key="0123456789abcde")
    with pytest.raises(CommandError, match="2 tokens begin with"):
        told("revoke_api_token", "--prefix", "01234567")
    assert AuthToken.objects.count() == 2


def test_the_list_says_whose_until_when_and_for_what(bearer):
    token = bearer("operator", verb=["run", "cancel"], database=["default"])
    bearer("viewer", expires="never")
    lines = told("list_api_tokens").splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("viewer-2  never expires  all that its user may")
    assert lines[1].startswith(f"{token[:8]}...  operator-1  expires ")
    assert lines[1].endswith("  cancel, run on default")
    (only,) = json.loads(told("list_api_tokens", "operator-1", "--json"))
    assert (only["prefix"], only["verbs"], only["databases"]) == (token[:8], ["cancel", "run"], ["default"])
    assert AuthToken.objects.get(user__username="operator-1").digest not in json.dumps(only)


@pytest.mark.parametrize("option", [["--verb", "drop"], ["--database", "nowhere"]])
@pytest.mark.django_db
def test_a_scope_of_what_does_not_exist_is_refused(option):
    with pytest.raises(CommandError, match="there is no such"):
        told("create_api_token", "ci", "--role", "operator", *option)
    assert not AuthToken.objects.exists()


def test_the_admin_lists_them_without_the_digest_and_nothing_else(bearer, client, admin_user):
    token = bearer("operator", verb=["run"])
    known = AuthToken.objects.get()
    client.force_login(admin_user)
    address = reverse("admin:knox_authtoken_changelist")
    page = client.get(address).text
    assert token[:8] in page
    assert "operator-1" in page
    assert known.digest[:16] not in page
    assert known.token_key not in page
    for path in ("add/", f"{known.pk}/change/", f"{known.pk}/delete/", f"{known.pk}/history/"):
        assert client.get(address + path).status_code == 404
    assert client.get(reverse("admin:index")).status_code == 200


def test_a_user_can_still_be_deleted_in_the_admin_with_the_tokens(bearer, client, admin_user):
    token = bearer("operator", verb=["run"])
    client.force_login(admin_user)
    owner = AuthToken.objects.get().user
    client.post(reverse("admin:auth_user_delete", args=[owner.pk]), {"post": "yes"})
    assert get(token).status_code == 401
