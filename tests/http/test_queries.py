"""How many queries each door makes, and each page that is open: few, and as many for many rows as for few.

The token, its user and what the user may do are one of them; of a page, session, user and permissions are three.
"""

import json

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.rest.permissions import VIEWERS
from async_migrations.states import Status

FEW, MANY = 2, 30

#: Door to the queries that it makes on the control database at most.
READING = {
    "": 3,
    "?status=SCHEDULED&search=app&ordering=-name": 3,
    "/summary": 3,
    "/gate?name=app.migrations.0001_async&prefix=app.&app=app&name=unknown": 9,
    "/hold": 3,
    "/janitor": 3,
    "/{pk}": 2,
    "/{pk}/events": 4,
    "/{pk}/quarantine": 4,
    "/{pk}/preflight": 4,
}
PAGES = {"/": 6, "/migrations": 6, "/migrations?status=SCHEDULED&search=app&ordering=-name": 6, "/migrations/{pk}": 5}
ASKING = {
    ("POST", "/{pk}/run"): 12,
    ("POST", "/{pk}/pause"): 12,
    ("POST", "/{pk}/resume"): 12,
    ("POST", "/{pk}/cancel"): 12,
    ("POST", "/{pk}/rollback"): 12,
    ("PATCH", "/{pk}/tuning"): 12,
    ("PUT", "/hold"): 12,
    ("DELETE", "/hold"): 12,
    ("POST", "/janitor/drop"): 12,
}
#: Verb to the queries that one more migration adds to it.
OF_EACH = {"run": 2, "cancel": 3}
SERVICE = {"/healthz": 0, "/readyz": 8, "/metrics": 8}
FROM = {"pause": Status.STARTED, "resume": Status.PAUSED, "rollback": Status.FINISHED}
BODIES: dict[str, dict[str, object]] = {
    "tuning": {"priority": 3},
    "hold": {"reason": "a test"},
    "drop": {"database": "default", "schema": "s", "name": "n"},
}


@pytest.fixture
def page_viewer(db):
    user = User.objects.create_user("looker")
    user.groups.add(Group.objects.get(name=VIEWERS))
    client = Client()
    client.force_login(user)
    return client


def queries(client, method, path, **body):
    with CaptureQueriesContext(connection) as made:
        answer = client.generic(method, f"/api/async-migrations{path}", json.dumps(body), "application/json")
    assert answer.status_code < 300, answer.content
    return [query["sql"] for query in made]


@pytest.mark.parametrize(("door", "most"), READING.items())
def test_reading_takes_as_many_queries_for_many_rows_as_for_few(viewer, migration, door, most):
    queries(viewer, "GET", "/summary")  # What is looked up once in a process is not counted.
    counted = []
    for size in (FEW, MANY):
        rows = [migration() for _ in range(size)]
        for _ in range(size):
            lifecycle.remark(rows[0].pk, "noted", Origin("somebody"))
        counted.append(queries(viewer, "GET", door.format(pk=rows[0].pk)))
    few, many = counted
    assert len(few) == len(many) <= most, many


@pytest.mark.parametrize(("page", "most"), PAGES.items())
def test_a_poll_of_a_page_takes_as_many_queries_for_many_rows_as_for_few(page_viewer, migration, page, most):
    counted = []
    for size in (FEW, MANY * 2):  # more than are on a page of the list
        rows = [migration() for _ in range(size)]
        path = page.format(pk=rows[0].pk)
        known = page_viewer.get(path).headers["ETag"]
        with CaptureQueriesContext(connection) as made:
            answer = page_viewer.get(path, headers={"HX-Request": "true", "If-None-Match": known})
        assert answer.status_code == 304
        counted.append([query["sql"] for query in made])
    few, many = counted
    # What is on one page alone is counted by looking at it.
    assert len(few) <= len(many) <= most, many
    assert not any(sql.startswith(("INSERT", "UPDATE")) for sql in many)


@pytest.mark.parametrize(("method", "door"), ASKING)
def test_asking_takes_as_many_queries_for_many_rows_as_for_few(operator, migration, method, door):
    verb = door.rpartition("/")[2]
    counted = []
    for size in (FEW, MANY):
        rows = [migration(FROM.get(verb, Status.SCHEDULED)) for _ in range(size)]
        counted.append(queries(operator, method, door.format(pk=rows[0].pk), **BODIES.get(verb, {})))
        lifecycle.lift_hold("", Origin("somebody"))
    few, many = counted
    assert len(few) == len(many) <= ASKING[method, door], many


def test_a_gate_takes_as_many_queries_for_much_that_is_asked_as_for_little(viewer, migration):
    row = migration()
    counted = []
    for size in (FEW, MANY):
        asked = "&".join(f"name=n{n}&prefix=p{n}&app=a{n}" for n in range(size))
        counted.append(queries(viewer, "GET", f"/gate?prefix={row.name}&{asked}"))
    few, many = counted
    assert len(few) == len(many) <= 7, many


@pytest.mark.parametrize(("verb", "most"), OF_EACH.items())
def test_asking_of_many_takes_as_many_queries_for_each_and_nothing_grows_besides(operator, migration, verb, most):
    counted = {}
    for size in (1, FEW, MANY):
        pks = [migration().pk for _ in range(size)]
        counted[size] = queries(operator, "POST", f"/{verb}", ids=pks)
    each = len(counted[FEW]) - len(counted[1])
    assert each == most, counted[FEW]
    assert len(counted[MANY]) == len(counted[1]) + (MANY - 1) * each <= 8 + MANY * each, counted[MANY]


@pytest.mark.parametrize(("door", "most"), SERVICE.items())
def test_the_doors_of_the_service_take_as_many_for_many_rows_as_for_few(viewer, migration, door, most):
    viewer.get(door)
    counted = []
    for size in (FEW, MANY):
        for _ in range(size):
            migration()
        with CaptureQueriesContext(connection) as made:
            assert viewer.get(door).status_code == 200
        counted.append([query["sql"] for query in made])
    few, many = counted
    assert len(few) == len(many) <= most, many
