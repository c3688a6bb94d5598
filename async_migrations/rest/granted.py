"""What a user may do, by one query whose SQL is made once: Django makes two, anew for each request."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, PermissionsMixin
from django.contrib.postgres.expressions import ArraySubquery
from django.db import connections, router
from django.db.models import OuterRef, Value
from django.db.models.functions import Concat

_NAME = "the name of the user"  # stands in the parameters for the one that is asked for


def in_one_query(using: str) -> bool:
    """Whether it is all that counts: another backend may see it differently, and another database has no arrays."""
    return (
        settings.AUTHENTICATION_BACKENDS == ["django.contrib.auth.backends.ModelBackend"]
        and issubclass(get_user_model(), PermissionsMixin)
        and connections[using].vendor == "postgresql"
    )


def arrays(user: str) -> dict[str, ArraySubquery]:
    """Return what a user may do by itself and by its groups, for a query in which `user` names its id."""
    return {"of_user": _named(user=OuterRef(user)), "of_groups": _named(group__user=OuterRef(user))}


def keep(user: Any, found: Iterable[Iterable[str]]) -> None:
    """Have a user know what was found, where `has_perm` looks first."""
    if not user.is_superuser:
        # Where django.contrib.auth keeps what it has read itself. Other names, and it would only read once more.
        user._user_perm_cache, user._group_perm_cache = map(set, found)


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


def _named(**of: Any) -> ArraySubquery:
    """Return the permissions, as `user.has_perm` is asked for them."""
    found = Permission.objects.filter(**of).order_by()
    return ArraySubquery(found.values_list(Concat("content_type__app_label", Value("."), "codename")))
