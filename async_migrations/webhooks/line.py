"""The connection to a webhook's receiver: only to addresses that were checked, and never for longer than allowed.

On httpcore, which is what httpx is made of: that lets us choose the address, and keep a deadline for all of an answer.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urljoin

import httpcore
import httpx

from ..conf import conf
from . import addresses, endpoints

# Bytes of an answer that are read, and characters that are kept of it.
_MOST_READ = 64 * 1024
_MOST_KEPT = 200
_MOST_REDIRECTS = 3
#: Redirects that keep method and body.
_REDIRECTS = {307, 308}
_NO_ANSWER = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class Answer(NamedTuple):
    """What a receiver answered: the status code, and the beginning of the text."""

    status: int
    text: str


class Line:
    """One receiver's line; kept open between deliveries. Not for several threads at once."""

    def __init__(self) -> None:
        self._network = _Network()
        self._pool = httpcore.ConnectionPool(
            ssl_context=_ssl_context(), network_backend=self._network, max_connections=1, keepalive_expiry=5
        )

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.close()

    def post(self, url: str, headers: dict[str, str], body: bytes, deadline: float) -> Answer:
        """Send it and return what was answered.

        deadline: on the monotonic clock, for all of it. Redirects count as answers unless the setting allows them.
        Raises WebhookRefused for an address that is not to be reached, and OSError where nothing was answered.
        """
        self._network.deadline = deadline
        for _ in range(_MOST_REDIRECTS + 1):
            endpoints.check_url(url)
            try:
                answer, location = self._post(url, headers, body)
            except _NO_ANSWER as exc:
                raise OSError(_in_words(exc)) from exc
            if not (conf.webhook_redirects and answer.status in _REDIRECTS and location):
                break
            url = urljoin(url, location)
        return answer

    def _post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
        with self._pool.stream("POST", url, headers=[*headers.items()], content=body) as response:
            read = _beginning(response)
            location = {name.lower(): value for name, value in response.headers}.get(b"location", b"")
        text = read[:_MOST_KEPT].decode(errors="replace").replace("\0", " ")
        return Answer(response.status, text), location.decode("ascii", "replace")


def _beginning(response: httpcore.Response) -> bytes:
    """Return what comes first of the answer's text; the status is known, whatever becomes of the rest."""
    read = b""
    with suppress(*_NO_ANSWER):
        for chunk in response.iter_stream():
            read += chunk
            if len(read) > _MOST_READ:
                break
    return read


class _Network(httpcore.NetworkBackend):
    """Connects to addresses that were checked before, and gives every read and write what is left of the time."""

    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()
        self.deadline = 0.0

    def left(self) -> float:
        """Return the seconds that are left. Raises httpcore's ReadTimeout: none are."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout
        return seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of the host's addresses that answers; its name is not looked up a second time."""
        try:
            found = addresses.resolve(host.strip("[]"), port)
        except OSError as exc:
            raise httpcore.ConnectError(f"{host}: {exc.strerror or exc}") from exc
        for address in found[:-1]:
            try:
                return self._connect(address, port, self.left() / 2)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(found[-1], port, self.left())

    def _connect(self, address: str, port: int, timeout: float) -> httpcore.NetworkStream:
        return _Stream(self._sockets.connect_tcp(address, port, timeout), self)


class _Stream(httpcore.NetworkStream):
    """A connection that ends when the time is up, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, network: _Network) -> None:
        self._stream, self._network = stream, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._network.left()), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@cache
def _ssl_context() -> ssl.SSLContext:
    """Return httpx's own, which verifies; making one reads all certificates, so there is one for a process."""
    return httpx.create_ssl_context()


def _in_words(exc: Exception) -> str:
    if isinstance(exc, httpcore.TimeoutException):
        return f"no answer within {conf.webhook_timeout_seconds:g} s"
    return str(exc) or type(exc).__name__
