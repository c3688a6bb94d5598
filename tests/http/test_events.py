"""GET /api/async-migrations/{id}/events"""

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem


def url(pk):
    return f"/api/async-migrations/{pk}/events"


def test_it_works(viewer, migration):
    row = migration(Status.FINISHED)

    response = viewer.get(url(row.pk))

    assert response.status_code == 200
    page = response.json()
    assert [event["kind"] for event in page["results"]] == ["schedule", "run", "claim", "succeed"]
    run = page["results"][1]
    assert list(run) == [
        "id", "kind", "from_status", "to_status", "attempt", "by", "request_id", "detail", "created_at",
    ]  # fmt: skip
    assert (run["from_status"], run["to_status"], run["by"]) == ("SCHEDULED", "STARTED", "somebody")
    assert page["count"] == 4


def test_an_error_is_in_the_history_after_another_run(viewer, migration):
    row = migration(Status.ERROR)
    lifecycle.run(row.pk, ORIGIN)
    failed = next(event for event in viewer.get(url(row.pk)).json()["results"] if event["kind"] == "fail")
    assert failed["detail"]["error"]["sqlstate"] == "23505"


def test_the_history_of_others_is_not_in_it(viewer, migration):
    migration(Status.FINISHED)
    assert viewer.get(url(migration().pk)).json()["count"] == 1


def test_it_comes_in_pages(viewer, migration):
    first = viewer.get(url(migration(Status.FINISHED).pk), {"page_size": 3}).json()
    second = viewer.get(first["next"]).json()
    assert (len(first["results"]), len(second["results"]), second["next"]) == (3, 1, None)


def test_an_unknown_id_is_not_found(viewer):
    assert_problem(viewer.get(url(10**30)), 404, "not_found")


def test_an_unknown_parameter_is_refused(viewer, migration):
    problem = assert_problem(viewer.get(url(migration().pk), {"kind": "run"}), 400, "validation_error")
    assert list(problem["errors"]) == ["kind"]
