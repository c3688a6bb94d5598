"""What browsers are told, and do: no other origin, no frame, no script but ours; pages that work all the same."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from api.headers import CONTENT_SECURITY_POLICY
from tests.browser import browser

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


def there(selector: str) -> str:
    """Return a promise that something is in the page."""
    look = f"document.querySelector({selector!r}) ? done(1) : setTimeout(look, 20)"
    return f"new Promise(done => {{ const look = () => {look}; look(); }})"


def test_the_pages_do_nothing_that_the_policy_forbids(shared_api, control, tmp_path):
    admin = User.objects.create_superuser("alice", password="correct horse")
    session = Client()
    session.force_login(admin)
    with browser(tmp_path / "profile") as page:
        page.visit(f"{shared_api.url}/api/docs")
        page.run(there(".opblock-summary-control"))
        page.run("document.querySelector('.opblock-summary-control').click()")
        assert page.run(there(".opblock-body .response")) == 1
        page.tell("Network.setCookie", name="sessionid", value=session.cookies["sessionid"].value, url=shared_api.url)
        for path in ("", "async_migrations/asyncmigrationstatus/", "knox/authtoken/", f"auth/user/{admin.pk}/change/"):
            page.visit(f"{shared_api.url}/admin/{path}")
            assert page.run("document.querySelector('#site-name a').textContent"), path
        assert page.run("getComputedStyle(document.querySelector('#header')).display") == "flex"
        complaints = [said for said in page.complaints if "favicon.ico" not in said]
        assert not complaints, "\n".join(complaints)

        page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.broken = 1\">')")
        page.run("new Promise(done => { const image = new Image(); image.onerror = done; image.src = 'x:'; })")
        assert page.run("window.broken") is None
        assert "Content Security Policy" in "\n".join(page.complaints)
