"""The door of the preflight: what stands in the way of a migration, looked up in its target at this moment."""

from __future__ import annotations

from dataclasses import asdict

from rest_framework.request import Request
from rest_framework.response import Response

from .. import lifecycle
from ..execution import preflight
from . import examples, schema
from .door import Door
from .serializers import PreflightSerializer


class PreflightDoor(Door):
    scoped_by = "migration"

    @schema.documented(
        "async_migrations_preflight",
        "Look what stands in the way",
        "Look at the target, now, for what would make the migration fail or wait, and for what is good to know before "
        "it begins: sizes, locks, how long it may take. Nothing is changed, and nobody is made to wait; it takes ten "
        "seconds at most, about. In the direction that the migration has; what is ROLLED BACK would go forwards. "
        "A target that does not answer is a finding as well.",
        answers={200: PreflightSerializer},
        problems=schema.OF_ONE,
        examples=(schema.example("An old transaction", examples.PREFLIGHT, 200),),
    )
    def get(self, request: Request, id: int) -> Response:
        findings = preflight.look(lifecycle.get(id))
        answer = {
            "level": findings[0].level if findings else None,
            "findings": [asdict(found) for found in findings],
        }
        return Response(PreflightSerializer(answer).data)
