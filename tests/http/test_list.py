"""GET /api/async-migrations"""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from async_migrations.states import Status

from .conftest import assert_problem

URL = "/api/async-migrations"

FIELDS = [
    "id", "name", "database", "kind", "direction", "status", "terminal", "stop_requested", "meta", "phase",
    "progress", "waiting_on", "throttled", "attempt", "max_attempts", "worker", "requested_by", "run_at",
    "created_at", "updated_at", "requested_at", "started_at", "finished_at", "heartbeat_at",
]  # fmt: skip


def names(response):
    assert response.status_code == 200, response.content
    return [row["name"] for row in response.json()["results"]]


def test_it_works(viewer, migration):
    row = migration(name="shop.migrations.0007_total_async")

    response = viewer.get(URL)

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() | {"results": []} == {"count": 1, "next": None, "previous": None, "results": []}
    found = response.json()["results"][0]
    assert list(found) == FIELDS
    assert list(found["progress"]) == ["done", "total", "unit", "percent", "rate_per_second", "eta_seconds"]
    assert (found["id"], found["name"], found["status"]) == (row.pk, row.name, "SCHEDULED")


def test_the_newest_comes_first_and_an_empty_list_is_a_list(viewer, migration):
    assert names(viewer.get(URL)) == []
    first, second = migration(), migration()
    assert names(viewer.get(URL)) == [second.name, first.name]


def test_progress_is_told_with_the_names_of_the_contract(viewer, migration):
    row = migration(Status.IN_PROGRESS)
    type(row).objects.filter(pk=row.pk).update(
        progress_done=118211, progress_total=441021, progress_unit="blocks", progress_percent=26.804,
        progress_rate=9120.0, eta_seconds=35,
    )  # fmt: skip
    assert viewer.get(URL).json()["results"][0]["progress"] == {
        "done": 118211,
        "total": 441021,
        "unit": "blocks",
        "percent": 26.8,
        "rate_per_second": 9120.0,
        "eta_seconds": 35,
    }


def test_status_may_be_repeated(viewer, migration):
    wanted = [migration(Status.FINISHED).name, migration(Status.ERROR).name]
    migration(Status.SCHEDULED)
    assert sorted(names(viewer.get(URL, {"status": ["FINISHED", "ERROR"]}))) == sorted(wanted)


def test_a_status_with_a_space_is_one_word(viewer, migration):
    assert names(viewer.get(f"{URL}?status=IN%20PROGRESS")) == []
    row = migration(Status.IN_PROGRESS)
    assert names(viewer.get(f"{URL}?status=IN+PROGRESS")) == [row.name]


def test_name_is_exact_and_search_is_a_part(viewer, migration):
    migration(name="shop.migrations.0001_a")
    migration(name="shop.migrations.0001_a_b")
    assert names(viewer.get(URL, {"name": "shop.migrations.0001_a"})) == ["shop.migrations.0001_a"]
    assert len(names(viewer.get(URL, {"search": "0001_A"}))) == 2
    assert names(viewer.get(URL, {"search": "%"})) == []


def test_database_and_kind_filter(viewer, migration):
    migration(database="default")
    other = migration(database="second")
    assert names(viewer.get(URL, {"database": "second", "kind": "sql"})) == [other.name]


def test_app_filters_by_the_label(viewer, migration, settings):
    settings.MIGRATION_MODULES = {"admin": "shop.files"}
    own, other = migration(name="shop.files.0001_a"), migration(name="shop.migrations.0001_a")
    migration(name="shopping.migrations.0001_a")
    assert names(viewer.get(URL, {"app": "admin"})) == [own.name]
    assert names(viewer.get(URL, {"app": "shop"})) == [other.name]


def test_created_after_and_before_are_a_half_open_range(viewer, migration):
    row = migration()
    at = row.created_at.isoformat()
    assert names(viewer.get(URL, {"created_after": at})) == [row.name]
    assert names(viewer.get(URL, {"created_before": at})) == []
    assert names(viewer.get(URL, {"created_before": "2099-01-01T00:00:00Z"})) == [row.name]


@pytest.mark.parametrize("field", ["id", "created_at", "updated_at", "name", "status"])
def test_it_can_be_ordered(viewer, migration, field):
    made = [migration(name="b"), migration(name="a")]
    assert sorted(names(viewer.get(URL, {"ordering": field}))) == ["a", "b"]
    by_id = [row.name for row in made]
    assert names(viewer.get(URL, {"ordering": "id"})) == by_id
    assert names(viewer.get(URL, {"ordering": "-id"})) == by_id[::-1]
    assert names(viewer.get(URL, {"ordering": "-name,id"})) == ["b", "a"]
    assert names(viewer.get(URL, {"ordering": ["status", "-name"]})) == ["b", "a"]


def test_pages_link_to_each_other(viewer, migration):
    made = [migration().name for _ in range(5)][::-1]
    first = viewer.get(URL, {"page_size": 2}).json()
    assert first["previous"] is None
    second = viewer.get(first["next"])
    third = viewer.get(second.json()["next"])
    assert third.json()["next"] is None
    assert [row["name"] for row in first["results"]] + names(second) + names(third) == made


def test_the_number_of_queries_does_not_grow_with_the_rows(viewer, migration):
    def queries():
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert viewer.get(URL).status_code == 200
        return captured

    migration()
    few = queries()
    for _ in range(20):
        migration()
    many = queries()
    assert len(many) == len(few) <= 5
    assert not any("sql_forwards" in query["sql"] for query in many)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=DONE", "status"),
        ("status=finished", "status"),
        ("kind=python", "kind"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-11-22", "created_after"),
        ("created_before=2026-11-22T10:00:00", "created_before"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "created_before"),
        ("ordering=lease_token", "ordering"),
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=last", "page"),
        ("page=" + "9" * 5000, "page"),
        ("page_size=501", "page_size"),
        ("page_size=0", "page_size"),
        ("page_size=ten", "page_size"),
        ("page_size=%D9%A3", "page_size"),
        ("name=a%00b", "name"),
        ("name=a&name=b", "name"),
        ("name=", "name"),
        ("name=%20", "name"),
        ("status=", "status"),
        ("state=FINISHED", "state"),
        ("format=json", "format"),
        ("status=FINISHED&sql=1", "sql"),
    ],
)
def test_a_bad_or_unknown_parameter_is_named(viewer, migration, query, field):
    migration()
    problem = assert_problem(viewer.get(f"{URL}?{query}"), 400, "validation_error")
    assert list(problem["errors"]) == [field]
    assert field in problem["detail"]


def test_a_page_after_the_last_is_not_there(viewer):
    assert "the last one is 1" in assert_problem(viewer.get(URL, {"page": 99}), 404, "not_found")["detail"]


def test_it_needs_the_permission_to_view(client_of, django_user_model):
    client = client_of(None)
    client.force_login(django_user_model.objects.create_user("nobody"))
    problem = assert_problem(client.get(URL), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.view_asyncmigrationstatus"
