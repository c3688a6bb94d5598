"""The recipes of examples/ci: the shell in each is carried out against a real service, well and with a failure.

What is not ours is played: `pip install`, `manage.py migrate` (the row is there already), and `release.sh`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.processes import ROOT, running, worker_command
from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from tests.client.conftest import Cli
from tests.conftest import environment, eventually, need

pytestmark = pytest.mark.e2e

RECIPES = ROOT / "examples" / "ci"
NAME = "shop.migrations.0002_order_customer_idx_async"
WELL, BROKEN = "SELECT 1", "SELECT 1 / 0"

#: What a job does, in order: a text of shell, or the words of a command.
Step = tuple[str | list[str], dict[str, str]]


def github() -> Iterator[Step]:
    (job,) = _yaml("github-actions.yml")["jobs"].values()
    for step in job["steps"]:
        if "run" in step:
            yield step["run"], {**job["env"], **step.get("env", {})}


def gitlab() -> Iterator[Step]:
    pipeline = _yaml("gitlab-ci.yml")
    for stage in pipeline["stages"]:
        (job,) = [job for job in pipeline.values() if isinstance(job, dict) and job.get("stage") == stage]
        above = pipeline[job["extends"]] if "extends" in job else {}
        lines = [*job.get("before_script", above.get("before_script", [])), *job["script"]]
        yield "\n".join(lines), {**pipeline["variables"], **job.get("variables", {})}


def kubernetes() -> Iterator[Step]:
    pod = _yaml("kubernetes-job.yaml")["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        yield _command(container), _env(container)
    yield ["./release.sh"], {}  # What comes behind the Job is another's business.


def argo() -> Iterator[Step]:
    spec = _yaml("argo-workflow.yaml")["spec"]
    templates = {template["name"]: template for template in spec["templates"]}
    for (step,) in templates[spec["entrypoint"]]["steps"]:
        container = templates[step["template"]]["container"]
        for item in step.get("withItems", [""]):
            given = {each["name"]: each["value"] for each in step.get("arguments", {}).get("parameters", [])}
            words = _command(container)
            for name, value in given.items():
                words = [word.replace(f"{{{{inputs.parameters.{name}}}}}", value) for word in words]
            yield [word.replace("{{item}}", item) for word in words], _env(container)


def curl() -> Iterator[Step]:
    need("curl", "jq")
    yield ["python", "manage.py", "migrate"], {}
    yield [str(RECIPES / "curl.sh")], {"NAME": NAME, "URL": "{{URL}}", "TOKEN": "{{TOKEN}}"}
    yield ["./release.sh"], {}


def _yaml(name: str) -> Any:
    return yaml.safe_load((RECIPES / name).read_text())


def _command(container: dict[str, Any]) -> list[str]:
    return [*container["command"], *container.get("args", [])]


def _env(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


ALL = pytest.mark.parametrize("recipe", [github, gitlab, kubernetes, argo, curl], ids=lambda recipe: recipe.__name__)


@pytest.fixture(scope="module")
def worker(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One worker for all recipes."""
    with running(worker_command(), environment(), tmp_path_factory.mktemp("worker") / "log") as process:
        eventually(lambda: "ready for action" in process.output or not process.is_alive(), what="the worker is ready")
        yield


class Machine:
    """What a recipe runs on: a checkout with `manage.py` and `release.sh`, Python with the client, and no pip."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli, self.folder = cli, folder
        self.did: list[str] = []
        programs = Path(cli.env["PATH"].partition(":")[0])
        client = (programs / "async-migrations").read_text()
        python = client.replace("-m async_migrations.client ", "")
        for name, text in {
            programs / "pip": "#!/bin/sh\necho pip $@ >> did\n",
            programs / "python": python,
            folder / "release.sh": "#!/bin/sh\necho release >> did\n",
        }.items():
            name.write_text(text)
            name.chmod(0o755)
        played = "import sys; open('did', 'a').write(' '.join(sys.argv) + '\\n')\n"
        (folder / "manage.py").write_text(played)

    def carry_out(self, steps: Iterator[Step]) -> int:
        """Carry the steps out until one fails, as a runner does; return that one's exit code."""
        for step, env in steps:
            command = ["bash", "-eo", "pipefail", "-c", step] if isinstance(step, str) else step
            done = subprocess.run(command, cwd=self.folder, env=self._env(env), capture_output=True, check=False)
            assert self.cli.token.encode() not in done.stdout + done.stderr
            if done.returncode:
                break
        self.did = (self.folder / "did").read_text().splitlines()
        return done.returncode

    def _env(self, env: dict[str, str]) -> dict[str, str]:
        """Return the environment of a step; secrets and variables of the runner are those of the test's service."""
        ours = {"{{URL}}": self.cli.url, "{{TOKEN}}": self.cli.token}
        given = {
            name: ours.get(value, value)
            for name, value in env.items()
            if name not in ("ASYNC_MIGRATIONS_URL", "ASYNC_MIGRATIONS_TOKEN")
        }
        return self.cli.env | given


@pytest.fixture
def machine(cli: Cli, tmp_path: Path) -> Machine:
    return Machine(cli, tmp_path)


@ALL
def test_a_recipe_has_it_carried_out_and_goes_on(
    recipe: Callable[[], Iterator[Step]], machine: Machine, worker: None, migration: Callable[..., Any]
) -> None:
    row = migration(WELL, name=NAME)
    assert machine.carry_out(recipe()) == 0
    assert lifecycle.get(row.pk).status == "FINISHED"
    assert [line for line in machine.did if not line.startswith("pip")] == ["manage.py migrate", "release"]
    if recipe is curl:
        assert machine.carry_out(recipe()) == 0, "what is started again has nothing to do"


@ALL
def test_a_recipe_releases_nothing_when_it_fails(
    recipe: Callable[[], Iterator[Step]], machine: Machine, worker: None, migration: Callable[..., Any]
) -> None:
    migration(BROKEN, name=NAME)
    assert machine.carry_out(recipe()) == 1
    assert "release" not in machine.did


def test_what_the_recipes_install_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.findall(
        r"django-async-migrations\[(\w+)\]", "".join(path.read_text() for path in RECIPES.glob("*.yml"))
    )
    assert set(wanted) == {"client"} <= set(extras)


def test_curl_has_the_exit_codes_of_the_client(cli: Cli, migration: Callable[..., Any]) -> None:
    list(curl())
    migration(name=NAME)
    lifecycle.set_hold("", "nobody is to carry it out", Origin("test"))
    shell = (RECIPES / "curl.sh").read_text().replace("wait=20", "wait=0")
    for env, code, said in (
        ({"NAME": "shop.migrations.0009_x"}, 2, "There is no migration shop.migrations.0009_x on default."),
        ({"TOKEN": "wrong"}, 2, '"code": "invalid_token"'),
        ({"TOKEN": ""}, 2, "create_api_token"),
        ({"URL": "http://127.0.0.1:1", "RETRIES": "0"}, 3, "curl: (7)"),
        ({"TIMEOUT": "0"}, 75, "After 0 s still going on."),
    ):
        given = {"NAME": NAME, "URL": cli.url, "TOKEN": cli.token, "PATH": os.environ["PATH"], **env}
        done = subprocess.run(["sh", "-c", shell], env=given, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
