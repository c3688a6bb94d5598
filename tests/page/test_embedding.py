"""The page in a project of one's own, as docs/dashboard.md says: under any prefix, and under a strict policy."""

from __future__ import annotations

import pytest

from async_migrations.states import Status
from tests.browser import expect
from tests.test_docs import ROOT, block

from .test_clicks import button

DASHBOARD = ROOT / "docs" / "dashboard.md"
PICTURES = ROOT / "docs" / "pictures"


def test_it_works(client, person, migration, settings, monkeypatch, tmp_path) -> None:
    (tmp_path / "urls_of_a_project.py").write_text(block("urls.py", DASHBOARD))
    monkeypatch.syspath_prepend(tmp_path)
    settings.ROOT_URLCONF = "urls_of_a_project"
    row = migration()
    prefix = "/operations/migrations"
    assert client.get(f"{prefix}/").headers["Location"] == f"{prefix}/login?next={prefix}/"
    client.force_login(person("alice"))
    for path in ("/", "/migrations", f"/migrations/{row.pk}", f"/migrations/{row.pk}/preflight"):
        page = client.get(f"{prefix}{path}")
        assert (page.status_code, f'href="{prefix}/migrations"' in page.text) == (200, True)
    assert "dashboard.css" not in client.get("/nowhere", headers={"Accept": "text/html"}).text, "the project's own page"
    assert client.post(f"{prefix}/migrations/{row.pk}/run").headers["Location"] == f"{prefix}/migrations/{row.pk}"


@pytest.mark.e2e
def test_no_more_is_needed_than_the_policy_that_is_named(open_page, person, migration) -> None:
    policy = block("csp", DASHBOARD).strip()

    def stricter(route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": policy})

    page = open_page(person("alice"))
    page.context.route("**/*", stricter)
    row = migration(Status.ERROR)
    for path in ("/", "/migrations", f"/migrations/{row.pk}"):
        page.goto(path)
        expect(page.locator(".top")).to_have_css("border-bottom-style", "solid")
        expect(page.locator("time").first).to_contain_text("ago")
    button(page, "Run").click()
    expect(page.locator(".far-along .status")).to_contain_text("STARTED")
    page.context.unroute_all(behavior="wait")  # A poll that is under way would fail the next test as this page closes.


def test_the_pictures_are_all_there_and_small() -> None:
    wanted = {f"{page}-{kind}.png" for page in ("overview", "list", "detail") for kind in ("light", "dark", "375")}
    assert {path.name for path in PICTURES.iterdir()} == wanted
    assert all(path.stat().st_size < 200_000 for path in PICTURES.iterdir())
