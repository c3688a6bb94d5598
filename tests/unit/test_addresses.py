"""Which addresses a webhook may lead to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from async_migrations import states
from async_migrations.errors import WebhookRefused
from async_migrations.webhooks import addresses, endpoints

APP = Path(__file__).resolve().parents[2] / "async_migrations"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104 - refused here
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "fe80::1%lo",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:192.168.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "2001:0:0:0:0:0:80ff:fefe",
    ],
)
def test_an_address_that_is_not_public_is_refused(address):
    with pytest.raises(WebhookRefused, match="not a public address"):
        addresses.check_literal(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_public_address_is_allowed(address):
    addresses.check_literal(address)


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f.1", "127.1"])
def test_another_way_to_write_a_private_address_is_refused_where_it_is_connected_to(host):
    with pytest.raises(WebhookRefused, match="not a public address"):
        addresses.resolve(host, 443)


def test_one_private_address_among_several_is_enough_to_refuse():
    with pytest.raises(WebhookRefused, match="localhost leads to"):
        addresses.resolve("localhost", 443)


def test_every_kind_of_event_that_the_code_writes_can_be_wanted():
    written: set[str] = set()
    engine = ("lifecycle", "execution", "webhooks")
    for path in [APP / "tasks.py", *(path for room in engine for path in (APP / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node) in {"note", "record", "remark", "tell"}:
                constants = [each for argument in node.args[:3] for each in ast.walk(argument)]
                written |= {str(each.value) for each in constants if isinstance(each, ast.Constant)}
    stops = {f"{request}_requested" for request in states.StopRequest.values}
    proofs = {"statement_done", "_requested", ""}
    assert written - proofs <= set(endpoints.EVENTS)
    assert set(states.REMARKS) <= written | stops | proofs


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")
