"""Log lines of the service: one JSON object a line, or text for a person. Fields given as `extra=` become keys."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.typing import EventDict, Processor


def _add_request_id(logger: Any, method: str, event: EventDict) -> EventDict:
    """Add the id of the request that this line belongs to, if it belongs to one."""
    # Imported when a line is written: REST framework cannot be loaded before the settings that use this module are.
    from async_migrations.rest.request_id import current_request_id

    if "request_id" not in event and (request_id := current_request_id()):
        event["request_id"] = request_id
    return event


def logging_config(*, level: str, form: str) -> dict[str, Any]:
    """Return the dictionary for `logging.config.dictConfig`.

    level: the least severe level that is written. form: `json` or `console`. Everything goes to stderr.
    """
    steps: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _drop_objects,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "service": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": steps,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(form)],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "service"}},
        "root": {"handlers": ["stderr"], "level": level},
        # Django's own handlers print to the console and send mail to administrators: one way out is enough.
        "loggers": {"django": {"handlers": [], "level": level, "propagate": True}},
    }


def _drop_objects(logger: Any, method: str, event: EventDict) -> EventDict:
    """Drop what Django adds for its own handlers; the message names it already."""
    for name in ("request", "server_time"):
        event.pop(name, None)
    return event


def _rendering(form: str) -> list[Processor]:
    if form == "json":
        return [
            # Plain text: the structured form holds the local variables of every frame, and with them secrets.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=plain)]
