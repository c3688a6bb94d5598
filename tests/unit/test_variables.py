"""Environment variables: what makes sense is taken, and what makes none is refused with words that help."""

from __future__ import annotations

import traceback

import pytest
from django.core.exceptions import ImproperlyConfigured

from api import variables

POSTGRES = {"DATABASE_URL": "postgresql://user:pass%40word@db.internal:5433/app?sslmode=require"}


def test_a_database_url_becomes_djangos_form():
    (parsed,) = variables.databases(POSTGRES).values()
    assert {key: parsed[key] for key in ("HOST", "PORT", "USER", "PASSWORD", "NAME")} == {
        "HOST": "db.internal",
        "PORT": 5433,
        "USER": "user",
        "PASSWORD": "pass@word",
        "NAME": "app",
    }
    options = parsed["OPTIONS"]
    assert (options["sslmode"], options["connect_timeout"]) == ("require", variables.CONNECT_TIMEOUT)
    assert options["tcp_user_timeout"] == 60_000, "a network that falls silent is noticed within a minute"


def test_the_socket_form_of_libpq_is_understood():
    parsed = variables.databases({"DATABASE_URL": "postgresql://postgres@/postgres?host=/run/sockets"})["default"]
    assert (parsed["HOST"], parsed["NAME"], parsed["USER"]) == ("/run/sockets", "postgres", "postgres")
    assert "host" not in parsed["OPTIONS"]


def test_each_further_database_is_known_by_its_alias():
    found = variables.databases(POSTGRES | {"DATABASE_URL_SECOND": "postgresql://h/second", "DATABASE_URL_EMPTY": ""})
    assert {alias: parsed["NAME"] for alias, parsed in found.items()} == {"default": "app", "second": "second"}


def test_sqlite_will_do_for_tools():
    assert "sqlite3" in variables.databases({"DATABASE_URL": "sqlite://:memory:"})["default"]["ENGINE"]


@pytest.mark.parametrize("url", ["mysql://u:hidden@h/d", "nonsense", "postgresql://u:hid/den@h:port/d", "hidden"])
def test_a_database_url_that_makes_no_sense(url):
    with pytest.raises(
        ImproperlyConfigured, match=r"DATABASE_URL_SECOND is .*say postgresql://|Say postgresql://"
    ) as caught:
        variables.databases(POSTGRES | {"DATABASE_URL_SECOND": url})
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["//u:hid?den@h/d", "//u:hid[den]@h/d", "//u:hid[den@h/d", "//u:hid#den@h:x/d", "//u:hidden", "//u:hid/den",
     "//h:x/d?a=hid@den", "//u:hid\u2100den@h/d", "//hid?den@h:1/x"],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["postgresql", "redis", "amqp", "mysql"])
def test_no_error_and_nothing_behind_it_holds_a_part_of_the_password(scheme, url):
    name, read = ("DATABASE_URL", variables.databases) if "sql" in scheme else ("BROKER_URL", variables.broker)
    try:
        read({name: f"{scheme}:{url}"})
    except ImproperlyConfigured as exc:
        told = "".join(traceback.format_exception(exc))
        assert not [part for part in ("hid", "den") if part in told], told


@pytest.mark.parametrize("text", ["yes", "-1", "1.5"])
def test_a_number_that_is_none(text):
    with pytest.raises(ImproperlyConfigured, match="SECURE_HSTS_SECONDS"):
        variables.count({"SECURE_HSTS_SECONDS": text}, "SECURE_HSTS_SECONDS", default=0)


def test_the_header_of_a_proxy():
    name = "SECURE_PROXY_SSL_HEADER"
    assert variables.header({}, name) is None
    assert variables.header({name: "X-Forwarded-Proto: https"}, name) == ("HTTP_X_FORWARDED_PROTO", "https")
    with pytest.raises(ImproperlyConfigured, match="X-Forwarded-Proto: https"):
        variables.header({name: "https"}, name)


def test_no_database_at_all():
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL is not set"):
        variables.databases({})


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://:pw@h/0", "unix:///run/redis.sock"])
def test_redis_is_asked_with_patience_that_ends(url):
    chosen = variables.broker({"BROKER_URL": url})
    assert chosen is not None
    assert chosen["BROKER"].endswith("RedisBroker")
    connection = chosen["OPTIONS"]["client"].connection_pool.connection_kwargs
    assert connection["socket_connect_timeout"] == variables.BROKER_TIMEOUT
    assert connection["retry"].get_retries() == 1


def test_rabbitmq_is_asked_with_patience_that_ends():
    chosen = variables.broker({"BROKER_URL": "amqp://u:p@h/"})
    assert chosen is not None
    assert chosen["BROKER"].endswith("RabbitmqBroker")
    assert "connection_attempts=1" in chosen["OPTIONS"]["url"]


def test_the_broker_writes_no_rows_and_opens_no_ports():
    chosen = variables.broker({"BROKER_URL": "redis://h"})
    assert chosen is not None
    assert not [name for name in chosen["MIDDLEWARE"] if name.endswith(("AdminMiddleware", "Prometheus", "AgeLimit"))]


def test_without_a_broker_there_is_no_setting():
    assert variables.broker({}) is None


@pytest.mark.parametrize("url", ["kafka://u:hidden@h", "hidden", "redis://:hidden@h:port/0"])
def test_a_broker_url_that_makes_no_sense(url):
    with pytest.raises(ImproperlyConfigured, match=r"BROKER_URL is .*ay redis://") as caught:
        variables.broker({"BROKER_URL": url})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"), [("true", True), ("1", True), ("YES", True), ("no", False), ("0", False), ("", False)]
)
def test_a_switch(text, meant):
    assert variables.switch({"DEBUG": text}, "DEBUG", default=False) is meant


@pytest.mark.parametrize("text", ["perhaps", "2", "on"])
def test_a_switch_that_makes_no_sense(text):
    with pytest.raises(ImproperlyConfigured, match=f"DEBUG is '{text}'"):
        variables.switch({"DEBUG": text}, "DEBUG", default=False)


def test_a_choice_that_makes_no_sense():
    with pytest.raises(ImproperlyConfigured, match="LOG_FORMAT is 'xml': say one of console, json"):
        variables.choice({"LOG_FORMAT": "xml"}, "LOG_FORMAT", variables.LOG_FORMATS, default="json")


def test_an_origin_without_a_scheme():
    with pytest.raises(ImproperlyConfigured, match=r"CSRF_TRUSTED_ORIGINS holds 'example.com'"):
        variables.origins({"CSRF_TRUSTED_ORIGINS": "https://a.example, example.com"}, "CSRF_TRUSTED_ORIGINS")


def test_a_secret_key_is_needed_unless_debugging():
    assert variables.secret_key({}, debug=True)
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY is not set"):
        variables.secret_key({}, debug=False)


def test_settings_of_the_app_are_handed_on_and_misspelt_ones_refused():
    given = {"ASYNC_MIGRATIONS_LEASE_SECONDS": "7"}
    assert variables.app_settings(given | {"OTHER": "1"}) == given
    with pytest.raises(ImproperlyConfigured, match="ASYNC_MIGRATIONS_LEASE is no setting"):
        variables.app_settings({"ASYNC_MIGRATIONS_LEASE": "7"})


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:9191", ("127.0.0.1", 9191)), ("[::1]:9191", ("::1", 9191)), ("", None)],
)
def test_an_address_has_a_host_and_a_port(text, found):
    assert variables.address({"METRICS_BIND": text}, "METRICS_BIND") == found


@pytest.mark.parametrize("text", ["9191", ":9191", "localhost:", "localhost:http", "localhost:70000"])
def test_an_address_that_makes_no_sense_is_refused(text):
    with pytest.raises(ImproperlyConfigured, match=r"METRICS_BIND is .* say HOST:PORT"):
        variables.address({"METRICS_BIND": text}, "METRICS_BIND")
