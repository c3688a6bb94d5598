"""What doors refuse that REST framework knows no exception for."""

from __future__ import annotations

from rest_framework import exceptions


class PreconditionFailed(exceptions.APIException):
    status_code = 412
    default_code = "precondition_failed"
    default_detail = (
        "It is not what If-Match says any more: somebody or a worker changed it. Nothing was done. "
        "Read it again, decide again, and send its new ETag."
    )


class TooManyItems(exceptions.APIException):
    """More migrations are meant than one request may ask for."""

    status_code = 422
    default_code = "too_many_items"

    def __init__(self, count: int, most: int) -> None:
        super().__init__(
            f"These are {count} migrations; at most {most} can be asked for at once. Nothing was done. "
            "Narrow the filter, or send several requests."
        )
        self.members = {"count": count, "most": most}


class LengthRequired(exceptions.APIException):
    status_code = 411
    default_code = "length_required"
    default_detail = "The body comes in chunks, without its length, and was not read. Send it with Content-Length."


class KeyInUse(exceptions.APIException):
    status_code = 409
    default_code = "idempotency_key_in_use"
    default_detail = (
        "A request with this Idempotency-Key is still in progress, and this one was not looked at. Send it again after "
        "Retry-After, unchanged: then it gets the first one's answer, or if the server died over that one, is carried "
        "out, at the latest after a minute."
    )

    def __init__(self, seconds: int = 1) -> None:
        super().__init__()
        self.headers = {"Retry-After": str(seconds)}


class KeyReused(exceptions.APIException):
    status_code = 422
    default_code = "idempotency_key_reused"
    default_detail = (
        "This Idempotency-Key was sent with another request in the last 24 hours: another method, address, body, "
        "Content-Type or If-Match. Nothing was done. A new wish needs a new key; a repetition must be unchanged."
    )
