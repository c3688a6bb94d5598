"""Each command and each snippet of the documents is carried out by a test, and no other than these are there."""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from async_migrations.client import arguments
from tests.test_docs import CI, DOCUMENTS, NOTIFICATIONS, ROOT, table

PAGES = [*DOCUMENTS, ROOT / "examples" / "ci" / "README.md"]

# --- blocks ---

#: Which test carries the blocks of a page out, by name.
RUNNERS = {
    "README.md": {
        "tests/e2e/test_readme.py": {
            "shop/migrations/0002_order_customer_idx_async.py", "settings.py", "urls.py", "migrate", "web", "worker",
            "token", "settings.py, without django_dramatiq", "worker.py", "worker, without django_dramatiq", "drop-in",
            "ci",
        },
        "tests/e2e/test_documents.py": {"later migration file", "install", "client"},
        "tests/test_docs.py": {"backfill"},
    },
    "docs/audit.md": {"tests/e2e/test_documents.py": {"audit", "retention", "least"}},
    "docs/backfills.md": {
        "tests/e2e/test_readme.py": {
            "shop/migrations/0004_order_placed_on_async.py", "shop/migrations/0005_order_purge_async.py",
            "shop/migrations/0006_order_season_async.py", "shop/backfills.py", "shop/health.py",
            "settings.py, reasons to wait", "quarantine", "api", "pause", "resume", "tune", "as the file says",
        },
        "tests/test_docs.py": {"throttle"},
    },
    "docs/ci.md": {
        "tests/e2e/test_documents.py": {"install", "many", "wait"},
        "tests/client/test_waiting.py": {"progress"},
    },
    "docs/dashboard.md": {"tests/page/test_embedding.py": {"urls.py", "csp"}},
    "docs/deployment.md": {
        "tests/e2e/test_documents.py": {"search"},
        "tests/http/test_prefer_wait.py": {"gunicorn.conf.py"},
        "tests/e2e/test_behind_tls.py": {"behind TLS"},
    },
    "docs/errors.md": {"tests/e2e/test_readme.py": {"correct"}, "tests/db/test_duplicates.py": {"error"}},
    "docs/monitoring.md": {"tests/e2e/test_documents.py": {"token", "prometheus.yml", "urls.py"}},
    "docs/notifications.md": {
        "tests/e2e/test_documents.py": {"webhook", "payload"},
        "tests/http/test_webhooks.py": {"verify"},
        "tests/db/test_signals.py": {"signal"},
    },
    "docs/preflight.md": {
        "tests/e2e/test_documents.py": {"look", "shop/monitoring.py"},
        "tests/db/test_preflight.py": {"finding"},
        "tests/db/test_locks.py": {"locks"},
    },
    "docs/security.md": {
        "tests/e2e/test_documents.py": {"scoped token", "revoke"},
        "tests/e2e/test_least_privilege.py": {"roles", "grants"},
    },
}  # fmt: skip
#: What no test carries out: it needs a Docker that builds. tests/test_dockerfile.py walks the image's own steps.
NOT_RUN = {"docs/deployment.md": {"image", "compose"}}


def blocks(document: Path) -> list[str]:
    """Return the name of every fenced block of a page, the empty text for one without."""
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", document.read_text(), re.MULTILINE)
    return [opening.partition(" ")[2] for opening in fences[::2]]


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_has_a_name_and_a_test_that_carries_it_out(document):
    page = document.relative_to(ROOT).as_posix()
    known = NOT_RUN.get(page, set()).union(*RUNNERS.get(page, {}).values())
    assert sorted(blocks(document)) == sorted(known), "name it behind its language, run it in a test, say in which"


@pytest.mark.parametrize("test", sorted({test for runners in RUNNERS.values() for test in runners}))
def test_what_is_to_carry_blocks_out_names_them(test):
    nodes = ast.walk(ast.parse((ROOT / test).read_text()))
    said = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert {name for runners in RUNNERS.values() for name in runners.get(test, ())} <= said


# --- within a line ---


def test_the_extras_that_are_to_be_installed_exist():
    texts = " ".join(document.read_text() for document in DOCUMENTS)
    wanted = ",".join(re.findall(r"django-async-migrations\[([a-z,]+)\]", texts)).split(",")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"rest", "client"} <= set(wanted) <= set(extras)


def inline_commands(document: Path) -> Iterator[list[str]]:
    """Yield the words of each command that stands within a line; those in blocks are carried out."""
    # A verb alone is the client's on the client's page, elsewhere the host's.
    of_verbs = ["async-migrations"] if document == CI else ["manage.py", "async_migrations"]
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.split()
        if words[0] in ("manage.py", "manage", "async-migrations") and words[1:] not in ([], ["..."]):
            yield words
        elif words[0] in get_commands():
            yield ["manage.py", *words]
        elif words[0] in verbs_of(parser_of(*of_verbs)) and words[1:]:
            yield [*of_verbs, *words]


def parser_of(program: str, name: str = "") -> argparse.ArgumentParser:
    if program == "async-migrations":
        return arguments._parser()
    return load_command_class(get_commands()[name], name).create_parser(program, name)


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the words that may come next, if there are any."""
    return next((each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_within_a_line_exists_with_its_options(document):
    for words in inline_commands(document):
        parser = parser_of(*words[:2])
        rest = words[1:] if words[0] == "async-migrations" else words[2:]
        while rest and (verbs := verbs_of(parser)):
            parser = [verbs[verb] for verb in rest.pop(0).split("|")][-1]
        options = {word.strip("[]").partition("=")[0] for word in rest if word.startswith(("--", "[--"))}
        assert options <= set(parser._option_string_actions), words


def test_the_actions_of_webhooks_are_those_of_the_command():
    said = re.findall(r"`([a-z]+)", " ".join(row[0] for row in table(NOTIFICATIONS, "action")))
    webhooks = verbs_of(parser_of("manage.py", "async_migrations"))["webhooks"]
    assert sorted(said) == sorted(verbs_of(webhooks))
