"""A typed client that a stranger generates from openapi.yaml drives the main job against a real server and worker."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from async_migrations import lifecycle
from async_migrations.lifecycle import Request
from tests.conftest import eventually

DOCUMENT = Path(__file__).resolve().parents[2] / "openapi.yaml"
CONFIG = "post_hooks: []\n"  # it would format its output with a ruff on the PATH


@pytest.fixture
def generated(tmp_path, monkeypatch):
    """Generate the client, offline, and give a function that imports a module of it."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(DOCUMENT), "--meta", "none"]
    command += ["--output-path", str(tmp_path / "migrations_client"), "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run([*command, "--fail-on-warning"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: import_module(f"migrations_client.{name}".rstrip("."))
    for name in [name for name in sys.modules if name.startswith("migrations_client")]:
        del sys.modules[name]


@pytest.mark.e2e
def test_list_run_and_poll(generated, start_api, start_worker, token):
    row = lifecycle.take_over(Request("schedule", "shop.migrations.0002_async", "default", "SELECT 1", "SELECT 2"))
    start_worker()
    door = "api.async_migrations.async_migrations_"
    models = generated("models")
    server, credentials = start_api().url, token("operator")
    with generated("").AuthenticatedClient(server, credentials, raise_on_unexpected_status=True) as client:
        wanted = [models.AsyncMigrationsListStatusItem(status) for status in ("SCHEDULED", "ERROR")]
        order = [models.AsyncMigrationsListOrderingItem(field) for field in ("status", "-id")]
        page = generated(door + "list").sync(client=client, name=row.name, status=wanted, ordering=order)
        assert (page.count, page.results[0].id, page.results[0].status) == (1, row.pk, models.Status.SCHEDULED)
        pk = page.results[0].id

        answer = generated(door + "run").sync_detailed(pk, client=client, if_match="*", x_request_id="client-1")
        assert answer.status_code == 202
        assert answer.headers["Location"] == f"/api/async-migrations/{pk}"
        assert isinstance(answer.parsed, models.Migration)

        look = generated(door + "retrieve").sync
        eventually(lambda: look(pk, client=client).terminal, what="the migration has ended")
        found = look(pk, client=client)
        assert (found.status, found.progress.percent) == (models.Status.FINISHED, 100.0)
        assert found.sql_forwards == "SELECT 1"

        again = generated(door + "run").sync_detailed(pk, client=client, body=models.RunRequest())
        assert (again.status_code, again.parsed.status) == (200, models.Status.FINISHED)

        events = generated(door + "events_list").sync(pk, client=client)
        assert [event.kind for event in events.results][:3] == ["schedule", "run", "claim"]
        assert events.results[1].request_id == "client-1"
        assert generated(door + "summary").sync(client=client).total == 1

        refused = generated(door + "cancel").sync_detailed(pk, client=client)
        assert isinstance(refused.parsed, models.Problem)
        assert (refused.parsed.code, refused.parsed.allowed) == ("invalid_transition", ["rollback"])
