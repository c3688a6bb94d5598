"""The token that a request comes with, its scope, its user and what that may do: in one query, whose SQL is made once.

Every request begins with it. Left to Django it would be three queries, made anew each time: half of what a poll costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hmac import compare_digest
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections, router
from knox.crypto import hash_token
from knox.models import get_token_model
from knox.settings import CONSTANTS

from . import granted
from .scopes import with_scope

_KEY = "the key of the token"  # stands in the parameters for the one that a request has


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
        if lookup.permissions:
            granted.keep(token.user, rest[len(lookup.user) :])
        yield token


@cache
def _lookup(using: str) -> _Lookup:
    user: Any = get_user_model()
    of_token = [field.attname for field in get_token_model()._meta.concrete_fields]
    wanted = {user._meta.pk.name, user.USERNAME_FIELD, "is_active", "is_superuser"}
    of_user = [field.attname for field in user._meta.concrete_fields if field.name in wanted]
    permissions = granted.in_one_query(using)
    also = granted.arrays("user_id") if permissions else {}
    found = with_scope(get_token_model().objects.using(using).filter(token_key=_KEY).order_by())
    columns = ["api_scope", *of_token, *(f"user__{name}" for name in of_user), *also]
    sql, parameters = found.annotate(**also).values_list(*columns).query.get_compiler(using).as_sql()
    return _Lookup(sql, parameters, of_token, of_user, permissions)
