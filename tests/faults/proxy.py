"""A stretch of network between a worker and a server that a test can cut or let fall silent."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import quote


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on to the server of a Django database.

    `cut` resets what is open and refuses what is new; `silence` keeps everything open and passes nothing on, as a
    network does that drops packets; `mend` ends both.
    """

    def __init__(self, database: dict[str, Any]) -> None:
        self._database = database
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows, self._ended = threading.Event(), False
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._refusing = False
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
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._database["HOST"], int(self._database["PORT"] or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        self._flows.wait()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
