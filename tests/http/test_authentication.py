"""Who asks: a token as Bearer or Token, or the session of a browser."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from knox.models import AuthToken

from async_migrations.states import Status

from .conftest import assert_problem

URL = "/api/async-migrations"


def get(authorization):
    return Client(raise_request_exception=False).get(URL, headers={"Authorization": authorization})


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "bearer", "TOKEN", "Bearer  "])
def test_it_works(bearer, scheme):
    assert get(f"{scheme} {bearer('viewer')}").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("authorization", ["", "Basic dXNlcjpwYXNz", "Digest x", "nonsense"])
def test_no_credentials(authorization):
    response = get(authorization)
    problem = assert_problem(response, 401, "not_authenticated")
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert "Authorization: Bearer" in problem["detail"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer ", "Token", "Bearer two words", "Bearer unknown", "Bearer \xff\xfe", "Bearer a\0b",
     "Bearer " + "f" * 128, "Bearer " + "x" * 7000],
)  # fmt: skip
def test_a_token_that_nobody_has(authorization):
    response = get(authorization)
    assert_problem(response, 401, "invalid_token")
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert 'error="invalid_token"' in response["WWW-Authenticate"]


def test_a_token_with_another_end_is_not_the_token(bearer):
    token = bearer("viewer")
    assert_problem(get(f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}"), 401, "invalid_token")


def test_an_expired_token_says_so_each_time(bearer):
    token = bearer("viewer")
    AuthToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))
    for _ in range(2):
        response = get(f"Bearer {token}")
        problem = assert_problem(response, 401, "token_expired")
        assert "expired" in problem["detail"]
        assert "create_api_token" in problem["detail"]
        assert response["WWW-Authenticate"].startswith("Bearer")


def test_a_token_without_expiry_stays(bearer):
    assert get(f"Bearer {bearer('viewer', expires='never')}").status_code == 200


def test_a_deactivated_user(bearer, django_user_model):
    token = bearer("operator")
    django_user_model.objects.update(is_active=False)
    assert_problem(get(f"Bearer {token}"), 401, "invalid_token")


def test_few_queries_are_needed(viewer, migration):
    row = migration()
    with CaptureQueriesContext(connection) as captured:
        assert viewer.get(f"{URL}/{row.pk}").status_code == 200
    assert len(captured) <= 4  # token with user, permissions of the user and of the groups, row


def test_a_session_reads(client, admin_user):
    client.force_login(admin_user)
    assert client.get(URL).status_code == 200


def test_a_session_needs_a_csrf_token_to_change_something(admin_user, migration):
    row = migration()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(admin_user)

    assert_problem(browser.post(f"{URL}/{row.pk}/run", content_type="application/json"), 403, "csrf_failed")

    browser.cookies["csrftoken"] = "a" * 32
    response = browser.post(f"{URL}/{row.pk}/run", content_type="application/json", headers={"X-CSRFToken": "a" * 32})
    assert (response.status_code, response.json()["requested_by"]) == (202, "admin")


def test_a_token_needs_no_csrf_token(bearer, migration):
    client = Client(enforce_csrf_checks=True, headers={"Authorization": f"Bearer {bearer('operator')}"})
    assert client.post(f"{URL}/{migration().pk}/run", content_type="application/json").status_code == 202


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", ""), ("get", "/summary"), ("get", "/1"), ("get", "/1/events"), ("post", "/1/run"), ("post", "/1/cancel"),
     ("post", "/1/rollback")],
)  # fmt: skip
def test_every_door_asks_for_credentials_first(client_of, method, path):
    assert_problem(getattr(client_of(None), method)(URL + path), 401, "not_authenticated")


def test_a_host_project_keeps_the_contract_with_settings_of_its_own(settings, bearer, migration):
    settings.REST_FRAMEWORK = {
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.BasicAuthentication"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
        "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.AnonRateThrottle"],
        "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
        "EXCEPTION_HANDLER": "rest_framework.views.exception_handler",
        "DATETIME_FORMAT": "%d.%m.%Y",
        "UNAUTHENTICATED_USER": None,
    }
    settings.MIDDLEWARE = []
    row = migration(Status.SCHEDULED)
    response = get(f"Token {bearer('viewer')}")
    assert response.json()["results"][0]["created_at"].startswith(row.created_at.isoformat()[:10])
    assert response["X-Request-ID"]
    assert_problem(get(""), 401, "not_authenticated")
