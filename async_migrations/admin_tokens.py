"""Tokens in the admin: a list to look at. Commands make and revoke them.

knox's own pages show the digest and let it be changed, so that whoever may change tokens could be anybody; and they
tell a new token in a message, which travels in a cookie.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import URLPattern
from knox.admin import AuthTokenAdmin
from knox.models import AuthToken

from .rest import tokens


class TokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Whose tokens there are, until when, and what they are limited to."""

    list_display = ("begins", "user", "created", "expiry", "limited_to")
    list_display_links = None
    list_per_page = 100
    search_fields = ("token_key__startswith", f"user__{get_user_model().USERNAME_FIELD}")
    search_help_text = "How the token begins, or the user"
    ordering = ("-created",)
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return tokens.tokens()

    def get_urls(self) -> list[URLPattern]:
        """Have the list and no other page: their addresses and titles would hold the digest."""
        return [url for url in super().get_urls() if str(url.name).endswith("_changelist")]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="begins with", ordering="token_key")
    def begins(self, token: Any) -> str:
        return tokens.known(token).prefix

    @admin.display(description="limited to")
    def limited_to(self, token: Any) -> str:
        return str(tokens.known(token).scope)


# A project with pages of its own for tokens keeps them.
if admin.site.is_registered(AuthToken) and type(admin.site.get_model_admin(AuthToken)) is AuthTokenAdmin:
    admin.site.unregister(AuthToken)
    admin.site.register(AuthToken, TokenAdmin)
