"""`Idempotency-Key`: whoever sends a request again because its answer got lost gets the first answer, for 24 hours.

The key is reserved by a row that is committed before anything is done: of two at once one acts, the other hears that
it is in use. The action and the answer to it are not one transaction, for an action may be many. So a reservation
counts for a minute only, and a thread renews it for as long as its request is worked on: a web process that dies in
between leaves one that runs out. Whoever asks after that acts again, which every verb here bears: asking twice changes
nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import threading
import uuid
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now
from django.http import HttpResponse
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from ..conf import conf
from ..models import AsyncMigrationKey
from .refusals import KeyInUse, KeyReused
from .scopes import scope_of

logger = logging.getLogger("async_migrations")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
METHODS = frozenset({"POST", "PUT", "PATCH"})

_SANE = re.compile(r"[\x20-\x7e]{1,255}")
_KEPT = timedelta(hours=24)
_RESERVED = timedelta(seconds=60)
_RENEWED_EVERY = 20  # seconds
_ASK_AGAIN = timedelta(seconds=5)  # at the latest: most answers that take long are there soon after
_HEADERS = ("Content-Type", "Cache-Control", "ETag", "Location", "Retry-After")
_FORGOTTEN_AT_ONCE = 10  # more than one reservation adds, so the table shrinks to what is alive


class Replay(Exception):
    """The request was answered before: here is the answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def response(self) -> HttpResponse:
        """Return the first answer, marked as such."""
        headers = {**self.answer["headers"], REPLAYED: "true"}
        return HttpResponse(self.answer["content"], status=self.answer["status"], headers=headers)


class Reservation:
    """The right to answer a key: valid while its row is there. Who takes a key over makes a new one.

    A thread renews it until `end`; once the process has died it runs out.
    """

    def __init__(self, pk: int) -> None:
        self._pk = pk
        self._ended = threading.Event()
        threading.Thread(target=self._renew, name=f"reservation-{pk}", daemon=True).start()

    def end(self) -> None:
        """Renew it no longer."""
        self._ended.set()

    def keep(self, answer: Any) -> None:
        """Write the answer down, or with a 5xx give the key back. What was done stays done if that fails."""
        mine = _keys().filter(pk=self._pk)
        try:
            if answer.status_code >= 500:
                mine.delete()
            else:
                mine.update(answer=_content(answer), expires_at=Now() + _KEPT)
                _forget_expired()
        except (DatabaseError, InterfaceError):
            logger.warning("answer not kept; the same request would be carried out again", exc_info=True)

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED_EVERY):
            try:
                # Behind an answer that is kept it would cut its time short.
                _keys().filter(pk=self._pk, answer__isnull=True).update(expires_at=Now() + _RESERVED)
            except (DatabaseError, InterfaceError):
                logger.warning("reservation of a key not renewed", exc_info=True)
            finally:
                connections.close_all()


def reserve(request: Request) -> Reservation | None:
    """Reserve the key of a request that changes something, for its user; None where none is sent.

    Raises Replay for a request that was answered before, KeyReused for another one with its key, KeyInUse while the
    first is not answered, and ValidationError for a text that is no key.
    """
    key = request.headers.get(HEADER)
    if key is None or request.method not in METHODS:
        return None
    if not _SANE.fullmatch(key):
        raise ValidationError(
            {HEADER: ["This is no key: send 1 to 255 printable ASCII characters, a UUID for instance."]}
        )
    caller, payload, token = str(request.user.pk), _payload(request), uuid.uuid4()
    of_caller = _keys().filter(caller=caller, key=key)
    of_caller.filter(expires_at__lte=Now()).delete()
    expires_at: Any = Now() + _RESERVED
    wanted = AsyncMigrationKey(caller=caller, key=key, payload=payload, token=token, expires_at=expires_at)
    _keys().bulk_create([wanted], ignore_conflicts=True)
    left = ExpressionWrapper(F("expires_at") - Now(), DurationField())
    return _decide(of_caller.annotate(left=left).first(), payload, token)


def _decide(found: Any, payload: str, token: uuid.UUID) -> Reservation:
    if found is None:  # It was given back, or ran out, just now.
        raise KeyInUse
    if found.token == token:
        return Reservation(found.pk)
    if found.payload != payload:
        raise KeyReused
    if found.answer is None:
        raise KeyInUse(_retry_after(found.left))
    raise Replay(found.answer)


def _retry_after(left: timedelta) -> int:
    """Return in how many seconds to ask again: the older a reservation, the later, but not after it has run out."""
    return max(1, math.ceil(min(_RESERVED - left, left, _ASK_AGAIN).total_seconds()))


def _payload(request: Request) -> str:
    """Return the digest of everything about a request that says what is wanted."""
    said = [request.method, request.get_full_path(), request.content_type, request.headers.get("If-Match")]
    if (databases := scope_of(request).databases) is not None:  # An answer to another token may tell of others.
        said.append(json.dumps(sorted(databases)))
    return hashlib.sha256(json.dumps(said).encode() + b"\n" + request.body).hexdigest()


def _content(answer: Any) -> dict[str, Any]:
    if hasattr(answer, "render"):
        answer.render()
    headers = {name: answer[name] for name in _HEADERS if name in answer}
    return {"status": answer.status_code, "headers": headers, "content": answer.content.decode()}


def _forget_expired() -> None:
    with transaction.atomic(using=conf.control_database):
        # Locked by another request: that one removes it. So nobody waits, and nobody is in a deadlock.
        expired = _keys().select_for_update(skip_locked=True).filter(expires_at__lte=Now()).order_by("expires_at")
        _keys().filter(pk__in=expired.values("pk")[:_FORGOTTEN_AT_ONCE]).delete()


def _keys() -> QuerySet[AsyncMigrationKey]:
    return AsyncMigrationKey.objects.using(conf.control_database)
