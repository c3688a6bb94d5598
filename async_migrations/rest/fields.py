"""Fields of what the doors read and answer."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from .. import limits
from .filters import parse_aware


class TimeField(serializers.DateTimeField):
    """A time as ISO 8601 in UTC, whatever format and time zone the project has set; read only with its offset."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso-8601", default_timezone=UTC, **options)

    def to_internal_value(self, value: Any) -> datetime:
        try:
            return parse_aware(value)
        except ValueError as exc:
            raise serializers.ValidationError(str(exc), code="invalid") from exc

    def to_representation(self, value: Any) -> Any:
        # With USE_TZ off, Django reads times in the project's zone and leaves the offset out.
        if isinstance(value, datetime) and timezone.is_naive(value):
            value = timezone.make_aware(value, timezone.get_default_timezone())
        return super().to_representation(value)


class FiniteField(serializers.FloatField):
    """A number that JSON can carry; infinity and NaN are not known, that is null."""

    def to_representation(self, value: Any) -> float | None:  # type: ignore[override]
        return float(value) if math.isfinite(value) else None


class WholeNumberField(serializers.IntegerField):
    """A whole number within its limits; unlike REST framework's, a text is none."""

    def __init__(self, number: limits.Number, **options: Any) -> None:
        super().__init__(min_value=int(number.low), max_value=int(number.high), **options)
        self.number = number

    def to_internal_value(self, data: Any) -> int:
        if not self.number.holds(data):
            raise serializers.ValidationError(f"This is not {self.number}.", code="invalid")
        return int(data)


class SwitchField(serializers.BooleanField):
    """true or false, and no other word for it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data
