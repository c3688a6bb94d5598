"""What `make serve` has on show when there is nothing yet: the demo's rows, and migrations in every status.

A backfill is held to a rate at which it takes ten minutes, and an index build waits for the transaction of a report
that somebody has left open, as happens. Both end by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2

from . import rows
from .control_plane import ControlPlane, Row, control_plane
from .database import in_one_line, operators_may_force
from .errors import CannotGoOn
from .service import Door

#: What the service needs to be given for it: a build and a backfill go on at once.
VARIABLES = {"ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE": "2"}
#: The host project whose migration files it takes: with an app more than that of the demo.
SETTINGS = "tracker.showroom"

TASKS, REVIEWS = 60_000, 40_000
BACKFILL_SECONDS = 600
REPORT_SECONDS = 300
PAUSE_AT = 30.0  # percent
EVERY = 0.1  # seconds between two looks

INDEX, UPDATE, UNIQUE, CHECKSUM = (
    f"tasks.migrations.{file}"
    for file in ("0003_task_proj_octlen_idx_async", "0004_task_total_async", "0005_task_number_uniq_async",
                 "0006_task_checksum_async")
)  # fmt: skip
REVIEWER, RATING, LANGUAGE, COMMENT, TASK, SAID = (
    f"reviews.migrations.{file}"
    for file in ("0002_review_reviewer_idx_async", "0003_review_rating_async", "0004_review_language_async",
                 "0005_review_comment_idx_async", "0006_review_task_fk_async", "0007_review_said_idx_async")
)  # fmt: skip

# What is over when the page is first seen: the verb, and of what.
_OVER = (
    ("run", INDEX),
    ("run", UPDATE),
    ("rollback", UPDATE),
    ("run", UNIQUE),
    ("run", REVIEWER),
    ("run", RATING),
    ("cancel", SAID),
)

_EMPTY = """
SELECT NOT EXISTS (SELECT FROM project)
   AND NOT EXISTS (SELECT FROM async_migrations_asyncmigrationstatus WHERE requested_at IS NOT NULL)
"""

_REVIEWS = """
INSERT INTO review (task_id, reviewer, comment, said, created_at)
SELECT 1 + n * 7919 %% %(tasks)s,
       (ARRAY['amara', 'bjarne', 'chen', 'dalia', 'emre', 'fatou'])[1 + n %% 6],
       (ARRAY['Die Kanten stimmen nicht: ', 'Fine as it is: ', 'Schön: ', 'The left corner is missing: '])[1 + n %% 4]
           || 'frame ' || n || ' of batch ' || md5((n %% 997)::text),
       CASE WHEN n %% 13000 = 0 THEN 'n/a' ELSE (1 + n %% 5)::text END,
       now() - n * interval '1 minute'
FROM generate_series(1, %(reviews)s) AS n
"""


def is_empty(database_url: str) -> bool:
    """Whether neither rows of the demo are there, nor anybody has asked for a migration yet."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_EMPTY)
        return bool((cursor.fetchone() or (False,))[0])


@contextmanager
def on_show(database_url: str, control: ControlPlane) -> Iterator[None]:
    """Bring the scene up, which takes some ten seconds; the build waits for the length of the block.

    The database is empty, the files of SETTINGS are recorded there as SCHEDULED, and the service was given VARIABLES.

    Raises CannotGoOn and psycopg2.Error.
    """
    _load(database_url)
    with operators_may_force(database_url):
        for verb, name in _OVER:
            # The preflight sees the duplicates of this one, and nobody sees an ERROR that is not there.
            forced = {"force": True} if name == UNIQUE else {}
            control.ask(verb, pk := _pk(control, name), **forced)
            control.wait(pk, EVERY)
    _pause_in_the_middle(control)
    with _report(database_url):
        build, fill = (_pk(control, name) for name in (COMMENT, CHECKSUM))
        control.ask("run", build)
        control.tune(fill, {"max_rows_per_second": TASKS // BACKFILL_SECONDS})
        control.ask("run", fill)
        control.ask("run", _pk(control, TASK))
        _until(control, build, lambda row: row["waiting_on"])
        _until(control, fill, lambda row: row["progress"]["done"])
        yield


def show(door: Door, database_url: str, alive: Callable[[], bool]) -> None:
    """Have the scene on show for as long as the report takes, and tell how it is; what goes wrong stops nothing."""
    try:
        with control_plane(door) as control, on_show(database_url, control):
            print(
                f"The demo is there: a backfill of {BACKFILL_SECONDS // 60} minutes, and a build that waits for the "
                f"transaction of a report, {REPORT_SECONDS // 60} minutes from now on.",
                flush=True,
            )
            end = time.monotonic() + REPORT_SECONDS
            while alive() and time.monotonic() < end:
                time.sleep(EVERY)
    except (CannotGoOn, psycopg2.Error) as exc:
        if alive():  # Otherwise everything is being stopped, which is what it stumbled over.
            said = in_one_line(exc) if isinstance(exc, psycopg2.Error) else exc
            print(f"The demo could not be brought up: {said}. Everything else goes on.", flush=True)


def _load(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        rows.load(connection, TASKS, lambda done: None)
        with connection.cursor() as cursor:
            cursor.execute(_REVIEWS, {"tasks": TASKS, "reviews": REVIEWS})
            cursor.execute("VACUUM (ANALYZE) review")


def _pause_in_the_middle(control: ControlPlane) -> None:
    pk = _pk(control, LANGUAGE)
    control.tune(pk, {"max_rows_per_second": REVIEWS // 5})
    control.ask("run", pk)
    _until(control, pk, lambda row: (row["progress"]["percent"] or 0) > PAUSE_AT)
    control.ask("pause", pk)
    _until(control, pk, lambda row: row["status"] == "PAUSED")


@contextmanager
def _report(database_url: str) -> Iterator[None]:
    """Keep a transaction open that has read, as somebody does who forgets to end it."""
    with closing(psycopg2.connect(database_url, application_name="monthly report")) as connection:
        connection.set_session("REPEATABLE READ")
        with connection.cursor() as cursor:
            cursor.execute("SELECT reviewer, count(*) FROM review GROUP BY reviewer")
        yield


def _pk(control: ControlPlane, name: str) -> int:
    return int(control.find(name)["id"])


def _until(control: ControlPlane, pk: int, reached: Callable[[Row], object]) -> None:
    """Return when it is so; CannotGoOn where the migration ends before."""
    for row in control.follow(pk, EVERY):
        if reached(row):
            return
    raise CannotGoOn(f"{row['name']} has ended as {row['status']} too early {row['meta'].get('error', '')}".strip())
