"""What a user may do, by one query whose SQL is made once: Django makes two, anew for each request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.contrib.postgres.expressions import ArraySubquery
from django.db import connections, router
from django.db.models import OuterRef, Value
from django.db.models.functions import Concat

_NAME = "the name of the user"  # stands in the parameters for the one that is asked for

_names: dict[str, dict[int, str]] = {}  # of the permissions, by their ids, for each database


def in_one_query(using: str) -> bool:
    """Whether it is all that counts: another backend may see it differently, and another database has no arrays."""
    return (
        settings.AUTHENTICATION_BACKENDS == ["django.contrib.auth.backends.ModelBackend"]
        and issubclass(get_user_model(), PermissionsMixin)
        and connections[using].vendor == "postgresql"
    )


def arrays(user: str) -> dict[str, ArraySubquery]:
    """Return the ids of the permissions of a user and of its groups, for a query in which `user` names its id.

    Their names would be four more tables to join: to plan that takes PostgreSQL longer than all the rest.
    """
    model: Any = get_user_model()
    of_users, of_groups = model.user_permissions.through.objects, Group.permissions.through.objects
    # Django names the column of the user after the project's own model.
    who, member = model.user_permissions.field.m2m_field_name(), model.groups.field.m2m_field_name()
    groups = model.groups.through.objects.filter(**{member: OuterRef(OuterRef(user))}).values("group_id")
    return {
        "of_user": ArraySubquery(of_users.filter(**{who: OuterRef(user)}).values("permission_id")),
        "of_groups": ArraySubquery(of_groups.filter(group_id__in=groups).values("permission_id")),
    }


def keep(user: Any, found: Iterable[Sequence[int]]) -> None:
    """Have a user know what was found, where `has_perm` looks first."""
    if not user.is_superuser:
        # Where django.contrib.auth keeps what it has read itself. Other names, and it would only read once more.
        user._user_perm_cache, user._group_perm_cache = (_named(user._state.db, ids) for ids in found)


def look_up(user: Any) -> None:
    """Have a user who has logged in know what it may do; it is not asked for again as long as this object lives."""
    using = router.db_for_read(get_user_model())
    if not user.is_active or user.is_superuser or not in_one_query(using):
        return
    with connections[using].cursor() as cursor:
        sql, parameters = _lookup(using)
        cursor.execute(sql, [user.get_username() if given == _NAME else given for given in parameters])
        keep(user, cursor.fetchone() or ((), ()))


@cache
def _lookup(using: str) -> tuple[str, tuple[Any, ...]]:
    user: Any = get_user_model()
    found = user._base_manager.using(using).filter(**{user.USERNAME_FIELD: _NAME}).order_by()
    sql, parameters = found.values_list(*arrays("pk").values()).query.get_compiler(using).as_sql()
    return sql, tuple(parameters)


def _named(using: str, ids: Sequence[int]) -> set[str]:
    """Return permissions as `user.has_perm` is asked for them. What an id means never changes: it is read once."""
    known = _names.setdefault(using, {})
    if not known.keys() >= set(ids):
        name = Concat("content_type__app_label", Value("."), "codename")
        known.update(Permission.objects.using(using).order_by().values_list("pk", name))
    return {known[pk] for pk in ids if pk in known}
