"""The files of examples/ci against the schemas of those who read them, as packages carry them: nothing is fetched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.processes import ROOT

RECIPES = ROOT / "examples" / "ci"


def vendored(schema: str) -> Callable[[Path], str]:
    """Return what looks at a file with a schema that comes with check-jsonschema."""
    pytest.importorskip("check_jsonschema")
    return lambda file: _output(["-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)])


def github() -> Callable[[Path], str]:
    return vendored("github-workflows")


def gitlab() -> Callable[[Path], str]:
    return vendored("gitlab-ci")


def kubernetes() -> Callable[[Path], str]:
    pytest.importorskip("kubernetes_validate")
    return lambda file: _output(["-m", "kubernetes_validate", "--strict", "--quiet", str(file)])


def argo() -> Callable[[Path], str]:
    models = pytest.importorskip("hera.workflows.models")

    def wrong(file: Path) -> str:
        said = yaml.safe_load(file.read_text())
        try:
            read = models.Workflow.model_validate(said).model_dump(by_alias=True, exclude_unset=True, mode="json")
        except ValueError as exc:
            return str(exc)
        return "" if read == said else "There is something in it that no workflow has."

    return wrong


def _output(arguments: list[str]) -> str:
    """Return what a validator says of a file; empty where it finds nothing wrong."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("validator", "name", "where", "wrong"),
    [
        (github, "github-actions.yml", ["jobs"], {"deploy": {"steps": []}}),
        (gitlab, "gitlab-ci.yml", ["stages"], {"deploy": 1}),
        (kubernetes, "kubernetes-job.yaml", ["spec", "template", "spec", "containerz"], []),
        (argo, "argo-workflow.yaml", ["spec", "templatez"], []),
        (argo, "argo-workflow.yaml", ["spec", "templates"], "none"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_is_what_its_reader_understands(validator, name, where, wrong, tmp_path) -> None:
    look = validator()
    assert look(RECIPES / name) == ""
    said: Any = yaml.safe_load((RECIPES / name).read_text())
    place = said
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = wrong
    (tmp_path / name).write_text(yaml.safe_dump(said))
    assert look(tmp_path / name), "what is wrong is found"
