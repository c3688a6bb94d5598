"""`manage.py revoke_api_token NAME`, `--prefix 1a2b3c4d` or `--all`: out of force with the next request, everywhere."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from async_migrations.management.origin import origin
from async_migrations.management.tokens import needed, or_say_what_is_missing


class Command(BaseCommand):
    help = "Revoke API tokens: those of a user, the one that begins so, or all. It counts from the next request on."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("name", nargs="?", help="all tokens of this user")
        which.add_argument("--prefix", help="the one token that begins so, 8 characters at least; see list_api_tokens")
        which.add_argument("--all", action="store_true", dest="everybodys", help="every token there is")

    def handle(self, *args: Any, name: str | None, prefix: str | None, everybodys: bool, **options: Any) -> None:
        needed()
        from async_migrations.rest import tokens

        with or_say_what_is_missing("No token was revoked."):
            chosen = tokens.tokens(user=name, prefix=_shown(prefix, tokens.SHOWN) if prefix is not None else "")
            if prefix is not None and len(chosen) > 1:
                raise CommandError(f"{len(chosen)} tokens begin with {prefix}. Give more of it; none was revoked.")
            gone = tokens.revoke(chosen, origin())
        for token in gone:
            self.stdout.write(f"Revoked: {token.prefix}...  {token.user}  {token.scope}")
        if not gone and not everybodys:
            whose = f"of {name}" if name is not None else f"that begins with {prefix}"
            raise CommandError(f"There is no token {whose}: list_api_tokens shows what there is. Nothing was revoked.")


def _shown(prefix: str, shown: int) -> str:
    """Return what the table can be searched for: nobody keeps more of a token than its beginning."""
    if len(prefix) < shown:
        raise CommandError(f"{prefix!r} is too short: give {shown} characters, as list_api_tokens shows them.")
    return prefix
