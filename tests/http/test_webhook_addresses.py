"""Where webhooks may lead to: what is refused when they are added, and what when something is sent."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from async_migrations.webhooks import couriers, endpoints
from tests.conftest import free_port, need
from tests.receiver import receiving

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nearby")]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://127.0.0.1/", "not a public address"),
        ("https://[::ffff:10.0.0.1]/", "not a public address"),
        ("http://example.com/", "begins with https"),
        ("https://user:secret@example.com/", "user and password"),
        ("https://example.com/ä", "ASCII"),
        ("https://example.com:99999/", "no address"),
        ("ftp://example.com/", "begins with https"),
    ],
)
def test_an_address_is_refused(settings, url, why):
    settings.ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES = False
    with pytest.raises(CommandError, match=why) as refused:
        call_command("async_migrations", "webhooks", "add", "ours", url)
    assert refused.value.returncode == 2


def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_sent(receiver, settings):
    settings.ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES = False
    webhook = endpoints.add("ours", receiver.url.replace("http", "https").replace("127.0.0.1", "localhost"), "somebody")
    delivery = couriers.send_test(webhook)
    assert delivery.status == "failed"
    assert "not a public address" in delivery.error
    assert receiver.connections == 0


def test_the_certificate_is_that_of_the_name(tmp_path, monkeypatch):
    need("openssl")
    files = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(files[0]), "-out", str(files[1])]
    subprocess.run([*made.split(), *extension], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(files[0].read_text() + files[1].read_text())
    from async_migrations.webhooks import line

    with receiving(certificate=both) as receiver:
        named = receiver.url.replace("127.0.0.1", "localhost")
        unknown = couriers.send_test(endpoints.add("unknown", named, "somebody"))
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.error
        monkeypatch.setenv("SSL_CERT_FILE", str(files[1]))
        line._ssl_context.cache_clear()
        try:
            assert couriers.send_test(endpoints.add("named", named, "somebody")).status == "delivered"
            other = couriers.send_test(endpoints.add("other", receiver.url, "somebody"))
            assert "certificate is not valid for '127.0.0.1'" in other.error
        finally:
            line._ssl_context.cache_clear()
        assert len(receiver.messages) == 1


def test_a_name_that_does_not_exist_is_tried_again(monkeypatch):
    webhook = endpoints.add("ours", "https://nowhere.invalid/", "somebody")
    assert "nowhere.invalid" in couriers.send_test(webhook).error


def test_a_proxy_of_the_environment_is_not_used(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert couriers.send_test(endpoints.add("ours", receiver.url, "somebody")).status == "delivered"


def test_the_connection_goes_to_the_address_that_was_checked(receiver, settings, monkeypatch):
    """A name server that answers otherwise the second time gets nothing: there is no second time."""
    asked = []
    resolve = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "rebinding.example":
            asked.append(host)
            host = "127.0.0.1"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    webhook = endpoints.add("ours", receiver.url.replace("127.0.0.1", "rebinding.example"), "somebody")
    assert couriers.send_test(webhook).status == "delivered"
    assert asked == ["rebinding.example"]
    assert receiver.messages[0].headers["host"].startswith("rebinding.example:")
