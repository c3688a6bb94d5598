"""`make serve` as a person meets it: it comes up, it goes away without a trace, and what is wrong is one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys

import httpx
import psutil
import pytest

from api.processes import ROOT
from async_migrations.states import Status
from tests.conftest import eventually, free_port

pytestmark = pytest.mark.e2e

NOT_INHERITED = (
    "DATABASE_URL",
    "DATABASE_URL_SECOND",
    "BROKER_URL",
    "SECRET_KEY",
    "DJANGO_SETTINGS_MODULE",
    "LOG_FORMAT",
)


class Served:
    """A run of `python -m api.serve` in a directory of its own."""

    def __init__(self, data_dir, log, **env):
        self.data_dir, self.log = data_dir, log
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        chosen = {"DATA_DIR": str(data_dir), "PORT": str(free_port()), "DEMO": "no"} | env
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.serve"],
                env=inherited | chosen,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text()

    def report(self):
        """Wait until it is up, and return what serve.json says."""
        file = self.data_dir / "serve.json"
        eventually(lambda: file.exists() or self.process.poll() is not None, 90, what=f"serve is up\n{self.output}")
        assert self.process.poll() is None, self.output
        return json.loads(file.read_text())

    def ends(self):
        """Wait for its end and return (exit code, last line of its output)."""
        code = self.process.wait(60)
        return code, self.output.strip().splitlines()[-1]

    def traces(self):
        """Return the processes that have to do with its directory."""
        return [process for process in psutil.process_iter() if self._belongs(process)]

    def _belongs(self, process):
        try:
            told = process.environ().get("SERVE_DATA_DIR") == str(self.data_dir)
            return process.status() != psutil.STATUS_ZOMBIE and (
                told or str(self.data_dir) in " ".join(process.cmdline())
            )
        except psutil.Error:
            return False


@pytest.fixture
def serve(tmp_path):
    runs = []

    def start(data_dir=tmp_path / "data", **env):
        runs.append(Served(data_dir, tmp_path / f"serve-{len(runs)}.log", **env))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(60)
        for process in run.traces():
            process.kill()


def authorization(report):
    return {"Authorization": f"Bearer {report['token']}"}


def statuses(report):
    answer = httpx.get(f"{report['url']}/api/async-migrations", headers=authorization(report)).json()
    return {row["name"]: row["status"] for row in answer["results"]}


def test_it_works_and_leaves_nothing_behind(serve):
    served = serve(DEMO="yes")  # stopped while that comes in
    report = served.report()

    assert {"url", "token", "database_url", "broker_url"} <= set(report)
    assert stat.S_IMODE((served.data_dir / "serve.json").stat().st_mode) == 0o600
    assert httpx.get(f"{report['url']}/readyz").json()["status"] == "ready"
    listed = httpx.get(f"{report['url']}/api/async-migrations", headers=authorization(report))
    assert listed.status_code == 200
    assert listed.json()["results"], "the demo's project is there to try things on"
    with httpx.Client(base_url=report["url"], headers=listed.request.headers) as scraper:
        eventually(lambda: "worker_seen" in scraper.get("/metrics").text, what="web sees what the worker counts")
    for page in ("/api/docs", "/admin/login/", "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css"):
        assert httpx.get(report["url"] + page).status_code == 200, page

    served.process.send_signal(signal.SIGTERM)
    assert served.ends() == (0, "Stopped.")
    assert "could not be brought up" not in served.output
    assert not (served.data_dir / "serve.json").exists()
    assert served.traces() == []


def test_ctrl_c_in_the_middle_of_the_start_leaves_nothing_behind(serve):
    served = serve()
    eventually(lambda: (served.data_dir / "postgres" / "postmaster.pid").exists(), what="PostgreSQL is starting")
    served.process.send_signal(signal.SIGINT)
    assert served.ends() == (0, "Stopped.")
    assert served.traces() == []


def row(report, name):
    answer = httpx.get(
        f"{report['url']}/api/async-migrations", params={"search": name}, headers=authorization(report)
    ).json()
    return answer["results"][0]


def test_the_first_start_shows_the_demo_and_a_second_one_begins_anew_what_has_ended(serve):
    # Given a first start: what it prints is enough to log in
    first = serve(DEMO="yes")
    before = first.report()
    with httpx.Client(base_url=before["url"], follow_redirects=True) as visitor:
        form = visitor.get("/login").text
        sent = {
            "username": "admin",
            "password": before["admin_password"],
            "csrfmiddlewaretoken": re.findall(r'csrfmiddlewaretoken" value="(\w+)"', form)[0],
        }
        assert "Overview" in visitor.post("/login", data=sent, headers={"Referer": before["url"]}).text
        # Then a build and a backfill go on, and there is one in every other status
        eventually(lambda: "The demo is there" in first.output, 60, what=f"the demo\n{first.output}")
        page = visitor.get("/").text
        shown = statuses(before)
        # Somebody cancels what waits in line
        waiting = f"/migrations/{row(before, 'task_fk')['id']}/cancel"
        visitor.post(waiting, data={"csrfmiddlewaretoken": visitor.cookies["csrftoken"]}).raise_for_status()
    assert "0006_task_checksum_async" in page
    assert "(monthly report) idle in transaction" in page
    assert sorted(shown.values()) == sorted([*Status.values, "FINISHED", "FINISHED", "IN PROGRESS"])
    # And once the backfill has come to its end it is stopped
    fill = f"{before['url']}/api/async-migrations/{row(before, 'checksum')['id']}"
    fast = {"max_rows_per_second": None, "duty_cycle": 1, "throttle": False}
    httpx.patch(f"{fill}/tuning", json=fast, headers=authorization(before)).raise_for_status()
    eventually(lambda: row(before, "checksum")["status"] == "FINISHED", 60, what="the backfill is through")
    first.process.terminate()
    assert first.ends() == (0, "Stopped.")

    # When it is started again
    served = serve(first.data_dir, DEMO="yes")
    again = served.report()
    eventually(lambda: "The demo is there" in served.output, 60, what=f"the demo\n{served.output}")

    # Then all is as it was, build and backfill at their beginning, and what is cancelled stays so
    assert again["admin_password"] == before["admin_password"]
    assert statuses(again) == shown | {"reviews.migrations.0006_review_task_fk_async": "CANCELLED"}
    assert row(again, "checksum")["progress"]["percent"] < 50
    assert "monthly report" in str(row(again, "comment_idx")["waiting_on"])


def test_what_a_killed_run_left_behind_is_taken_over(serve):
    # Given a run whose main process was killed, so that its children are still there
    killed = serve()
    port = httpx.URL(killed.report()["url"]).port
    killed.process.kill()
    killed.process.wait()
    assert killed.traces()
    (killed.data_dir / "serve.json").unlink()

    # When it is started again, on the same port
    again = serve(killed.data_dir, PORT=str(port))

    # Then it comes up, and goes away without a trace
    assert httpx.get(f"{again.report()['url']}/readyz").status_code == 200
    again.process.terminate()
    assert again.ends()[0] == 0
    assert again.traces() == []


@pytest.mark.parametrize("name", ["gunicorn", "rundramatiq"])
def test_a_child_that_dies_is_named_and_ends_everything(serve, name):
    served = serve()
    served.report()
    leaders = [process for process in served.traces() if os.getsid(process.pid) == process.pid]
    known = {"gunicorn": "gunicorn", "rundramatiq": "dramatiq"}[name]
    (victim,) = [process for process in leaders if known in " ".join(process.cmdline())]
    victim.kill()
    code, line = served.ends()
    assert code == 1
    assert {"gunicorn": "web", "rundramatiq": "worker"}[name] in line
    assert served.traces() == []


def test_two_in_one_directory_do_not_disturb_each_other(serve):
    first = serve()
    report = first.report()
    code, line = serve(first.data_dir).ends()
    assert code == 1
    assert f"in use by process {first.process.pid}" in line
    assert httpx.get(f"{report['url']}/readyz").status_code == 200


def test_a_port_that_is_taken_is_one_line(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = serve(PORT=str(port))
        code, line = served.ends()
    assert code == 1
    assert f"port {port}" in line
    assert served.output.count("\n") == 1
    assert served.traces() == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "eighty"}, "PORT is 'eighty'"),
        ({"DATABASE_URL": "mysql://u:hidden@h/d"}, "DATABASE_URL is mysql://h/d"),
        ({"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/d"}, "DATABASE_URL"),
        ({"BROKER_URL": "redis://:hidden@127.0.0.1:1/0"}, "the broker at redis://127.0.0.1:1/0 does not answer"),
        ({"BROKER_URL": "amqp://u:hidden@127.0.0.1:1/"}, "the broker at amqp://127.0.0.1:1/ does not answer"),
        ({"BROKER_URL": "kafka://127.0.0.1"}, "BROKER_URL is kafka://127.0.0.1"),
        ({"DEMO": "off"}, "DEMO is 'off'"),
        ({"ALLOW_SCHEDULED_MIGRATIONS": "perhaps"}, "ALLOW_SCHEDULED_MIGRATIONS"),
        ({"ASYNC_MIGRATIONS_LEASE_SECNODS": "3"}, "ASYNC_MIGRATIONS_LEASE_SECNODS"),
    ],
)
def test_nonsense_in_a_variable_is_one_line_without_secrets(serve, variables, words):
    served = serve(**variables)
    code, line = served.ends()
    assert code == 1
    assert words in line
    assert "Traceback" not in served.output
    assert "hidden" not in served.output
    assert served.traces() == []


def test_a_wrong_password_of_the_database_is_one_line(serve):
    real = os.environ["DATABASE_URL"].replace("postgres@", "nobody-of-that-name@")
    code, line = serve(DATABASE_URL=real).ends()
    assert code == 1
    assert "nobody-of-that-name" in line


def test_a_directory_that_cannot_be_written_is_one_line(serve, tmp_path):
    (tmp_path / "file").touch()
    code, line = serve(tmp_path / "file").ends()
    assert code == 1
    assert "cannot be written" in line


def test_a_database_of_another_version_is_one_line(serve, tmp_path):
    cluster = tmp_path / "data" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    code, line = serve().ends()
    assert code == 1
    assert "was made by PostgreSQL 9" in line


def test_a_python_that_is_too_old_is_one_line(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), "-C", str(tmp_path), "serve", f"PYTHON={old}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.8.1, but Python 3.11 or newer is needed" in done.stderr
