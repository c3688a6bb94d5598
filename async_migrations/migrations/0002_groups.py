"""The two groups: who may look, and who may run, cancel and roll back."""

from __future__ import annotations

from typing import Any

from django.db import migrations, router

# Written out, not imported: a migration says what was meant when it was written.
VIEWERS = {
    "asyncmigrationstatus": [("view_asyncmigrationstatus", "Can view async migration")],
    "asyncmigrationevent": [("view_asyncmigrationevent", "Can view async migration event")],
}
OPERATORS = {
    "asyncmigrationstatus": [
        *VIEWERS["asyncmigrationstatus"],
        ("run_asyncmigrationstatus", "Can run async migrations"),
        ("cancel_asyncmigrationstatus", "Can cancel async migrations"),
        ("rollback_asyncmigrationstatus", "Can roll back async migrations"),
        ("tune_asyncmigrationstatus", "Can tune async migrations"),
        ("hold_asyncmigrationstatus", "Can hold async migrations"),
    ],
    "asyncmigrationevent": VIEWERS["asyncmigrationevent"],
}
GROUPS = {"async_migrations viewers": VIEWERS, "async_migrations operators": OPERATORS}


def make_groups(apps: Any, schema_editor: Any) -> None:
    if not _users_live_here(apps, schema_editor.connection):
        return
    alias = schema_editor.connection.alias
    for name, wanted in GROUPS.items():
        group, _ = apps.get_model("auth", "Group").objects.using(alias).get_or_create(name=name)
        group.permissions.add(*_permissions(apps, alias, wanted))


def remove_groups(apps: Any, schema_editor: Any) -> None:
    if _users_live_here(apps, schema_editor.connection):
        alias = schema_editor.connection.alias
        apps.get_model("auth", "Group").objects.using(alias).filter(name__in=GROUPS).delete()


def _users_live_here(apps: Any, connection: Any) -> bool:
    """Whether this database has the tables of users: a second target may be one where a router keeps them out."""
    models = [apps.get_model("auth", "Group"), apps.get_model("contenttypes", "ContentType")]
    if not all(router.allow_migrate_model(connection.alias, model) for model in models):
        return False
    return {model._meta.db_table for model in models} <= set(connection.introspection.table_names())


def _permissions(apps: Any, alias: str, wanted: dict[str, list[tuple[str, str]]]) -> list[Any]:
    """Return the permissions; Django itself makes them only after all of `migrate`, and then finds these."""
    content_types = apps.get_model("contenttypes", "ContentType").objects.using(alias)
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    found = []
    for model, names in wanted.items():
        content_type, _ = content_types.get_or_create(app_label="async_migrations", model=model)
        for codename, name in names:
            permission, _ = permissions.get_or_create(
                content_type=content_type, codename=codename, defaults={"name": name}
            )
            found.append(permission)
    return found


class Migration(migrations.Migration):
    dependencies = [
        ("async_migrations", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make_groups, remove_groups, elidable=False)]
