"""The service as the client sees it: requests are sent again until there is an answer; what an answer means."""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import httpx

from .. import __version__
from ..words import Row, findings

PAGE_SIZE = 500
#: How long an answer may be held, in seconds: the service would for 30, but some proxies give up by then.
LONGEST_HOLD = 20
_ANSWER, _CONNECT = 25.0, 5.0  # seconds that an answer may take, a preflight takes ten; and a connection
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between two tries
_STILL_ANSWERED = "idempotency_key_in_use"


class Refused(Exception):
    """The service said no, and would again; `problem` is its answer, None where it was not the service's.

    lines: what happened and what to do, then particulars.
    """

    def __init__(self, lines: list[str], problem: Row | None = None) -> None:
        super().__init__(lines[0])
        self.lines, self.problem = lines, problem


class Unreachable(Exception):
    """There was no answer, or none but "later", for as long as it was waited for."""


class Trouble(Exception):
    """A try that may be repeated. after: seconds for which the service wants to be left alone, None: it did not say."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Service:
    """Asks one service with one token.

    address: of the list of migrations. retry_for: seconds for which a request is sent again that gets no answer.
    until: moment of `time.monotonic` behind which nothing is sent again.
    """

    def __init__(self, address: str, token: str, retry_for: float) -> None:
        headers = {"Accept": "application/json", "User-Agent": f"async-migrations/{__version__}"}
        self._http = httpx.Client(headers=headers | ({"Authorization": f"Bearer {token}"} if token else {}))
        self._address, self._retry_for = address, retry_for
        self.until = float("inf")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(
        self, path: str = "", params: Mapping[str, Any] | None = None, *, tag: str = "", hold: int = 0
    ) -> httpx.Response:
        """Read; the answer is 200, or 304 where it is what the ETag `tag` says.

        hold: seconds that the service may wait with its answer until there is news. Raises Refused and Unreachable.
        """
        headers = ({"If-None-Match": tag} if tag else {}) | ({"Prefer": f"wait={hold}"} if hold else {})
        return self._patiently(
            lambda: self._http.get(self._address + path, params=params, headers=headers, timeout=self._timeout(hold))
        )

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Ask for something, once, however often it has to be sent. Raises Refused and Unreachable."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._patiently(
            lambda: self._http.post(self._address + path, json=body, headers=headers, timeout=self._timeout())
        )

    def pages(self, path: str = "", params: Mapping[str, Any] | None = None, *, first: int = 1) -> Iterator[Row]:
        """Yield all results of a list, from a page on."""
        for page in count(first):
            found = self.get(path, {**(params or {}), "page": page, "page_size": PAGE_SIZE}).json()
            yield from found["results"]
            if found["next"] is None:
                return

    def _timeout(self, hold: int = 0) -> httpx.Timeout:
        """Return how long a try may take: not much longer than there is time."""
        left = max(1.0, self.until - time.monotonic()) + 1
        return httpx.Timeout(min(_ANSWER + hold, left), connect=min(_CONNECT, left))

    def _patiently(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send until there is an answer; the pauses grow, and are those that the service asks for where it does."""
        give_up = min(self.until, time.monotonic() + self._retry_for)
        for tried in count():
            try:
                answer = self._once(send)
            except Trouble as exc:
                left = give_up - time.monotonic()
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tried, 9)) if exc.after is None else exc.after
                if left <= 0 or (exc.after or 0) > left:
                    raise Unreachable(f"{exc} The migrations go on meanwhile.") from exc
                if tried == 1:  # Once may be an answer that was lost on the way; that is nobody's business.
                    _tell(f"{exc} Trying again for {left:.0f} s.")
                # Not all clients at the same moment; but never before the time that the service names.
                pause *= random.uniform(0.5, 1) if exc.after is None else random.uniform(1, 1.25)  # noqa: S311
                time.sleep(min(pause, left))
            else:
                if tried > 1:
                    _tell("The service answers again.")
                return answer
        raise AssertionError("count() ends")  # pragma: no cover

    def _once(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Return an answer that is one. Raises Trouble, Refused, and Unreachable where repeating is no use."""
        try:
            answer = send()
        except httpx.RequestError as exc:
            said = f"No answer from {self._address}: {(str(exc) or type(exc).__name__).rstrip('.')}."
            if "CERTIFICATE_VERIFY_FAILED" in said:
                raise Unreachable(f"{said} SSL_CERT_FILE may name a file with the authority of yours.") from exc
            raise Trouble(said) from exc
        if answer.status_code == 304 or (answer.is_success and _media_type(answer) == "application/json"):
            return answer
        problem = _problem(answer)
        if answer.status_code >= 500 or answer.status_code == 429 or problem.get("code") == _STILL_ANSWERED:
            said = f"{problem['detail']} [{problem['code']}]" if problem else answer.reason_phrase
            raise Trouble(f"{self._address} answers {answer.status_code}: {said}", _retry_after(answer))
        raise Refused(_explained(problem), problem) if problem else Refused([self._no_service(answer)])

    def _no_service(self, answer: httpx.Response) -> str:
        if answer.is_redirect:
            return f"{self._address} redirects to {answer.headers.get('Location')}. Say the address that it leads to."
        what = f"{answer.status_code} {_media_type(answer)}".strip()
        return (
            f"What answers at {answer.url.copy_with(query=None)} is not the API of async migrations ({what}). The URL "
            "is the address of the service, /api/async-migrations is added unless it ends in /async-migrations."
        )


def retry_after(answer: httpx.Response, default: float) -> float:
    """Return the seconds after which it makes sense to look again."""
    said = _retry_after(answer)
    return default if said is None else said


def _retry_after(answer: httpx.Response) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _media_type(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _problem(answer: httpx.Response) -> Row:
    """Return the problem that an answer is; empty for any other."""
    try:
        problem = answer.json() if _media_type(answer) == "application/problem+json" else {}
    except ValueError:
        return {}
    return problem if {"code", "detail"} <= problem.keys() else {}


def _explained(problem: Row) -> list[str]:
    """Say what happened and what to do, with the code; then each finding, or each field that is wrong."""
    lines = [f"{problem['detail']} [{problem['code']}]"]
    if problem.get("status") == 401:
        lines.append("The token comes from --token-file, --token or ASYNC_MIGRATIONS_TOKEN.")
    errors = [f"{name}: {text}" for name, texts in problem.get("errors", {}).items() for text in texts]
    return [*lines, *errors[1:], *findings(problem.get("findings", []))]


def _tell(text: str) -> None:
    # The stream of this moment: while bars are drawn, it is one that writes above them.
    print(text, file=sys.stderr, flush=True)  # noqa: T201
