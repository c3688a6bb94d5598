"""Who asks: a knox token for scripts, the session for a browser."""

from __future__ import annotations

import re
from typing import Any

from django.utils import timezone
from knox.auth import TokenAuthentication
from knox.settings import knox_settings
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from . import token_lookup

REALM = 'Bearer realm="async-migrations"'
HOW_TO_GET_ONE = "An administrator makes a new one with: manage.py create_api_token NAME --role ROLE"

_TOKEN = re.compile(r"[\x21-\x7e]+")


class ApiTokenAuthentication(TokenAuthentication):  # type: ignore[misc]
    """A knox token as `Authorization: Bearer TOKEN` or `Authorization: Token TOKEN`.

    Unlike knox itself it leaves an expired token where it is, so that its owner hears each time that it has expired.
    """

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
        if scheme.lower() not in {"bearer", "token"}:
            return None
        token = token.strip()
        if not _TOKEN.fullmatch(token):
            raise AuthenticationFailed(f"That is no token. Send: Authorization: Bearer TOKEN. {HOW_TO_GET_ONE}")
        return self.authenticate_credentials(token.encode())

    def authenticate_credentials(self, token: bytes) -> tuple[Any, Any]:
        found = token_lookup.find(token.decode())
        if found is None:
            raise AuthenticationFailed(f"Nobody has this token, or it was withdrawn. {HOW_TO_GET_ONE}", "invalid_token")
        if found.expiry is not None and found.expiry <= timezone.now():
            raise AuthenticationFailed(
                f"This token expired at {found.expiry.isoformat(timespec='seconds')}. {HOW_TO_GET_ONE}", "token_expired"
            )
        if not found.user.is_active:
            raise AuthenticationFailed("The user of this token is not active any more.", "invalid_token")
        if knox_settings.AUTO_REFRESH and found.expiry:
            self.renew_token(found)
        return found.user, found

    def authenticate_header(self, request: Request) -> str:
        return REALM


class BrowserAuthentication(SessionAuthentication):
    """The session of the admin, with CSRF protection for what changes something."""

    def enforce_csrf(self, request: Any) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as exc:
            raise PermissionDenied(f"{exc.detail} Send the cookie's value as X-CSRFToken.", "csrf_failed") from exc
