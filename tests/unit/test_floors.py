"""The floor plan of the design: a module imports only from floors below its own, and every module has a floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APP = "async_migrations"

# The first pattern that fits says the floor. Modules of one floor may import one another: they are one room, or
# rooms side by side.
FLOORS = {
    "codes": 0,
    "client": 0,
    "client.*": 0,
    "errors": 0,
    "limits": 0,
    "states": 0,
    "words": 0,
    "conf": 0,
    "counting": 0,
    "tracing": 0,
    "migrations": 1,
    "migrations.*": 1,
    "models": 1,
    "signals": 1,
    "contract": 2,
    "lifecycle": 2,
    "lifecycle.*": 2,
    "execution": 3,
    "execution.*": 3,
    "webhooks.admin": 5,
    "webhooks": 3,
    "webhooks.*": 3,
    "tasks": 4,
    "asking": 5,
    "handing_over": 5,
    "migration_helpers": 5,
    "requiring": 5,
    "later_files": 5,
    "rest": 5,
    "rest.*": 5,
    "dashboard": 5,
    "dashboard.*": 5,
    "templatetags": 5,
    "templatetags.*": 5,
    "admin": 5,
    "admin_parts": 5,
    "admin_records": 5,
    "admin_tokens": 5,
    "checks": 5,
    "apps": 5,
    "management": 5,
    "management.*": 5,
    "": 6,  # the package itself: the public names
}


def modules() -> dict[str, Path]:
    """Return every module of the app by its name inside the app; the package itself is the empty name."""
    found = {}
    for path in sorted((ROOT / APP).rglob("*.py")):
        parts = path.relative_to(ROOT / APP).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def floor_of(module: str) -> int | None:
    """Return the floor of a module, None where the plan has none for it."""
    return next((floor for pattern, floor in FLOORS.items() if fnmatchcase(module, pattern)), None)


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of everything that a module imports, also inside functions.

    What is imported for types alone is left out: it is never loaded.
    """
    path = MODULES[module]
    package = [APP, *module.split(".")] if module else [APP]
    if path.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(path.read_text())
    for_types = {id(node) for branch in ast.walk(tree) if _is_type_checking(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def own(name: str) -> str | None:
    """Return the module of the app that a dotted name lies in, None for a name from elsewhere."""
    if name.split(".")[0] != APP:
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def roots(module: str) -> set[str]:
    """Return the first part of everything that a module imports."""
    return {name.split(".")[0] for _, name in imports(module)}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_floor(module):
    assert floor_of(module) is not None, f"{MODULES[module]} is not in the floor plan: which room is it?"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_floors_below_its_own(module):
    floor = floor_of(module)
    assert floor is not None
    above = {}
    for line, name in imports(module):
        other = own(name)
        if other and (other_floor := floor_of(other)) is not None and other_floor > floor:
            above[line] = f"{name} (floor {other_floor})"
    assert not above, f"{MODULES[module]}, floor {floor}, imports from above, by line: {above}"


@pytest.mark.parametrize("module", MODULES)
def test_the_product_knows_nothing_of_the_service(module):
    assert not roots(module) & {"api", "examples", "bench", "tests"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("execution")])
def test_the_engine_knows_nothing_of_http(module):
    http = [name for _, name in imports(module) if name.startswith(("rest_framework", "django.http", f"{APP}.rest"))]
    assert not http


@pytest.mark.parametrize("module", [name for name in MODULES if name != "execution.session"])
def test_only_the_session_speaks_to_the_driver(module):
    assert "psycopg2" not in roots(module)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("tasks", "conf")])
def test_only_the_tasks_know_dramatiq(module):
    assert not roots(module) & {"dramatiq", "django_dramatiq"}


@pytest.mark.parametrize("module", ["words", *(name for name in MODULES if name.startswith("client"))])
def test_the_client_knows_nothing_of_django(module):
    assert not roots(module) & {"django", "rest_framework"}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("conf", "client.arguments")])
def test_only_the_settings_read_the_environment(module):
    tree = ast.parse(MODULES[module].read_text())
    reads = [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {a.name for a in node.names} & {"environ", "getenv"}
        )
    ]
    assert not reads, f"{MODULES[module]} reads the environment in lines {reads}"


def test_nothing_is_called_a_drawer():
    drawers = {"utils", "common", "services", "manager", "helpers", "misc"}
    named = [name for name in MODULES if drawers & set(name.split("."))]
    assert not named
