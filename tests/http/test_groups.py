"""The data migration with the two groups."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection, connections

migration = import_module("async_migrations.migrations.0002_groups")

pytestmark = pytest.mark.django_db

VIEWER = {"view_asyncmigrationstatus", "view_asyncmigrationevent"}
OPERATOR = VIEWER | {f"{verb}_asyncmigrationstatus" for verb in ("run", "cancel", "rollback", "tune", "hold")}


def codenames(group):
    return set(Group.objects.get(name=group).permissions.values_list("codename", flat=True))


def editor(alias="default"):
    return SimpleNamespace(connection=connections[alias])


def test_it_works():
    assert codenames("async_migrations viewers") == VIEWER
    assert codenames("async_migrations operators") == OPERATOR


def test_the_permissions_are_the_ones_that_django_makes():
    before = set(Permission.objects.values_list("content_type__model", "codename", "name"))
    Permission.objects.all().delete()
    call_command("migrate", verbosity=0)  # post_migrate makes what is missing
    assert before == set(Permission.objects.values_list("content_type__model", "codename", "name"))


def test_it_can_be_applied_before_there_are_permissions_and_twice():
    Group.objects.all().delete()
    Permission.objects.all().delete()
    ContentType.objects.all().delete()
    ContentType.objects.clear_cache()
    for _ in range(2):
        migration.make_groups(apps, editor())
    assert codenames("async_migrations operators") == OPERATOR


def test_it_can_be_taken_back():
    migration.remove_groups(apps, editor())
    assert not Group.objects.filter(name__startswith="async_migrations").exists()


def test_other_groups_stay():
    Group.objects.create(name="editors")
    migration.remove_groups(apps, editor())
    assert Group.objects.get().name == "editors"


@pytest.mark.django_db(databases=["default", "second"])
def test_it_goes_where_migrate_goes():
    Group.objects.using("default").all().delete()
    Group.objects.using("second").all().delete()
    migration.make_groups(apps, editor("second"))
    assert Group.objects.using("second").count() == 2
    assert not Group.objects.using("default").exists()


class KeepUsersOut:
    def allow_migrate(self, db, app_label, **hints):
        return False if app_label == "auth" else None


def test_it_is_harmless_where_a_router_keeps_users_out(settings):
    Group.objects.all().delete()
    settings.DATABASE_ROUTERS = [KeepUsersOut()]
    migration.make_groups(apps, editor())
    migration.remove_groups(apps, editor())
    assert not Group.objects.exists()


def test_it_is_harmless_where_the_tables_of_users_are_missing():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE auth_group RENAME TO elsewhere")
    migration.make_groups(apps, editor())
    migration.remove_groups(apps, editor())
