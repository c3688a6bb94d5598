"""Tokens of the API: made, listed and revoked here and nowhere else. A token's text is known to its maker alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.db.models import QuerySet
from knox.models import get_token_model
from knox.settings import CONSTANTS

from ..lifecycle import Origin, audit
from ..models import AsyncMigrationTokenScope
from .scopes import EVERYTHING, Scope, scope_of_token, with_scope

logger = logging.getLogger("async_migrations")

#: Characters of a token that tell it from others, and open nothing.
SHOWN = 8


@dataclass(frozen=True)
class Known:
    """A token as people may see it: without its text and its digest. expires_at: None for never."""

    prefix: str
    user: str
    created_at: datetime
    expires_at: datetime | None
    scope: Scope


def create(user: Any, origin: Origin, *, lifetime: timedelta | None, scope: Scope = EVERYTHING, role: str = "") -> str:
    """Make a token and return its text, which is kept nowhere.

    lifetime: None for one that never expires. role: that the user has, for the audit.
    """
    with transaction.atomic(using=_alias()):
        token, text = get_token_model().objects.db_manager(_alias()).create(user=user, expiry=lifetime)
        if scope != EVERYTHING:
            limits = {"verbs": scope.verbs, "databases": scope.databases}
            said = {name: None if names is None else sorted(names) for name, names in limits.items()}
            AsyncMigrationTokenScope.objects.using(_alias()).create(digest=token.digest, **said)
        audit.enter("create_token", origin, after={**_entered(token), "role": role, "scope": str(scope)})
    _log("token_created", known(token, scope))
    return str(text)


def tokens(*, user: str | None = None, prefix: str = "") -> QuerySet[Any]:
    """Return the tokens, the newest first: of one user, and of those whose text begins so."""
    found = get_token_model().objects.using(_alias()).filter(token_key__startswith=prefix[: CONSTANTS.TOKEN_KEY_LENGTH])
    if user is not None:
        found = found.filter(**{f"user__{get_user_model().USERNAME_FIELD}": user})
    return with_scope(found).select_related("user").order_by("-created")


def known(token: Any, scope: Scope | None = None) -> Known:
    """Return what people may see of a token out of `tokens`."""
    said = scope_of_token(token) if scope is None else scope
    return Known(token.token_key[:SHOWN], token.user.get_username(), token.created, token.expiry, said)


def revoke(chosen: QuerySet[Any], origin: Origin) -> list[Known]:
    """Take tokens out of force, with the next request of whoever has one, and return what they were."""
    with transaction.atomic(using=_alias()):
        found = list(chosen.select_for_update(of=("self",)))
        digests = [token.digest for token in found]
        get_token_model().objects.using(_alias()).filter(digest__in=digests).delete()
        # Behind the tokens: without its scope a token would have all that its user has.
        AsyncMigrationTokenScope.objects.using(_alias()).filter(digest__in=digests).delete()
        for token in found:
            audit.enter("revoke_token", origin, before=_entered(token))
    gone = [known(token) for token in found]
    for token in gone:
        _log("token_revoked", token)
    return gone


def _entered(token: Any) -> dict[str, Any]:
    """Return what the audit says of a token."""
    return {"user": token.user.get_username(), "expires_at": token.expiry, "token": audit.shown(token.digest)}


def _alias() -> str:
    return router.db_for_write(get_token_model())


def _log(kind: str, token: Known) -> None:
    logger.info(
        kind,
        extra={
            "token_prefix": token.prefix,
            "user": token.user,
            "expires_at": token.expires_at,
            "scope": str(token.scope),
        },
    )
