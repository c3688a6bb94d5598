"""examples/monitoring: alert rules and dashboard name what /metrics shows, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from async_migrations import counting, lifecycle
from async_migrations.errors import ExecutionError
from async_migrations.models import AsyncMigrationStatus
from async_migrations.rest import metrics
from async_migrations.states import Status
from tests.conftest import need
from tests.test_docs import block, table

from .conftest import ORIGIN, begin
from .test_metrics import samples

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "examples" / "monitoring"
DOCUMENT = ROOT / "docs" / "monitoring.md"

ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
EXPRESSIONS = [*(alert["expr"] for alert in ALERTS), *(target["expr"] for target in TARGETS)]


@pytest.fixture
def exposed(viewer, migration):
    """Everything that can happen has; what /metrics shows then: name -> names of its labels."""
    lifecycle.fail(begin(migration(Status.STARTED).pk), ExecutionError("database_error", "no"))
    row = migration(Status.STARTED, kind="backfill", database="second")
    lease = begin(row.pk)
    AsyncMigrationStatus.objects.filter(pk=row.pk).update(throttled={"reason": "lock_waiters"})
    lifecycle.note(lease, "lock_retry", statement=1)
    lifecycle.note(lease, "waiting_for_session", holders=[{"application_name": f"async-migrations/{row.pk}/1"}])
    lifecycle.note(lease, "throttled", reason="lock_waiters", seconds=2.5)
    counting.rows_done("second", 10)
    counting.worker_seen("async_migrations")
    lifecycle.set_hold("second", "release night", ORIGIN)
    viewer.get("/api/async-migrations")
    found = samples(viewer.get("/metrics"))
    return {f"async_migrations_{name}": {label for label, _ in labels} for name, labels in found}


def test_alerts_and_dashboard_ask_for_what_there_is(exposed):
    for expression in EXPRESSIONS:
        selected = re.findall(r"(async_migrations_\w+)(?:\{([^}]*)\})?", expression)
        assert selected, expression
        for name, matchers in selected:
            assert name in exposed, expression
            assert {*re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)} <= exposed[name], expression
        shared = set.intersection(*(exposed[name] for name, _ in selected))
        assert {*re.findall(r"\w+", " ".join(re.findall(r"(?:by|on) \(([^)]*)\)", expression)))} <= shared, expression


def test_legends_and_texts_name_labels_that_are_left():
    texts = [(target["expr"], target["legendFormat"], r"\{\{(\w+)\}\}") for target in TARGETS]
    texts += [(alert["expr"], alert["annotations"]["summary"], r"\$labels\.(\w+)") for alert in ALERTS]
    for expression, text, pattern in texts:
        kept = {*re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression)))}
        assert {*re.findall(pattern, text)} <= kept, (expression, text)


def test_every_metric_is_on_the_dashboard():
    drawn = " ".join(target["expr"] for target in TARGETS)
    counted = [next(iter(metric.describe())).name for metric in counting.METRICS]
    known = [*(f"async_migrations_{name}" for name in metrics.STATE), *counted]
    assert [name for name in known if name not in drawn] == []


def test_every_alert_is_explained():
    assert [row[0] for row in table(DOCUMENT, "alert")] == [alert["alert"] for alert in ALERTS]


def test_prometheus_takes_the_rules_and_the_scrape_configuration_and_the_rules_see_what_they_should(tmp_path):
    need("promtool")  # Debian has it in the package prometheus.
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(block("prometheus.yml", DOCUMENT))
    (tmp_path / "token").write_text("made-up")
    behaviour = ROOT / "tests" / "monitoring" / "alerts.test.yaml"
    for command in (["check", "config", str(tmp_path / "prometheus.yml")], ["test", "rules", str(behaviour)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    groups = [
        {"name": "dashboard", "rules": [{"record": f"r{n}", "expr": _filled(e)} for n, e in enumerate(EXPRESSIONS)]}
    ]
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump({"groups": groups}))
    check = ["promtool", "check", "rules", str(tmp_path / "dashboard.yaml")]
    assert subprocess.run(check, check=False).returncode == 0


def _filled(expression):
    """Put values in the places of Grafana's variables."""
    return expression.replace("$__rate_interval", "5m").replace("$database", ".*")
