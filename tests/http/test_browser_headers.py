"""What browsers are told, and do: no other origin, no frame, no script but ours; pages that work all the same."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from api.headers import CONTENT_SECURITY_POLICY
from tests.browser import expect

from .conftest import assert_problem

URL = "/api/async-migrations"
PAGES = ("/healthz", "/api/docs", "/api/schema", "/admin/login/", URL, "/nowhere", "/static/nowhere.css")


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES)
def test_it_works(client, path):
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize("method", ["get", "post", "options"])
def test_no_other_origin_is_let_in(operator, migration, method):
    path = f"{URL}/{migration().pk}" + ("/run" if method == "post" else "")
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = getattr(operator, method)(path, headers=asked)
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    if method == "options":
        assert_problem(response, 405, "method_not_allowed")


def test_the_pages_do_nothing_that_the_policy_forbids(open_page, control):
    admin = User.objects.create_superuser("alice", password="correct horse")
    page = open_page(admin, expected="favicon.ico")
    page.goto("/api/docs")
    page.locator(".opblock-summary-control").first.click()
    page.locator(".opblock-body .response").first.wait_for()
    for path in ("", "async_migrations/asyncmigrationstatus/", "knox/authtoken/", f"auth/user/{admin.pk}/change/"):
        page.goto(f"/admin/{path}")
        assert page.locator("#site-name a").text_content(), path
    expect(page.locator("#header")).to_have_css("display", "flex")


def test_a_script_that_got_into_a_page_does_not_run(open_page, control):
    page = open_page(User.objects.create_superuser("alice"), expected="Content Security Policy|x:|favicon.ico")
    page.goto("/admin/")
    with page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.broken = 1\">')")
    page.evaluate("new Promise(done => { const image = new Image(); image.onerror = done; image.src = 'x:'; })")
    assert page.evaluate("window.broken") is None
