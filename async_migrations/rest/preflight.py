"""The door of the preflight: what stands in the way of a migration, looked up in its target at this moment."""

from __future__ import annotations

from dataclasses import asdict

from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from .. import lifecycle
from ..execution import preflight
from ..states import Direction
from . import examples, schema
from .answers import PreflightSerializer
from .door import Door


class PreflightDoor(Door):
    parameters = frozenset({"direction"})
    scoped_by = "migration"

    @schema.documented(
        "async_migrations_preflight",
        "Look what stands in the way",
        "Look at the target, now, for what would make the migration fail or wait, and for what is good to know before "
        "it begins: sizes, locks, how long it may take. Nothing is changed, and nobody is made to wait; it takes ten "
        "seconds at most, about. Without `direction` in the one that the migration has; what is ROLLED BACK would go "
        "forwards. `backwards` looks what would stand in the way of a rollback. "
        "A target that does not answer is a finding as well.",
        answers={200: PreflightSerializer},
        problems=schema.OF_ONE,
        parameters=(
            OpenApiParameter("direction", str, enum=Direction.values, description="Which of the two SQL texts."),
        ),
        examples=(schema.example("An old transaction", examples.PREFLIGHT, 200),),
    )
    def get(self, request: Request, id: int) -> Response:
        direction = request.query_params.get("direction")
        if direction not in (None, *Direction.values):
            raise ValidationError({"direction": [f"Say one of: {', '.join(Direction.values)}."]})
        findings = preflight.look(lifecycle.get(id), direction)
        answer = {
            "level": findings[0].level if findings else None,
            "findings": [asdict(found) for found in findings],
        }
        return Response(PreflightSerializer(answer).data)
