"""A stretch of network in front of a server that a test can cut, let fall silent, or have swallow answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import quote


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on to a server: HOST and PORT, as a Django database has it.

    `cut` resets what is open and refuses what is new; `silence` keeps everything open and passes nothing on, as a
    network does that drops packets; `mend` ends both. `lose_answers` passes requests on and cuts their answers off.
    `heard` is what clients have sent.
    """

    def __init__(self, database: dict[str, Any]) -> None:
        self._database = database
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows, self._ended = threading.Event(), False
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._refusing = False
        self._losing, self._to_lose = b"", 0
        self.heard = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The database's URL by way of this proxy."""
        user, password = (quote(self._database[name] or "", safe="") for name in ("USER", "PASSWORD"))
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{self._database['NAME']}"

    def cut(self) -> None:
        """Reset all connections, and every new one at once."""
        self._refusing = True
        self._reset()

    def silence(self) -> None:
        """Pass nothing on, in either direction."""
        self._flows.clear()

    def lose_answers(self, number: int, to: bytes) -> None:
        """Hang up in place of the next so many answers to what begins with `to`."""
        self._losing, self._to_lose = to, number

    def mend(self) -> None:
        """Be an ordinary network again."""
        self._refusing = False
        self._flows.set()

    def close(self) -> None:
        """End everything."""
        self._ended = True
        self._flows.set()
        self._listener.close()
        self._reset()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:  # The server is away, too.
                client.close()
                continue
            self._pairs.append((client, server))
            doomed = threading.Event()
            threading.Thread(target=self._pump, args=(client, server, doomed, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, doomed, False), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._database["HOST"], int(self._database["PORT"] or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, source: socket.socket, sink: socket.socket, doomed: threading.Event, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if asks:
                    self._listen(data, doomed)
                elif doomed.is_set():
                    break
                sink.sendall(data)
        self._flows.wait()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _listen(self, data: bytes, doomed: threading.Event) -> None:
        self.heard += data
        if self._to_lose and data.startswith(self._losing):
            self._to_lose -= 1
            doomed.set()

    def _reset(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
