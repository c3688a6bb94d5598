"""A secret is planted wherever the service is given one, everything is made to fail, and then it is looked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from api.processes import manage_command, run_to_end
from tests.conftest import environment, eventually
from tests.db.conftest import book, query  # noqa: F401 - a fixture
from tests.driving import ended, scheduled

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]

WRONG = "never-was-the-password"


@pytest.fixture
def password() -> Iterator[str]:
    """A password without which a role of its own is not let in, by PostgreSQL and by the broker."""
    if urlsplit(os.environ["DATABASE_URL"]).hostname or settings.DRAMATIQ_BROKER["OPTIONS"].get("client") is None:
        pytest.skip("only an embedded PostgreSQL and Redis can be told whom to let in: unset DATABASE_URL, BROKER_URL")
    chosen = f"planted-{secrets.token_hex(12)}"
    ((file,),) = query("SHOW hba_file")
    rules, before = Path(file), Path(file).read_text()
    query(f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{chosen}'")
    rules.write_text(f"local all keeper scram-sha-256\n{before}")
    query("SELECT pg_reload_conf()")
    _broker().execute_command("ACL", "SETUSER", "keeper", "on", f">{chosen}", "~*", "&*", "+@all")
    yield chosen
    _broker().execute_command("ACL", "DELUSER", "keeper")
    rules.write_text(before)
    query("SELECT pg_reload_conf()")
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'")
    eventually(lambda: not query("SELECT FROM pg_stat_activity WHERE usename = 'keeper'"), what="no session is left")
    query("DROP ROLE keeper")


def _broker():
    return settings.DRAMATIQ_BROKER["OPTIONS"]["client"]


def urls(password: str) -> dict[str, str]:
    """Return what the processes are given; `away` is a server that nobody answers for."""
    known, socket = connection.settings_dict, _broker().connection_pool.connection_kwargs["path"]
    return {
        "DATABASE_URL": f"postgresql://keeper:{password}@/{known['NAME']}?host={known['HOST']}",
        "DATABASE_URL_AWAY": f"postgresql://keeper:{password}@127.0.0.1:1/away",
        "BROKER_URL": f"unix://keeper:{password}@{socket}",
    }


def everything_stored() -> str:
    """Return every row of every table, and of the broker, as one text."""
    tables = [model._meta.db_table for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    known = set(connection.introspection.table_names())
    texts = [str(query(f'SELECT t::text FROM "{table}" AS t')) for table in tables if table in known]
    messages = [str(_broker().hgetall(key)) for key in _broker().keys("*msgs*")]
    return "\n".join(texts + messages)


def command_lines(*pids: int) -> str:
    """Return the titles and arguments of these processes and of all below them."""
    found = [
        process for pid in pids for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    ]
    return "\n".join(f"{process.name()} {process.cmdline()}" for process in found)


class Heard:
    """A client that keeps every answer that it ever got."""

    def __init__(self, client: httpx.Client, **headers: str) -> None:
        self.client, self.headers, self.all = client, headers, ""

    def __call__(self, method: str, path: str, **headers: str) -> httpx.Response:
        answer = self.client.request(method, path, headers={**self.headers, **headers})
        self.all += f"{answer.headers}\n{answer.text}\n"
        return answer


def refuse_everybody() -> None:
    """Have the password be wrong from now on, for who is connected already too."""
    query(f"ALTER ROLE keeper PASSWORD '{WRONG}'")
    _broker().execute_command("ACL", "SETUSER", "keeper", "resetpass", f">{WRONG}")
    with suppress(Exception):  # There may be nobody.
        _broker().execute_command("CLIENT", "KILL", "USER", "keeper")
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'")


def test_it_works(password, token, api, start_api, start_worker):
    env = urls(password)
    assert_it_is_needed(env)
    bearer = token("operator")
    loud = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "DEBUG": "yes"}
    web, worker = start_api(**env, **loud), start_worker(**env, **loud)
    client = api(None, at=web)
    client.headers["Authorization"] = f"Bearer {bearer}"
    ask, person = Heard(client), Heard(api(None, at=web), Cookie=f"sessionid={session()}", Accept="text/html")

    # What goes well, and SQL that fails with an error in PostgreSQL's words
    good, bad = scheduled("UPDATE book SET n = 1"), scheduled("SELECT title::int FROM book", name="b.0003")
    away = scheduled("SELECT 1", name="b.0004", database="away")
    for pk in (good, bad, away):
        assert ask("POST", f"/api/async-migrations/{pk}/run", **{"Idempotency-Key": str(pk)}).status_code == 202
    assert ended(client, good)["status"] == "FINISHED"
    assert ended(client, bad)["meta"]["error"]["code"] == "data_error"
    eventually(lambda: "release" in ask("GET", f"/api/async-migrations/{away}/events").text, what="it was tried")
    for path in ("", f"/{good}", f"/{bad}/events", f"/{away}/preflight", "/janitor", f"/{away}/quarantine"):
        ask("GET", f"/api/async-migrations{path}")
    person("GET", f"/admin/async_migrations/asyncmigrationstatus/{bad}/change/")
    titles = command_lines(web.pid, worker.pid)

    # The password is wrong from now on, for PostgreSQL and for the broker; with DEBUG, Django shows its pages
    refuse_everybody()
    assert ask("GET", "/api/async-migrations").status_code == 503
    assert ask("POST", f"/api/async-migrations/{bad}/run").status_code == 503
    page = person("GET", "/admin/async_migrations/asyncmigrationstatus/")
    assert (page.status_code, "password authentication failed" in page.text) == (500, True)
    assert "Traceback" in page.text
    assert "does not answer" in ask("GET", "/readyz").text
    eventually(lambda: worker.output.count("password authentication failed") > 1, what="the worker has noticed")

    # The database is back, the broker is not
    query(f"ALTER ROLE keeper PASSWORD '{password}'")
    assert ask("POST", f"/api/async-migrations/{bad}/run").status_code == 202
    assert "message not sent" in web.output
    looked_at = {
        "answers": ask.all + person.all,
        "logs": web.output + worker.output,
        "rows and messages": everything_stored(),
        "command lines": titles,
        "commands": the_commands(env, password),
    }
    for place, text in looked_at.items():
        assert len(text) > 100, place
        for secret in (password, WRONG, bearer[15:]):
            found = text.find(secret)
            assert found < 0, f"{place}: {text[max(0, found - 300) : found]}"


def assert_it_is_needed(env: dict[str, str]) -> None:
    """Make sure that the test can fail: without the password nobody is let in."""
    refused = manage("migrate", "--check", **env | {"DATABASE_URL": env["DATABASE_URL"].replace("planted", "wrong")})
    assert "password authentication failed" in refused


def session() -> str:
    client = Client()
    client.force_login(User.objects.create_superuser("alice", password=secrets.token_hex()))
    return client.cookies["sessionid"].value


def the_commands(env: dict[str, str], password: str) -> str:
    """Return what commands say that cannot do their part, for each way in which a URL can be wrong."""
    broken = f"{password}[@127.0.0.1:1/x"
    return "\n".join(
        [
            manage("check", **env | {"DATABASE_URL": f"postgresql://keeper:{broken}"}),
            manage("check", **env | {"BROKER_URL": f"redis://keeper:{broken}"}),
            manage("async_migrations", "list", **env | {"DATABASE_URL": env["DATABASE_URL_AWAY"]}),
            manage(
                "async_migrations", "run", "b.0003", **env | {"BROKER_URL": f"amqp://keeper:{password}@127.0.0.1:1/"}
            ),
        ]
    )


def manage(*arguments: str, **env: str) -> str:
    done = run_to_end(manage_command(*arguments), environment(**env, LOG_LEVEL="DEBUG"))
    return f"{done.stdout}{done.stderr}"
