"""What a dedicated connection is like."""

from __future__ import annotations

import pytest
from django.db import connections

from async_migrations.execution.session import Session

pytestmark = pytest.mark.usefixtures("control")


@pytest.mark.parametrize(("options", "seconds"), [({}, "10"), ({"connect_timeout": 4}, "4")])
def test_a_network_that_falls_silent_is_noticed_unless_the_project_says_otherwise(monkeypatch, options, seconds):
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
    with Session("default", "test") as session:
        parameters = session._connection.info.dsn_parameters
    assert (parameters["keepalives_idle"], parameters["connect_timeout"]) == ("30", seconds)


def test_a_host_that_falls_silent_is_noticed_by_the_server_too():
    """A socket of the machine has no such timeouts: it shows 0, but who has set them all the same."""
    with Session("default", "test") as session:
        found = session.select("SELECT name, setting FROM pg_settings WHERE source = 'session' AND name LIKE 'tcp_%'")
    wanted = {
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
    on_a_socket = connections["default"].settings_dict["HOST"].startswith("/")
    assert {row["name"]: row["setting"] for row in found} == {n: "0" if on_a_socket else s for n, s in wanted.items()}
