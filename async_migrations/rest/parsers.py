"""What is accepted and answered: JSON in UTF-8, whatever the project's REST_FRAMEWORK setting says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request


class StrictJSONParser(BaseParser):
    """Read a JSON body. Anything that is not JSON is ParseError, an encoding that is not UTF-8 UnsupportedMediaType."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        request = (parser_context or {})["request"]._request
        # As the client named it: Django itself replaces an encoding that it does not know by its default.
        encoding = str(request.content_params.get("charset", "utf-8")).lower()
        if encoding not in {"utf-8", "utf8", "us-ascii", "ascii"}:
            raise UnsupportedMediaType(media_type or "")
        try:
            # A byte order mark is let pass: editors on Windows leave one.
            return json.loads(stream.read().decode("utf-8-sig"), parse_constant=_refuse_constant)
        except RecursionError as exc:
            raise ParseError("The body is nested too deeply to be read.") from exc
        except ValueError as exc:
            raise ParseError(f"The body cannot be read as JSON in UTF-8: {exc}. Nothing was done.") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


class PlainJSONRenderer(JSONRenderer):
    ensure_ascii = False
    compact = True
    strict = True


class JSONOnly(DefaultContentNegotiation):
    """Go by Accept alone, not by a `format` parameter; without Accept or Content-Type take it for JSON."""

    settings = SimpleNamespace(URL_FORMAT_OVERRIDE=None)  # type: ignore[assignment]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        if not request.META.get("HTTP_ACCEPT", "").strip():
            return renderers[0], renderers[0].media_type
        return super().select_renderer(request, renderers, format_suffix)

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        if not request.content_type:
            return StrictJSONParser()
        return super().select_parser(request, parsers)
