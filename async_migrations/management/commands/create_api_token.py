"""`manage.py create_api_token NAME --role viewer|operator --expires 90d`: a token for a script, shown once.

`--verb` and `--database`, both repeatable, limit it to less than the role has.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router, transaction

from async_migrations import lifecycle
from async_migrations.management.origin import origin
from async_migrations.management.tokens import needed, or_say_what_is_missing

ROLES = {"viewer": "async_migrations viewers", "operator": "async_migrations operators"}

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=3653)


def parse_expiry(text: str) -> timedelta | None:
    """Read 30d, 12h, 45m, 2w or never (None); CommandError for anything else, nothing, or more than ten years."""
    if text.strip().lower() == "never":
        return None
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip().lower())
    duration = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if not timedelta(0) < duration <= _LONGEST:
        raise CommandError(f"{text!r} is no duration: say 30d, 12h, 45m or 2w, up to ten years, or never.")
    return duration


class Command(BaseCommand):
    help = "Make an API token for NAME, a user for scripts only. Prints the token once, alone, on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="who the token is for; it is what the history of a migration will say")
        parser.add_argument("--role", choices=sorted(ROLES), required=True, help="viewer reads, operator also acts")
        parser.add_argument("--expires", default="90d", help="30d, 12h or never; default 90d")
        parser.add_argument(
            "--verb",
            action="append",
            dest="verbs",
            metavar="VERB",
            help="only this, and reading; repeatable: view, run (pause, resume), force, cancel, rollback, tune, hold",
        )
        parser.add_argument(
            "--database",
            action="append",
            dest="databases",
            metavar="ALIAS",
            help="only migrations of these targets, nothing else is there for it; may be repeated",
        )

    def handle(self, *args: Any, name: str, role: str, expires: str, **options: Any) -> None:
        needed()
        lifetime = parse_expiry(expires)
        with or_say_what_is_missing("No token was made."):
            known, token = self._make(name, role, lifetime, _scope(options["verbs"], options["databases"]))
        until = f"expires in {_in_words(lifetime)}" if lifetime else "never expires"
        self.stderr.write(f"Token for {name}, {role}; it {until} and cannot be shown again.")
        if known:
            self.stderr.write(f"{name} was there before: older tokens stay valid, and all of them are {role} now.")
        self.stdout.write(token)

    def _make(self, name: str, role: str, expires: timedelta | None, scope: Any) -> tuple[bool, str]:
        from async_migrations.rest import tokens

        with transaction.atomic(using=router.db_for_write(get_user_model())):
            user, known = _user(name)
            user.groups.remove(*Group.objects.filter(name__in=ROLES.values()))
            user.groups.add(_group(role))
            return known, tokens.create(user, origin(), lifetime=expires, scope=scope, role=role)


def _scope(verbs: list[str] | None, databases: list[str] | None) -> Any:
    """Return what the token is limited to; CommandError for what does not exist: it would silently open nothing."""
    from async_migrations.rest.scopes import VERBS, Scope

    if unknown := sorted(set(verbs or ()) - set(VERBS)):
        raise CommandError(f"--verb {unknown[0]}: there is no such verb. There are: {', '.join(VERBS)}.")
    there = lifecycle.databases() if databases else []
    if unknown := sorted(set(databases or ()) - set(there)):
        raise CommandError(f"--database {unknown[0]}: there is no such target. There are: {', '.join(there)}.")
    return Scope(*(None if names is None else frozenset(names) for names in (verbs, databases)))


def _user(name: str) -> tuple[Any, bool]:
    """Return the user of that name, made if need be, and whether it was there; a person's account is refused."""
    model: Any = get_user_model()
    user = model.objects.filter(**{model.USERNAME_FIELD: name}).first() if "\0" not in name else None
    if user is None:
        return _new_user(model, name), False
    if user.is_staff or user.is_superuser or user.has_usable_password():
        raise CommandError(f"{name} is the account of a person (staff, or with a password). Choose another name.")
    if not user.is_active:
        raise CommandError(f"{name} is deactivated. Activate it in the admin, or choose another name.")
    return user, True


def _new_user(model: Any, name: str) -> Any:
    user = model(**{model.USERNAME_FIELD: name})
    user.set_unusable_password()
    try:
        user.full_clean(exclude=["password"])
    except ValidationError as exc:
        raise CommandError(f"{name!r} cannot be a user: {' '.join(exc.messages)}") from exc
    user.save()
    return user


def _group(role: str) -> Group:
    try:
        return Group.objects.get(name=ROLES[role])
    except Group.DoesNotExist as exc:
        raise CommandError(
            f"There is no group {ROLES[role]!r}: run manage.py migrate; if it was deleted, "
            "manage.py migrate async_migrations 0001, then migrate again, makes it anew."
        ) from exc


def _in_words(duration: timedelta) -> str:
    return str(duration).removesuffix(", 0:00:00")
