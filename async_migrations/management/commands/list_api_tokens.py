"""`manage.py list_api_tokens`: who has a token, until when, and for what. No token can be shown again."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from async_migrations.management.tokens import needed, or_say_what_is_missing


class Command(BaseCommand):
    help = "List the API tokens: how each begins, whose it is, until when, and what it is limited to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", help="only those of this user")
        parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document, for scripts")

    def handle(self, *args: Any, name: str | None, as_json: bool, **options: Any) -> None:
        needed()
        from async_migrations.rest import tokens

        with or_say_what_is_missing("No token can be listed."):
            found = [tokens.known(token) for token in tokens.tokens(user=name)]
        if as_json:
            self.stdout.write(json.dumps([_as_dict(token) for token in found], cls=DjangoJSONEncoder, indent=2))
            return
        for token in found:
            until = "never expires"
            if token.expires_at is not None:
                over = token.expires_at <= timezone.now()
                until = f"{'expired' if over else 'expires'} {token.expires_at:%Y-%m-%d %H:%M}"
            self.stdout.write(f"{token.prefix}...  {token.user}  {until}  {token.scope}")
        if not found:
            self.stderr.write("There is no token." if name is None else f"{name} has no token.")


def _as_dict(token: Any) -> dict[str, Any]:
    limits = {"verbs": token.scope.verbs, "databases": token.scope.databases}
    said = {limit: None if names is None else sorted(names) for limit, names in limits.items()}
    known = {"prefix": token.prefix, "user": token.user, "created_at": token.created_at, "expires_at": token.expires_at}
    return {**known, **said}
