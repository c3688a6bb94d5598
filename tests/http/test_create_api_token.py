"""manage.py create_api_token NAME --role viewer|operator --expires 90d"""

from datetime import timedelta
from io import StringIO

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from knox.models import AuthToken

pytestmark = pytest.mark.django_db


def create(*arguments, **options):
    out, err = StringIO(), StringIO()
    call_command("create_api_token", *arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def test_it_works(django_user_model, client):
    out, err = create("ci", "--role", "operator")

    token = out.removesuffix("\n")
    assert token.split() == [token]
    assert token not in err
    user = django_user_model.objects.get(username="ci")
    assert (user.has_usable_password(), user.is_staff, user.is_superuser) == (False, False, False)
    assert [group.name for group in user.groups.all()] == ["async_migrations operators"]
    assert client.get("/api/async-migrations", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_the_token_is_not_stored():
    token = create("ci", "--role", "viewer")[0].strip()
    stored = AuthToken.objects.get()
    assert token not in (stored.digest, stored.token_key)


@pytest.mark.parametrize(
    ("expires", "lifetime"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("45m", timedelta(minutes=45)),
     ("2w", timedelta(weeks=2)), ("3650d", timedelta(days=3650)), ("12H", timedelta(hours=12))],
)  # fmt: skip
def test_it_expires_when_told(expires, lifetime):
    create("ci", "--role", "viewer", "--expires", expires)
    assert abs(AuthToken.objects.get().expiry - timezone.now() - lifetime) < timedelta(minutes=1)


def test_it_expires_after_90_days_unless_told():
    create("ci", "--role", "viewer")
    assert abs(AuthToken.objects.get().expiry - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)


def test_it_may_never_expire():
    create("ci", "--role", "viewer", "--expires", "never")
    assert AuthToken.objects.get().expiry is None


@pytest.mark.parametrize(
    "expires", ["", "0d", "-1d", "30", "d", "1y", "1.5h", "forever", "999999d", "99999999999999d", "٣d", "1d 2h"]
)
def test_nonsense_is_refused_in_one_line(expires):
    with pytest.raises(CommandError) as refused:
        create("ci", "--role", "viewer", f"--expires={expires}")
    assert "30d" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not AuthToken.objects.exists()


def test_an_unknown_role_is_refused():
    with pytest.raises(CommandError, match="--role"):
        create("ci", "--role", "admin")


@pytest.mark.parametrize("name", ["", "two words", "x" * 151, "a\0b"])
def test_a_name_that_cannot_be_is_refused(name, django_user_model):
    with pytest.raises(CommandError):
        create(name, "--role", "viewer")
    assert not django_user_model.objects.exists()


def test_a_second_token_changes_the_role(django_user_model):
    create("ci", "--role", "operator")
    _, err = create("ci", "--role", "viewer")
    assert [group.name for group in django_user_model.objects.get().groups.all()] == ["async_migrations viewers"]
    assert "older tokens stay valid" in err
    assert AuthToken.objects.count() == 2


def test_a_persons_account_is_left_alone(django_user_model):
    django_user_model.objects.create_user("alice", password="secret")
    with pytest.raises(CommandError, match="person"):
        create("alice", "--role", "operator")
    assert django_user_model.objects.get().has_usable_password()


def test_knox_is_not_installed(monkeypatch):
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "knox")
    with pytest.raises(CommandError, match="INSTALLED_APPS"):
        create("ci", "--role", "viewer")


def test_the_tables_are_missing(django_user_model):
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE knox_authtoken")
    with pytest.raises(CommandError, match="migrate"):
        create("ci", "--role", "viewer")
    assert not django_user_model.objects.exists()


def test_the_group_is_missing():
    Group.objects.all().delete()
    with pytest.raises(CommandError, match="migrate"):
        create("ci", "--role", "viewer")
