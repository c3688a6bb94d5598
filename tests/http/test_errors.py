"""Bad input and bad luck: every refusal is problem+json with a stable code, nothing is a 500 that need not be one."""

import json
import logging

import pytest
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.test import Client, override_settings

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import assert_problem

LIST = "/api/async-migrations"


def run_url(row):
    return f"{LIST}/{row.pk}/run"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'run_at': null}",
        b"run_at=now",
        b'{"run_at": NaN}',
        b'{"run_at": Infinity}',
        b'{"run_at": ' + b"9" * 5000 + b"}",
        b"[" * 30000,
        b'{"a":' * 10000,
        b"\xff\xfe{\x00}\x00",
        b"\x00",
        b'{"run_at": "\x00"}',
        b"<run/>",
    ],
)
def test_malformed_json(operator, migration, body):
    row = migration()
    assert_problem(operator.generic("POST", run_url(row), body, "application/json"), 400, "malformed_json")
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


@pytest.mark.parametrize(
    "body",
    ['{"a\\u0000b": 1}', '{"\\ud800": 1}', '{"run_at": "\\u0000"}', '{"run_at": "\\udfff"}', '{"run_at": 1e999}',
     '{"run_at": ' + "9" * 4000 + "}", '{"run_at": [[[[]]]]}'],
)  # fmt: skip
def test_json_that_no_column_could_hold(operator, migration, body):
    assert_problem(operator.generic("POST", run_url(migration()), body, "application/json"), 400, "validation_error")


@pytest.mark.parametrize(
    "parameter", ["?name", "?search", "?database", "/gate?name", "/gate?prefix", "/gate?app", "/hold?database"]
)
def test_a_nul_character_in_a_parameter(viewer, parameter):
    problem = assert_problem(viewer.get(f"{LIST}{parameter}=a%00b"), 400, "validation_error")
    assert "NUL" in problem["errors"][parameter.partition("?")[2]][0]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/merge-patch+json", "nonsense",
     "application/json; charset=utf-16", "application/json; charset=klingon", "application/json; charset=bz2_codec"],
)  # fmt: skip
def test_a_body_that_is_not_json(operator, migration, content_type):
    problem = assert_problem(
        operator.generic("POST", run_url(migration()), b"{}", content_type), 415, "unsupported_media_type"
    )
    assert "Content-Type: application/json" in problem["detail"]


@pytest.mark.parametrize("size", [64 * 1024 + 1, 10 * 1024 * 1024])
def test_a_body_that_is_too_large(operator, migration, size):
    row = migration()
    body = b'{"run_at": "' + b"x" * size + b'"}'
    response = operator.generic("POST", run_url(row), body, "application/json")
    assert_problem(response, 413, "body_too_large")
    left = len(response.wsgi_request.environ["wsgi.input"].read())
    assert left == max(0, len(body) - 1024 * 1024), "what is a little too much is read and dropped, not more"
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_a_body_without_its_length(operator, migration):
    response = operator.generic("POST", run_url(migration()), b"", headers={"Transfer-Encoding": "chunked"})
    assert_problem(response, 411, "length_required")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "", "GET, HEAD"), ("DELETE", "/1", "GET, HEAD"), ("PATCH", "/1", "GET, HEAD"), ("GET", "/1/run", "POST"),
     ("PUT", "/1/cancel", "POST"), ("OPTIONS", "/1/rollback", "POST"), ("OPTIONS", "", "GET, HEAD"),
     ("BREW", "/1", "GET, HEAD")],
)  # fmt: skip
def test_a_wrong_method(operator, method, path, allowed):
    response = operator.generic(method, LIST + path)
    assert_problem(response, 405, "method_not_allowed")
    assert response["Allow"] == allowed


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "text/csv, image/*", "nonsense"])
def test_an_answer_that_is_not_json_cannot_be_had(viewer, accept):
    assert_problem(viewer.get(LIST, headers={"Accept": accept}), 406, "not_acceptable")


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/*", "application/json", "text/html, */*;q=0.8", "application/json; charset=utf-8", ""],
)
def test_json_is_answered_to_whoever_takes_it(viewer, accept):
    response = viewer.get(LIST, headers={"Accept": accept})
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/unknown", "/api/async-migrations/", "/api/async-migrations/1/fly", "/api/%ff%00"]
)
@pytest.mark.parametrize("debug", [True, False])
def test_an_unknown_address(client_of, path, debug):
    client = client_of(None)
    with override_settings(DEBUG=debug):
        for method in ("GET", "POST", "DELETE"):
            assert_problem(client.generic(method, path, headers={"Accept": "text/html"}), 404, "not_found")


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "X-Request-ID": "r-3"}


def assert_page(response, status, *words):
    """The answer is a page in the dashboard's look that says these, and where to go on."""
    assert (response.status_code, response["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert "dashboard.css" in response.text
    assert 'href="/migrations"' in response.text
    assert [text for text in words if text not in response.text] == []


@pytest.mark.django_db
def test_outside_of_the_api_html_is_for_whoever_accepts_it(client):
    assert_page(client.get("/unknown", headers=BROWSER), 404, "There is nothing at this address")
    assert_page(client.get("/", headers=BROWSER | {"Host": "evil.example.com"}), 400, "Nothing was done")
    for accept in ("application/json", "*/*", ""):
        assert_problem(client.get("/unknown", headers={"Accept": accept}), 404, "not_found")


@pytest.mark.django_db
def test_somebody_of_the_admin_who_may_not(client):
    client.force_login(User.objects.create_user("victor", is_staff=True))
    page = client.get("/admin/async_migrations/asyncmigrationstatus/", headers=BROWSER)
    assert_page(page, 403, "A permission is missing", "ask for the permission")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login", "/admin/login/"])
def test_a_form_without_its_csrf_token(path):
    browser = Client(enforce_csrf_checks=True)
    assert_problem(browser.post(path), 403, "csrf_failed")
    again = f'href="http://testserver{path}"'
    page = browser.post(path, headers=BROWSER | {"Referer": f"http://testserver{path}"})
    assert_page(page, 403, "Nothing was done", "cookies", "CSRF cookie not set", again)
    page = browser.post(path, headers=BROWSER | {"Referer": f"https://evil.example{path}"})
    assert_page(page, 403, "Nothing was done")
    assert "evil" not in page.text


def test_a_page_while_the_database_is_away(django_db_setup, django_db_blocker, monkeypatch):
    browser = Client(raise_request_exception=False)
    browser.cookies["sessionid"] = "x" * 32
    # Whatever asks for the database here raises what nobody foresaw: and so would the page that says that.
    assert_page(browser.get("/", headers=BROWSER), 500, "Something unforeseen", "under the id r-3")
    with django_db_blocker.unblock():
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "PORT", "1")
        page = browser.get("/", headers=BROWSER)
        assert_page(page, 503, "The database does not answer", "Ask again")
        assert int(page["Retry-After"]) > 0
        connection.close()


def test_a_wrong_host(viewer):
    assert_problem(viewer.get(LIST, headers={"Host": "evil.example.com"}), 400, "bad_request")
    assert_problem(viewer.get(LIST, headers={"Host": "a b"}), 400, "bad_request")


def test_too_many_parameters(viewer):
    assert_problem(viewer.get(LIST + "?" + "&".join(["a=1"] * 2000)), 400, "bad_request")


def raising(error):
    def instead(*args, **kwargs):
        raise error

    return instead


@pytest.mark.parametrize("error", [OperationalError("server closed"), InterfaceError("connection already closed")])
def test_the_database_is_away(viewer, migration, monkeypatch, error):
    row = migration()
    monkeypatch.setattr(lifecycle, "get", raising(error))
    response = viewer.get(f"{LIST}/{row.pk}")
    assert_problem(response, 503, "database_unavailable")
    assert int(response["Retry-After"]) > 0
    assert "server closed" not in response.text


def test_the_database_is_away_already_for_the_credentials(monkeypatch):
    monkeypatch.setattr("async_migrations.rest.token_lookup.find", raising(OperationalError("away")))
    response = Client().get(LIST, headers={"Authorization": "Bearer x"})
    assert_problem(response, 503, "database_unavailable")


def test_what_nobody_foresaw_is_logged_and_told_without_its_text(viewer, migration, monkeypatch, caplog):
    row = migration()
    monkeypatch.setattr(lifecycle, "get", raising(RuntimeError("secret: SELECT 1")))
    with caplog.at_level(logging.ERROR, "async_migrations"):
        response = viewer.get(f"{LIST}/{row.pk}", headers={"X-Request-ID": "r-1"})
    problem = assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert problem["request_id"] == "r-1"
    logged = next(record for record in caplog.records if record.levelname == "ERROR")
    assert (logged.request_id, str(logged.exc_info[1])) == ("r-1", "secret: SELECT 1")


def test_an_error_before_the_view_is_told_as_well(viewer, monkeypatch):
    monkeypatch.setattr("django.middleware.common.CommonMiddleware.process_request", raising(RuntimeError("secret")))
    response = viewer.get(LIST)
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text


@pytest.mark.parametrize("sent", ["abc", "x" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_a_request_id_is_taken_over(viewer, sent):
    assert viewer.get(LIST, headers={"X-Request-ID": sent})["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "with space", "line\nbreak", "\xe4\xf6", "\x00"])
def test_another_request_id_is_replaced(viewer, sent):
    answered = viewer.get(LIST, headers={"X-Request-ID": sent})["X-Request-ID"]
    assert len(answered) == 36
    assert answered.isascii()


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/healthz", "/unknown", "/api/schema", LIST])
def test_every_answer_carries_a_request_id(client, path):
    assert client.get(path, headers={"X-Request-ID": "r-2"})["X-Request-ID"] == "r-2"


def test_a_problem_is_plain_ascii(operator, migration):
    response = operator.generic("POST", run_url(migration()), json.dumps({"größe": 1}), "application/json")
    assert response.content.isascii()
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["größe"]
