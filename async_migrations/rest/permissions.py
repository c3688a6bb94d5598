"""Who may do what: reading needs the view permission, each verb its own; pause and resume go with run.

No group may force: a token of a pipeline would, each time, and then nothing stands in the way of anything.
"""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .scopes import scope_of

VIEWERS = "async_migrations viewers"
OPERATORS = "async_migrations operators"

VIEW = "async_migrations.view_asyncmigrationstatus"
RUN = "async_migrations.run_asyncmigrationstatus"
FORCE = "async_migrations.force_asyncmigrationstatus"
CANCEL = "async_migrations.cancel_asyncmigrationstatus"
ROLLBACK = "async_migrations.rollback_asyncmigrationstatus"
TUNE = "async_migrations.tune_asyncmigrationstatus"
HOLD = "async_migrations.hold_asyncmigrationstatus"

#: What the scope of a token calls each of them.
_VERBS = {
    VIEW: "view",
    RUN: "run",
    FORCE: "force",
    CANCEL: "cancel",
    ROLLBACK: "rollback",
    TUNE: "tune",
    HOLD: "hold",
}


class PermissionMissing(PermissionDenied):
    """The user is known, but lacks a permission; the answer names it."""

    def __init__(self, name: str, permission: str) -> None:
        group = VIEWERS if permission == VIEW else OPERATORS
        # What everybody could open who is stopped by it would be no gate: force is given to persons, one by one.
        who = (
            "No group has it; an administrator can give it to a user."
            if permission == FORCE
            else f"The members of the group {group!r} have it; an administrator can add to it."
        )
        super().__init__(f"{name} lacks the permission {permission}. Nothing was done. {who}")
        self.members = {"missing_permission": permission}


class OutOfScope(PermissionDenied):
    """The user may, but the token that was sent is limited to less."""

    def __init__(self, request: Request, what: str) -> None:
        super().__init__(
            f"This token is limited to: {scope_of(request)}. It is not for {what}. Nothing was done. An administrator "
            "can make another one: manage.py create_api_token."
        )


def require(request: Request, permission: str) -> None:
    """Raise PermissionMissing where the user has not the permission, OutOfScope where the token is not for it."""
    if not request.user.has_perm(permission):
        raise PermissionMissing(request.user.get_username(), permission)
    # What no scope can name is for nobody whose token has one.
    if not scope_of(request).allows(_VERBS.get(permission, permission)):
        raise OutOfScope(request, permission)


class HasPermissionOfDoor(BasePermission):
    """Let pass whoever has what the view asks for; NotAuthenticated and PermissionMissing for the others."""

    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        if not user.is_authenticated:
            raise NotAuthenticated("Send a token: Authorization: Bearer TOKEN. See manage.py create_api_token.")
        require(request, view.permission_for(request.method))
        return True
