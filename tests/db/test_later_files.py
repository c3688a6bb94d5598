"""The system check that warns of files which take something away from what is not FINISHED."""

from __future__ import annotations

import io

import pytest
from django.core import checks
from django.core.management import call_command

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from tests.db.conftest import carried_out, query, row_of

MODEL = """migrations.CreateModel("Shelf", [
    ("id", models.BigAutoField(primary_key=True)),
    ("label", models.TextField(db_column="tag")),
    ("owner", models.ForeignKey("Shelf", models.CASCADE, null=True)),
], options={"indexes": [models.Index(fields=["label"], name="shelf_tag")]})"""
TABLE = "bookshop_shelf"


@pytest.fixture
def work(project, settings):
    """A model with its table, and an async migration that works on it: `work(sql)` -> its name."""
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    project.file("0001_shelf", MODEL)

    def make(sql: str = f"CREATE INDEX CONCURRENTLY shelf_tag_2 ON {TABLE} (tag, owner_id)") -> str:
        name = project.sql("0002_async", sql)
        project.migrate()
        return str(name)

    yield make
    query(f"DROP TABLE IF EXISTS {TABLE}")


def warnings() -> list[str]:
    found = checks.run_checks(tags=[checks.Tags.database], databases=["default"])
    return [message.msg for message in found if message.id == "async_migrations.W001"]


def test_it_works_within_migrate(project, work) -> None:
    name = work()
    project.file("0003_drop", 'migrations.RemoveField("shelf", "label")')
    said = io.StringIO()
    call_command("check", databases=["default"], stderr=said, no_color=True)
    assert (
        f"bookshop.0003_drop drops the column tag of the table {TABLE}, which the SQL of the async migration {name} "
        f"(id {row_of(name).pk}) on database 'default' names, and that is SCHEDULED." in said.getvalue()
    )
    assert f"require_finished('{name}')" in said.getvalue()
    carried_out(row_of(name))
    assert warnings() == []


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('migrations.RemoveField("Shelf", "owner")', "drops the column owner_id"),
        ('migrations.RenameField("shelf", "owner", "holder")', "renames the column owner_id"),
        ('migrations.AlterField("Shelf", "label", models.TextField())', "renames the column tag"),
        ('migrations.DeleteModel("Shelf")', f"drops the table {TABLE}"),
        ('migrations.RenameModel("Shelf", "Rack")', f"renames the table {TABLE}"),
        ('migrations.AlterModelTable("Shelf", "rack")', f"renames the table {TABLE}"),
        (f"migrations.RunSQL('ALTER TABLE {TABLE} DROP COLUMN IF EXISTS \"tag\"')", "drops the column tag"),
        (f"migrations.RunSQL('ALTER TABLE {TABLE} DROP tag')", "drops the column tag"),
        (f"migrations.RunSQL('ALTER FOREIGN TABLE {TABLE} DROP tag')", "drops the column tag"),
        (
            f"migrations.RunSQL('ALTER TABLE {TABLE} ADD note text, DROP id, DROP COLUMN tag CASCADE')",
            "drops the column tag",
        ),
        (
            f"migrations.RunSQL('ALTER TABLE {TABLE} ALTER id DROP DEFAULT, ALTER tag TYPE int')",
            "changes the type of the",
        ),
        (
            f"migrations.RunSQL('DROP TABLE IF EXISTS other, public.\"{TABLE}\" CASCADE')",
            f"drops the table public.{TABLE}",
        ),
        (
            f"migrations.RunSQL([('SELECT %s', [1]), ('DROP TABLE {TABLE}; -- all of it', [])])",
            f"drops the table {TABLE}",
        ),
        (f"migrations.RunSQL('BEGIN; DROP TABLE {TABLE}; COMMIT')", f"drops the table {TABLE}"),
        (
            f"migrations.RunSQL('DO $$ BEGIN IF true THEN DROP TABLE {TABLE}; END IF; END $$')",
            f"drops the table {TABLE}",
        ),
        ("migrations.RunSQL('DROP SCHEMA other, public CASCADE')", "drops the schema public"),
        ("migrations.RunSQL('DROP INDEX other, public.shelf_tag_2')", "drops the index public.shelf_tag_2"),
        ('migrations.RemoveIndex("shelf", "shelf_tag_2")', "drops the index shelf_tag_2"),
        (
            'migrations.AlterField("Shelf", "label", models.IntegerField(db_column="tag"))',
            "changes the type of the column tag",
        ),
        (
            'migrations.SeparateDatabaseAndState([migrations.RunSQL("SELECT 1"), migrations.SeparateDatabaseAndState('
            f'[migrations.RunSQL("DROP TABLE {TABLE}")])])',
            f"drops the table {TABLE}",
        ),
        (f"migrations.RunSQL(['SELECT 1', ('DROP TABLE {TABLE}', None)])", f"drops the table {TABLE}"),
        (f"migrations.RunSQL('drop table public.{TABLE}')", f"drops the table public.{TABLE}"),
        ("migrations.RunSQL('DROP INDEX CONCURRENTLY IF EXISTS shelf_tag_2')", "drops the index shelf_tag_2"),
        (f"migrations.RunSQL('ALTER TABLE {TABLE} RENAME TO rack')", f"renames the table {TABLE}"),
        (f"migrations.RunSQL(['alter table only public.{TABLE}\\nrename tag to t'])", "renames the column tag"),
        (f"migrations.RunSQL('ALTER TABLE {TABLE} RENAME COLUMN \"tag\" TO t')", "renames the column tag"),
        ("migrations.RunSQL('ALTER INDEX IF EXISTS shelf_tag_2 RENAME TO x')", "renames the index shelf_tag_2"),
        ('migrations.SeparateDatabaseAndState([migrations.DeleteModel("Shelf")])', f"drops the table {TABLE}"),
    ],
)
def test_what_drops_or_renames_is_seen(project, work, operation, says) -> None:
    work()
    project.file("0003_later", operation)
    (said,) = warnings()
    assert f"bookshop.0003_later {says}" in said


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('migrations.RemoveIndex("shelf", "shelf_tag")', "drops the index shelf_tag,"),
        ('migrations.RemoveConstraint("shelf", "shelf_tag")', "drops the constraint shelf_tag,"),
        (
            "migrations.RunPython(*make_sql_migration('DROP INDEX shelf_tag', 'SELECT 1', migration_name='x'))",
            "drops the index shelf_tag,",
        ),
        (
            "migrations.RunPython(*make_sql_migration('ALTER INDEX shelf_tag RENAME TO y', "
            "'SELECT 1', migration_name='x'))",
            "renames the index shelf_tag,",
        ),
        ('migrations.RenameIndex("shelf", "x", old_name="shelf_tag")', "renames the index shelf_tag,"),
        ('migrations.RenameIndex("shelf", "x", old_fields=("label",))', "renames the index shelf_tag,"),
    ],
)
def test_an_index_or_constraint_that_is_dropped_or_renamed_is_seen(project, work, operation, says) -> None:
    work("REINDEX INDEX CONCURRENTLY shelf_tag")
    project.file("0003_later", operation)
    (said,) = warnings()
    assert says in said


@pytest.mark.parametrize(
    "operation",
    [
        'migrations.AddField("shelf", "note", models.TextField(null=True))',
        "migrations.RunSQL('DROP TABLE other')",
        "migrations.RunSQL('DROP TABLE other, tag_2')",
        "migrations.RunSQL('ALTER TABLE other DROP tag')",
        f"migrations.RunSQL('ALTER TABLE {TABLE} DROP id, DROP COLUMN note, RENAME a TO tag')",
        f"migrations.RunSQL('ALTER TABLE {TABLE} ALTER tag SET NOT NULL, ADD CONSTRAINT tag CHECK (tag <> $$x$$)')",
        f"migrations.RunSQL('ALTER TABLE {TABLE} ALTER tag DROP NOT NULL, ALTER owner_id SET DEFAULT 1')",
        f"migrations.RunSQL('DROP TABLE elsewhere.{TABLE}; ALTER TABLE elsewhere.{TABLE} DROP tag')",
        f"migrations.RunSQL('DROP TABLE \"{TABLE.title()}\"')",
        f"migrations.RunSQL('-- DROP TABLE {TABLE};\\nSELECT $$ DROP TABLE {TABLE} $$')",
        f"migrations.RunSQL('SELECT 1', reverse_sql='DROP TABLE {TABLE}')",
        "migrations.RunSQL('DROP SCHEMA public; DROP SCHEMA other CASCADE')",
        "migrations.RunSQL('this is not SQL \"')",
        "migrations.RunSQL(migrations.RunSQL.noop)",
        "migrations.RunSQL('ALTER TABLE other RENAME tag TO t')",
        "migrations.RunSQL('ALTER TABLE other RENAME CONSTRAINT shelf_tag TO x')",
        'migrations.RenameField("shelf", "label", "title")',
        'migrations.AlterField("shelf", "label", models.TextField(db_column="tag", null=True, help_text="x"))',
        'migrations.AlterField("shelf", "owner", models.ForeignKey("Shelf", models.PROTECT))',
        'migrations.AlterField("shelf", "id", models.IntegerField(primary_key=True))',
        'migrations.RemoveIndex("shelf", "shelf_tag")',
        'migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel("Shelf")])',
    ],
)
def test_what_it_does_not_work_on_is_no_warning(project, work, operation) -> None:
    work()
    project.file("0003_later", operation)
    assert warnings() == []


def test_a_name_counts_with_its_schema_and_its_quotes(project, work) -> None:
    query(f'CREATE SCHEMA archive CREATE TABLE {TABLE} (tag text, "Tag" text)')
    try:
        work(f'CREATE INDEX CONCURRENTLY shelf_tag_2 ON archive.{TABLE} ("Tag") WHERE length("Tag") % 2 = 0')
        for name, sql in {
            "0003_public": f"DROP TABLE {TABLE}; DROP TABLE public.{TABLE}; DROP SCHEMA public CASCADE",
            "0004_folded": f"ALTER TABLE archive.{TABLE} DROP tag",
            "0005_quoted": f'ALTER TABLE archive.{TABLE} DROP "Tag"',
            "0006_composed": "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 'other'); END $$",
            "0007_schema": "DROP SCHEMA IF EXISTS archive CASCADE",
        }.items():
            project.file(name, f"migrations.RunSQL({sql!r})")
        assert [said.partition(", which")[0] for said in warnings()] == [
            f"bookshop.0005_quoted drops the column Tag of the table archive.{TABLE}",
            "bookshop.0007_schema drops the schema archive with all that is in it",
        ]
    finally:
        query("DROP SCHEMA archive CASCADE")


def test_a_varchar_that_gets_wider_is_no_warning_and_a_narrower_one_is(project, work) -> None:
    project.file("0001_shelf", MODEL.replace("TextField(db", "CharField(max_length=9, db"))
    work()
    for number, length in enumerate((20, None, 5), 3):
        field = f'models.CharField(max_length={length}, db_column="tag")'
        project.file(f"000{number}_later", f'migrations.AlterField("Shelf", "label", {field})')
    (said,) = warnings()
    assert f"bookshop.0005_later changes the type of the column tag of the table {TABLE}" in said


def test_a_file_that_requires_it_is_no_warning(project, work) -> None:
    name = work()
    project.file("0003_needs", f"require_finished({name!r})")
    project.file("0004_drop", 'migrations.DeleteModel("Shelf")')
    assert warnings() == []


def test_a_file_that_is_applied_is_no_warning(project, work) -> None:
    work()
    project.file("0003_drop", 'migrations.DeleteModel("Shelf")')
    project.migrate()
    assert warnings() == []


def test_what_was_given_up_is_no_warning(project, work) -> None:
    lifecycle.cancel(row_of(work()).pk, Origin("alice"))
    project.file("0003_drop", 'migrations.DeleteModel("Shelf")')
    assert warnings() == []


def test_without_a_database_it_asks_none(django_assert_num_queries, project, work) -> None:
    work()
    with django_assert_num_queries(0):
        checks.run_checks()


def test_tables_that_are_not_there_yet_are_no_error(project, monkeypatch) -> None:
    monkeypatch.setattr(lifecycle.rows().model._meta, "db_table", "not_there")
    assert warnings() == []
