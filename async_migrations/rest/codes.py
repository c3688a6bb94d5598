"""The codes of problems: status, title and meaning of each, and what to do. docs/errors.md is generated from them."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of problem.

    status: of HTTP. title: the same for every problem of its kind. means, then: what happened and what to do
    about it, in Markdown.
    """

    status: int
    title: str
    means: str
    then: str


#: Scripts may depend on the codes.
PROBLEMS: dict[str, Kind] = {
    "bad_request": Kind(
        400,
        "The request cannot be understood",
        "host, headers, parameters or body were refused before anybody looked at them",
        "correct the request; the host has to be one of `ALLOWED_HOSTS`",
    ),
    "malformed_json": Kind(
        400,
        "The body is not valid JSON",
        "the body is not JSON in UTF-8",
        "correct the body, or send none",
    ),
    "validation_error": Kind(
        400,
        "The request has invalid values",
        "a field or parameter is unknown, empty, doubled or wrong; or `If-Match` was sent to a door that changes "
        "nothing with an `ETag`",
        "`errors` says of each what it should be",
    ),
    "not_authenticated": Kind(
        401,
        "No credentials were given",
        "no token was sent",
        "send `Authorization: Bearer TOKEN`",
    ),
    "invalid_token": Kind(
        401,
        "The token is not valid",
        "nobody has this token, or its user is not active",
        "make one with `create_api_token`, or make the user active again",
    ),
    "token_expired": Kind(
        401,
        "The token has expired",
        "the token's time is over",
        "make a new one with `create_api_token`",
    ),
    "permission_denied": Kind(
        403,
        "A permission is missing",
        "the user lacks the permission that is named, or the token is limited to less",
        "have it granted, or ask with another token",
    ),
    "csrf_failed": Kind(
        403,
        "The CSRF token is missing or wrong",
        "a browser's session without `X-CSRFToken`",
        "send the header, or use a token",
    ),
    "not_found": Kind(
        404,
        "There is no such thing",
        "no such migration, page or address",
        "look in the list; a token sees the databases that it is for, and no others",
    ),
    "method_not_allowed": Kind(
        405,
        "The method is not allowed here",
        "this address answers other methods",
        "`Allow` names them",
    ),
    "not_acceptable": Kind(
        406,
        "No acceptable media type",
        "answers are `application/json` only",
        "send `Accept: application/json`, or none",
    ),
    "invalid_transition": Kind(
        409,
        "The migration cannot make this move now",
        "the migration cannot make this move now",
        "`allowed` has the verbs that it would accept",
    ),
    "idempotency_key_in_use": Kind(
        409,
        "The first request with this key is still in progress",
        "the first request with this `Idempotency-Key` is not answered yet",
        "send it again after `Retry-After`, unchanged",
    ),
    "preflight_failed": Kind(
        409,
        "Something stands in the way of the migration",
        "it would fail; `findings` says why, see [preflight.md](preflight.md). It was not put in line",
        "do what the `hint` of each finding says, then `run`",
    ),
    "not_a_leftover": Kind(
        409,
        "The index is not left over",
        "the index is valid, somebody is at work on it, or its migration is in progress; it was not dropped",
        "wait until nobody is at work on it; a valid index is not for the janitor",
    ),
    "length_required": Kind(
        411,
        "The length of the body is missing",
        "a body in chunks, without `Content-Length`",
        "send `Content-Length`",
    ),
    "precondition_failed": Kind(
        412,
        "It has changed meanwhile",
        "`If-Match`: the migration, or what is held, has changed meanwhile; nothing was done",
        "read it again, then decide anew",
    ),
    "body_too_large": Kind(413, "The body is too large", "larger than 64 KiB", "send less, in several requests"),
    "unsupported_media_type": Kind(
        415,
        "The body is not JSON",
        "the body is not JSON",
        "send `Content-Type: application/json`, or no body",
    ),
    "idempotency_key_reused": Kind(
        422,
        "The key was used for another request",
        "this `Idempotency-Key` was sent with another request in the last 24 hours; nothing was done",
        "a new wish needs a new key",
    ),
    "too_many_items": Kind(
        422,
        "Too many migrations at once",
        "more than 500 migrations are meant by one request; `count` says how many. Nothing was done",
        "narrow the filter, or send several requests",
    ),
    "rate_limited": Kind(
        429,
        "Too many requests",
        "more requests than `ASYNC_MIGRATIONS_RATE_LIMIT` in this minute",
        "ask again after `Retry-After`, and less often",
    ),
    "internal_error": Kind(
        500,
        "Something unforeseen went wrong",
        "a defect of the service or of its set-up",
        "tell whoever runs the service the `request_id`; its log has the reason",
    ),
    "database_unavailable": Kind(
        503,
        "The database does not answer",
        "the control database does not answer",
        "ask again after `Retry-After`",
    ),
    "target_unavailable": Kind(
        503,
        "The target does not answer",
        "the target that was named does not answer; nothing was done",
        "see that the target runs and can be reached from the service; ask again after `Retry-After`",
    ),
    "broker_unavailable": Kind(
        503,
        "The broker does not answer",
        "no worker can be asked to drop the index; nothing was done",
        "see that the broker runs; ask again after `Retry-After`",
    ),
}
