"""The service as docs/deployment.md sets it up behind a proxy that ends TLS."""

from __future__ import annotations

import re
import secrets

import httpx
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import User

from api.processes import manage_command, run_to_end
from tests.conftest import environment
from tests.test_docs import ROOT, block

pytestmark = pytest.mark.e2e

SAID = dict(line.split("=", 1) for line in block("behind TLS", ROOT / "docs" / "deployment.md").splitlines())
HOST = SAID["ALLOWED_HOSTS"].split(",")[0]


def production() -> dict[str, str]:
    return {**SAID, "SECRET_KEY": secrets.token_urlsafe(50)}


def test_check_deploy_finds_nothing():
    env = environment(**production())
    done = run_to_end(manage_command("check", "--deploy", "--fail-level=WARNING"), env)
    assert (done.returncode, "no issues" in done.stdout + done.stderr) == (0, True), done.stdout + done.stderr


def test_without_those_variables_it_does():
    done = run_to_end(manage_command("check", "--deploy", "--fail-level=WARNING"), environment())
    assert done.returncode == 1
    assert set(re.findall(r"security\.W\d+", done.stderr)) == {f"security.W{n:03}" for n in (4, 8, 9, 12, 16)}


def test_it_works(start_api, token):
    # The service's own hasher: that of the tests' settings is unknown to it.
    hashed = PBKDF2PasswordHasher().encode("correct horse", "salt")
    User.objects.create(username="alice", password=hashed, is_staff=True, is_superuser=True)
    web, bearer = start_api(**production()), token("viewer")
    with httpx.Client(base_url=web.url, headers={"Host": HOST}) as plain:
        redirect = plain.get("/admin/login/")
        assert (redirect.status_code, redirect.headers["Location"]) == (301, f"https://{HOST}/admin/login/")
        assert plain.get("/healthz").status_code == 200
    secure = {"Host": HOST, "X-Forwarded-Proto": "https", "Referer": f"https://{HOST}/admin/login/"}
    with httpx.Client(base_url=web.url, headers=secure) as client:
        page = client.get("/admin/login/")
        assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
        (crumb,) = re.findall(r"^csrftoken=(\w+)", page.headers["Set-Cookie"])
        (hidden,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        said = {"username": "alice", "password": "correct horse", "csrfmiddlewaretoken": hidden, "next": "/admin/"}
        entered = client.post("/admin/login/", data=said, headers={"Cookie": f"csrftoken={crumb}"})
        assert entered.status_code == 302
        cookies = {cookie.partition("=")[0]: cookie for cookie in entered.headers.get_list("Set-Cookie")}
        for cookie in cookies.values():
            assert {"Secure", "SameSite=Lax"} <= set(cookie.split("; ")), cookie
        assert "HttpOnly" in cookies["sessionid"]

        # A browser's session needs the CSRF token to change something, from this origin; a token is not a browser's.
        (crumb,) = re.findall(r"^csrftoken=(\w+)", cookies["csrftoken"])
        both = {"Cookie": f"{cookies['sessionid'].partition(';')[0]}; csrftoken={crumb}", "X-CSRFToken": crumb}
        hold, body = "/api/async-migrations/hold", {"reason": "release"}
        for lacking in ({"X-CSRFToken": ""}, {"Origin": "https://evil.example"}, {"Referer": "https://evil.example/"}):
            assert client.put(hold, json=body, headers=both | lacking).json()["code"] == "csrf_failed"
        assert client.put(hold, json=body, headers=both).status_code == 200
        with_token = {"Authorization": f"Bearer {bearer}", "Origin": "https://evil.example"}
        assert client.get("/api/async-migrations", headers=with_token).status_code == 200
