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
