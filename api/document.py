"""The OpenAPI document under its own address, and as a page."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response

from async_migrations.rest.answers import ProblemSerializer
from async_migrations.rest.problems import MEDIA_TYPE
from async_migrations.rest.schema import header, request_header

_FORMS = ("application/vnd.oai.openapi", "application/yaml", "application/vnd.oai.openapi+json", "application/json")


class DocumentView(SpectacularAPIView):
    http_method_names = ["get", "head"]

    @extend_schema(
        operation_id="schema",
        summary="This document",
        description="As YAML, or as JSON for whoever accepts that.",
        tags=["document"],
        auth=[],
        parameters=[
            request_header("X-Request-ID", "Taken over into log and answer."),
            header("X-Request-ID", "The request's id, or a new one.", [200, 406]),
        ],
        responses={
            **{(200, form): OpenApiResponse(OpenApiTypes.OBJECT, description="The document") for form in _FORMS},
            (406, MEDIA_TYPE): OpenApiResponse(ProblemSerializer, description="`not_acceptable`"),
        },
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        answer: Response = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]
        return answer


class PageView(SpectacularSwaggerSplitView):
    """The document as a page; what describes a view to OPTIONS cannot be rendered as one."""

    http_method_names = ["get", "head"]
