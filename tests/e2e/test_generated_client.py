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
def test_the_whole_life_of_a_migration(generated, start_api, start_worker, token):
    row = lifecycle.take_over(Request("schedule", "shop.migrations.0002_async", "default", "SELECT 1", "SELECT 2"))
    start_worker()
    door = "api.async_migrations.async_migrations_"
    models = generated("models")
    server, credentials = start_api().url, token("operator")
    with generated("").AuthenticatedClient(server, credentials, raise_on_unexpected_status=True) as client:

        def ask(operation, *arguments, **options):
            return generated(door + operation).sync_detailed(*arguments, client=client, **options)

        def get(operation, *arguments, **options):
            answer = ask(operation, *arguments, **options)
            assert answer.status_code == 200, answer.content
            return answer.parsed

        def ended():
            eventually(lambda: get("retrieve", pk).terminal, what="the migration has ended")
            return get("retrieve", pk)

        wanted = [models.AsyncMigrationsListStatusItem(status) for status in ("SCHEDULED", "ERROR")]
        order = [models.AsyncMigrationsListOrderingItem(field) for field in ("status", "-id")]
        page = get("list", name=row.name, status=wanted, ordering=order)
        assert (page.count, page.results[0].id, page.results[0].status) == (1, row.pk, models.Status.SCHEDULED)
        pk = page.results[0].id
        assert get("gate", app=["shop"]).state == "blocked"
        assert get("preflight", pk).level != "error"

        # Held, so that there is time for all that can be asked before it begins.
        assert get("hold", body=models.HoldRequest(reason="a test")).held
        assert get("tune", pk, body=models.PatchedTuningRequest(priority=7)).priority == 7
        answer = ask("run", pk, if_match="*", x_request_id="client-1")
        assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/async-migrations/{pk}")
        assert isinstance(answer.parsed, models.Migration)
        assert get("hold_retrieve").holds[0].reason == "a test"
        assert ask("pause", pk).parsed.status == models.Status.PAUSED
        assert ask("resume", pk).parsed.status == models.Status.STARTED
        assert not get("hold_lift").held

        found = ended()
        assert (found.status, found.progress.percent) == (models.Status.FINISHED, 100.0)
        assert found.sql_forwards == "SELECT 1"
        assert get("gate", name=[row.name]).state == "pass"
        again = ask("run", pk, body=models.RunRequest())
        assert (again.status_code, again.parsed.status) == (200, models.Status.FINISHED)
        refused = ask("cancel", pk)
        assert isinstance(refused.parsed, models.Problem)
        assert (refused.parsed.code, refused.parsed.allowed) == ("invalid_transition", ["rollback"])

        assert ask("rollback", pk).status_code == 202
        assert ended().status == models.Status.ROLLED_BACK
        many = get("bulk_run", body=models.BulkRequest(ids=[pk]), idempotency_key="once")
        assert many.items[0].outcome == "accepted"
        assert ended().status == models.Status.FINISHED

        events = get("events_list", pk).results
        assert [event.kind for event in events if event.by == "operator-1"] == [
            "tuned", "run", "pause", "resume", "rollback", "run"
        ]  # fmt: skip
        assert events[2].request_id == "client-1"
        assert get("quarantine_list", pk).count == 0
        assert get("summary").total == 1
        assert {target.database for target in get("janitor_list")} == {"default", "second"}
