"""A receiver of webhooks: a real HTTP server in the test's process, which answers as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Message:
    """What was received."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["data"])

    def is_signed_with(self, secret: str) -> bool:
        """Verify as the Standard Webhooks specification says: v1,base64(HMAC-SHA256(secret, "id.timestamp.body"))."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.{self.body.decode()}".encode()
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split()


@dataclass
class Receiver:
    """answers: status codes, or functions of the handler, for the first requests; then 204.

    connections: how many were made, also of those that said nothing.
    """

    url: str
    answers: list[int | Callable[[BaseHTTPRequestHandler], object]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    connections: int = 0

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer with headers, such as a redirect."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


@contextmanager
def receiving(port: int = 0, certificate: Path | None = None) -> Iterator[Receiver]:
    """Receive on 127.0.0.1 for the length of the block. certificate: a file with key and certificate, for https."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.messages.append(Message(self.path, headers, body))
                answer = receiver.answers.pop(0) if receiver.answers else 204
            with suppress(OSError):  # Who asked has gone.
                answer(self) if callable(answer) else answering(answer)(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            receiver.connections += 1
            return True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: who asked may be killed by the test."""

    with Server(("127.0.0.1", port), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        receiver = Receiver(f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
