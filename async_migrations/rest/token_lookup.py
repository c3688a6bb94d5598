"""The token that a request comes with, its scope, its user and what that may do: in one query, whose SQL is made once.

Every request begins with it. Left to Django it would be three queries, made anew each time: half of what a poll costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.contrib.postgres.expressions import ArraySubquery
from django.db import connections, router
from django.db.models import OuterRef, Value
from django.db.models.functions import Concat
from knox.crypto import hash_token
from knox.models import get_token_model
from knox.settings import CONSTANTS

from .scopes import with_scope

_KEY = "the key of the token"  # stands in the parameters for the one that a request has

_names: dict[str, dict[int, str]] = {}  # of the permissions, by their ids, for each database


@dataclass(frozen=True)
class _Lookup:
    """The query by the key of a token.

    token, user: the fields that it reads of both, in order. permissions: it reads those of the user and of the groups.
    """

    sql: str
    parameters: tuple[Any, ...]
    token: list[str]
    user: list[str]
    permissions: bool


def find(token: str) -> Any:
    """Return the knox token with this text, its user at hand; None where nobody has it."""
    digest = hash_token(token)
    candidates = _candidates(token[: CONSTANTS.TOKEN_KEY_LENGTH])
    return next((found for found in candidates if compare_digest(digest, found.digest)), None)


def _candidates(key: str) -> Iterator[Any]:
    using = router.db_for_read(get_token_model())
    lookup = _lookup(using)
    with connections[using].cursor() as cursor:
        cursor.execute(lookup.sql, [key if given == _KEY else given for given in lookup.parameters])
        found = cursor.fetchall()
    for values in found:
        scope, *of_token = values[: len(lookup.token) + 1]
        rest = values[len(lookup.token) + 1 :]
        token = get_token_model().from_db(using, lookup.token, of_token)
        token.api_scope = json.loads(scope) if scope else None
        token.user = get_user_model().from_db(using, lookup.user, rest[: len(lookup.user)])
        if lookup.permissions and not token.user.is_superuser:
            # Where django.contrib.auth keeps what it has read itself. Other names, and it would only read once more.
            token.user._user_perm_cache, token.user._group_perm_cache = (
                _named(using, ids) for ids in rest[len(lookup.user) :]
            )
        yield token


@cache
def _lookup(using: str) -> _Lookup:
    user: Any = get_user_model()
    of_token = [field.attname for field in get_token_model()._meta.concrete_fields]
    wanted = {user._meta.pk.name, user.USERNAME_FIELD, "is_active", "is_superuser"}
    of_user = [field.attname for field in user._meta.concrete_fields if field.name in wanted]
    # Another backend may see it differently, and another database has no arrays: there it is asked each time.
    permissions = (
        settings.AUTHENTICATION_BACKENDS == ["django.contrib.auth.backends.ModelBackend"]
        and issubclass(user, PermissionsMixin)
        and connections[using].vendor == "postgresql"
    )
    found = with_scope(get_token_model().objects.using(using).filter(token_key=_KEY).order_by())
    columns = ["api_scope", *of_token, *(f"user__{name}" for name in of_user)]
    if permissions:
        arrays = _permissions(user)
        found, columns = found.annotate(**arrays), [*columns, *arrays]
    sql, parameters = found.values_list(*columns).query.get_compiler(using).as_sql()
    return _Lookup(sql, parameters, of_token, of_user, permissions)


def _permissions(user: Any) -> dict[str, ArraySubquery]:
    """Return where the ids of the permissions are: those of the user, and those of the groups.

    Their names would be four more tables to join, and to plan that takes PostgreSQL longer than all the rest.
    """
    of_users, of_groups = user.user_permissions.through.objects, Group.permissions.through.objects
    groups = user.groups.through.objects.filter(user=OuterRef(OuterRef("user_id"))).values("group_id")
    return {
        "of_user": ArraySubquery(of_users.filter(user=OuterRef("user_id")).values("permission_id")),
        "of_groups": ArraySubquery(of_groups.filter(group_id__in=groups).values("permission_id")),
    }


def _named(using: str, ids: Iterable[int]) -> set[str]:
    """Return permissions as `user.has_perm` is asked for them. What an id means is never changed: it is read once."""
    known = _names.setdefault(using, {})
    if not known.keys() >= set(ids):
        name = Concat("content_type__app_label", Value("."), "codename")
        known.update(Permission.objects.using(using).order_by().values_list("pk", name))
    return {known[pk] for pk in ids if pk in known}
