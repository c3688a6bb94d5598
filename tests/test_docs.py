"""What the documents name exists, and is what they say: commands, links, settings, statuses, error codes.

That every block of theirs is carried out is held by test_doc_commands.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import signature
from itertools import takewhile
from pathlib import Path

import pytest

from async_migrations import codes, counting, limits, states
from async_migrations.client import arguments, watching
from async_migrations.conf import Conf
from async_migrations.errors import InvalidDefinition
from async_migrations.execution import session
from async_migrations.migration_helpers import make_backfill_migration, make_sql_migration
from async_migrations.models import AsyncMigrationAudit
from async_migrations.rest import metrics
from async_migrations.rest.codes import PROBLEMS
from examples import catalogue

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BACKFILLS = ROOT / "docs" / "backfills.md"
CI = ROOT / "docs" / "ci.md"
NOTIFICATIONS = ROOT / "docs" / "notifications.md"
PREFLIGHT = ROOT / "docs" / "preflight.md"
MONITORING = ROOT / "docs" / "monitoring.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()


def block(info: str, document: Path = README) -> str:
    """Return the fenced block whose info string, behind the language, is this."""
    found = re.findall(rf"^```\w+ {re.escape(info)}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{document.name} has {len(found)} blocks {info!r}"
    return str(found[0])


def is_like(example: object, real: object) -> bool:
    """Whether a real answer looks like its example: the same names (more where `...` is one) and types."""
    if isinstance(example, dict) and isinstance(real, dict):
        names = {name for name in example if name != "..."}
        enough = names <= set(real) if "..." in example else names == set(real)
        return enough and all(is_like(example[name], real[name]) for name in names)
    if isinstance(example, list) and isinstance(real, list):
        return bool(real) and all(is_like(example[0], each) for each in real)
    return isinstance(real, type(example))


def table(document: Path, first_head: str) -> list[list[str]]:
    """Return the cells of the table whose first head is this."""
    lines = document.read_text().splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(f"| {first_head} |"))
    body = takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


# --- what is named is there ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(document):
    named = set(re.findall(r"`(?:\w+=\w+ )?make ([a-z]+)[` ]", document.read_text()))
    assert named <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_repository_leads_somewhere(document):
    links = re.findall(r"""\]\(([^)#]+)[^)]*\)|(?:src|srcset)="([^"]+)""", document.read_text())
    named = {link or picture for link, picture in links}
    assert [link for link in named if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_path_of_one_machine(document):
    assert not re.search(r"/(work|root|home|tmp)/\w", document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(document):
    known = {setting.name for setting in Conf.settings()} | {"ASYNC_MIGRATIONS_", arguments.URL, arguments.TOKEN}
    assert set(re.findall(r"\bASYNC_MIGRATIONS_[A-Z_]*", document.read_text())) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_is_python(document):
    for text in re.findall(r"^```python[^\n]*\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(text)


def test_the_makefile_has_nothing_that_the_readme_keeps_back():
    assert set(re.findall(r"`make ([a-z]+)`", README.read_text())) >= {"demo", "serve", "test", "check", "openapi"}


def test_every_option_that_is_named_exists():
    text = README.read_text()
    named = text[text.index("Further options of `make_sql_migration`") : text.index("## Backfills")]
    assert set(re.findall(r"`([a-z_]+)", named)) - {"make_sql_migration", "timedelta"} <= {
        *signature(make_sql_migration).parameters
    }


def test_the_readme_has_the_backfill_that_its_document_begins_with():
    texts = block("backfill"), block("shop/migrations/0004_order_placed_on_async.py", BACKFILLS)
    calls = [
        ast.dump(node)
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "make_backfill_migration"
    ]
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_the_thresholds_are_some_that_a_file_may_give():
    exec(block("throttle", BACKFILLS), said := {})  # noqa: S102 - our own document
    limits.check({"throttle": said["throttle"]})


@pytest.mark.parametrize("info", ["worker", "worker, without django_dramatiq"])
def test_a_worker_takes_as_many_messages_as_it_has_threads(info):
    line = block(info)
    assert re.findall(r"prefetch=(\d+)", line) == re.findall(r"--threads (\d+)", line) != []


# --- tables ---


def test_the_settings_table_has_every_setting_with_its_default():
    said = {row[0].strip("`"): row[1].strip("`") for row in table(README, "setting")}
    known = {setting.name: setting.default for setting in Conf.settings()}
    assert {name: ast.literal_eval(value) for name, value in said.items()} == {
        **known,
        "ALLOW_SCHEDULED_MIGRATIONS": False,
    }


def test_the_options_of_a_backfill_are_those_of_the_function_with_their_defaults():
    said = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table(BACKFILLS, "option")}
    options = signature(make_backfill_migration).parameters
    assert said == {name: option.default for name, option in options.items()}


def test_the_settings_that_options_fall_back_on_are_named_with_their_defaults():
    named = re.findall(
        r"\(`(ASYNC_MIGRATIONS_\w+)`, ([\d.,]+)\)", "".join(row[3] for row in table(BACKFILLS, "option"))
    )
    known = {setting.name: setting.default for setting in Conf.settings()}
    assert {name: float(value.replace(",", "")) for name, value in named} == {name: known[name] for name, _ in named}
    assert len(named) == 4


def test_what_can_be_tuned_is_what_the_code_takes():
    said = {row[0].strip("`"): row[1] for row in table(BACKFILLS, "tunable")}
    assert said == {name: str(number) for name, number in limits.NUMBERS.items()} | {
        "throttle": "true, false, or an object of thresholds"
    }


def test_the_signals_are_those_that_the_throttle_knows():
    assert [row[0].strip("`") for row in table(BACKFILLS, "signal")] == list(limits.THRESHOLDS)


def test_the_variables_table_has_every_variable_that_the_service_reads():
    source = (ROOT / "api" / "settings.py").read_text() + (ROOT / "api" / "variables.py").read_text()
    read = set(re.findall(r'(?:_env, |env\.get\(|env\[|"default": )"([A-Z_]+)"', source))
    documented = {row[0].strip("`") for row in table(README, "variable")}
    assert documented == read | {"SECRET_KEY", "DATABASE_URL_<ALIAS>", "ASYNC_MIGRATIONS_*"}


def test_the_metrics_are_those_of_the_code_with_their_labels():
    state = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in table(MONITORING, "gauge")}
    assert state == {f"async_migrations_{name}": set(labels) for name, (labels, _) in metrics.STATE.items()}
    counted = {row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in table(MONITORING, "metric")}
    known = [(next(iter(metric.describe())), set(metric._labelnames)) for metric in counting.METRICS]
    assert counted == {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, labels) for family, labels in known
    }


def test_the_statuses_are_those_of_the_code():
    said = {row[0].strip("`"): row[2] == "yes" for row in table(README, "status")}
    assert said == {str(status): status in states.TERMINAL for status in states.Status}


def test_the_transitions_are_those_of_the_code():
    said = {
        row[0]: (set(row[1].split(", ")) - {"(no row)"}, set(row[2].split(", "))) for row in table(README, "transition")
    }
    known = {edge.name: ({*map(str, edge.sources)}, {*map(str, edge.targets)}) for edge in states.TRANSITIONS}
    assert said == known


def test_the_exit_codes_of_the_client_are_those_of_the_code():
    said = {int(code) for row in table(CI, "exit code") for code in row[0].split(", ")}
    assert said == set(watching.Exit)


def test_the_commands_of_the_client_are_those_of_the_code():
    said = {word for row in table(CI, "command") for word in re.findall(r"`([a-z]+) ", row[0])}
    assert said == {"list", "show", "preflight", "events", "wait", "gate", *arguments.REQUESTS}


def test_the_fields_of_the_audit_are_those_of_the_export():
    said = [name.strip("` ") for row in table(ROOT / "docs" / "audit.md", "field") for name in row[0].split(",")]
    assert sorted(said) == sorted(field.name for field in AsyncMigrationAudit._meta.concrete_fields)


# --- error codes ---


@pytest.mark.parametrize("page", catalogue.PAGES, ids=lambda page: page.name)
def test_the_tables_of_codes_are_what_the_code_generates(page):
    assert page.read_text() == catalogue.generated(page), "run `make openapi`"


def calls(*names: str) -> Iterator[ast.Call]:
    """Yield every call of one of these names in the code."""
    for path in [*(ROOT / "async_migrations").rglob("*.py"), *(ROOT / "api").rglob("*.py")]:
        nodes = ast.walk(ast.parse(path.read_text()))
        yield from (node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names)


def literals(*nodes: ast.expr | None) -> set[str]:
    """Return the texts among the nodes."""
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_code_of_an_attempt_is_explained_and_no_other_and_whether_it_is_repeated():
    """Codes are translated by SQLSTATE, raised with a literal, or of a bad definition."""
    known = {(code, repeated) for code, _, repeated in session._MEANINGS.values()}
    for call in calls("ExecutionError"):
        given = {word.arg: word.value for word in call.keywords}
        known |= {(code, "retryable" in given) for code in literals(given["code"])}
    known |= {("database_error", False), (InvalidDefinition.code, False)}
    assert sorted(known) == [(code, error.repeated) for code, error in sorted(codes.ERRORS.items())]


def test_every_problem_that_is_made_is_in_the_catalogue():
    made = {code for call in calls("Problem") for code in literals(call.args[0])}
    for path in (ROOT / "async_migrations").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "default_code":
                made |= literals(node.value)
    assert made >= {"rate_limited", "idempotency_key_in_use"}
    assert made <= set(PROBLEMS)
