"""The control plane as a CI script sees it: HTTP with a token, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from .errors import CannotGoOn
from .service import Door

POLL_SECONDS = 0.25

Row = dict[str, Any]


class ControlPlane:
    """Asks for migrations, tunes and follows them. Raises CannotGoOn where the service refuses or falls silent."""

    def __init__(self, client: httpx.Client, door: Door) -> None:
        self._client, self._door = client, door

    def find(self, name: str) -> Row:
        """Return the migration of this name, which is the dotted path of its file."""
        found = self._ask("GET", "/api/async-migrations", params={"name": name})["results"]
        if len(found) != 1:
            raise CannotGoOn(f"there are {len(found)} migrations of the name {name}, not one")
        return dict(found[0])

    def get(self, pk: int) -> Row:
        """Return a migration as it is now, with its SQL."""
        return self._ask("GET", f"/api/async-migrations/{pk}")

    def ask(self, verb: str, pk: int, **body: Any) -> Row:
        """POST one of the verbs, such as run or rollback, and return the row as it is then."""
        return self._ask("POST", f"/api/async-migrations/{pk}/{verb}", json=body or None)

    def tune(self, pk: int, values: dict[str, Any]) -> Row:
        """PATCH what wins over the options of the file, and return the row as it is then."""
        return self._ask("PATCH", f"/api/async-migrations/{pk}/tuning", json=values)

    def follow(self, pk: int, every: float = POLL_SECONDS) -> Iterator[Row]:
        """Yield the row every so many seconds until it is terminal; the last one is the end."""
        while not (row := self.get(pk))["terminal"]:
            yield row
            self._door.check()
            time.sleep(every)
        yield row

    def wait(self, pk: int, every: float = POLL_SECONDS) -> Row:
        """Return the row when it is terminal."""
        *_, row = self.follow(pk, every)
        return row

    def _ask(self, method: str, path: str, **options: Any) -> Row:
        try:
            response = self._client.request(method, path, **options)
        except httpx.HTTPError as exc:
            raise CannotGoOn(f"{method} {path} got no answer: {exc}") from exc
        if response.is_error:
            raise CannotGoOn(f"{method} {path} was refused, {response.status_code}: {_detail(response)}")
        return dict(response.json())


@contextmanager
def control_plane(door: Door) -> Iterator[ControlPlane]:
    """Yield the control plane behind a door."""
    headers = {"Authorization": f"Token {door.token}"}
    # Not through a proxy that the environment may name: the door is on this machine.
    with httpx.Client(base_url=door.url, headers=headers, timeout=30, trust_env=False) as client:
        yield ControlPlane(client, door)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
