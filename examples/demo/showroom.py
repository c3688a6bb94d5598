"""What `make serve` has on show when there is nothing yet: the demo's rows, and migrations in every status.

A backfill is held to a rate at which it takes ten minutes, and an index build waits for the transaction of a report
that somebody has left open, as happens. Both end by themselves; at a later start what has ended begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

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

# What goes on and waits in line when the page is first seen.
_LIVE = (COMMENT, CHECKSUM, TASK)
# What is over cannot be tuned: what was rolled back quickly is slowed down once it goes on, before much is done.
_QUICKLY, _SLOWLY = ({"max_rows_per_second": TASKS // seconds} for seconds in (2, BACKFILL_SECONDS))
_UNDER_WAY = ("STARTED", "IN PROGRESS")
_CAN_BEGIN = ("SCHEDULED", "ROLLED BACK")

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

# The last of the rows that are loaded.
_LOADED = "SELECT EXISTS (SELECT FROM review)"

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
    return _is(_EMPTY, database_url)


@contextmanager
def on_show(database_url: str, control: ControlPlane, asker: str) -> Iterator[tuple[str, ...]]:
    """Bring the scene up, which takes some ten seconds; the build waits for the length of the block.

    The files of SETTINGS are recorded in the database, and the service was given VARIABLES. Where the scene was up
    before, only what shows progress begins anew, and of that only what nobody has asked for yet, or what has ended
    since as `asker` wanted, which is the name of the control plane's token: what somebody else did stays as it is.

    Yields what was put in line. Raises CannotGoOn and psycopg2.Error.
    """
    begun: tuple[str, ...] = ()
    if is_empty(database_url):
        begun = _bring_up(database_url, control)
    elif _is(_LOADED, database_url):
        begun = tuple(_taken_back(control, asker))
    with _report(database_url) if COMMENT in begun else nullcontext():
        for name in begun:
            control.ask("run", pk := _pk(control, name))
            if name == CHECKSUM:
                control.tune(pk, _SLOWLY)
        if COMMENT in begun:
            _until(control, _pk(control, COMMENT), lambda row: row["waiting_on"])
        if CHECKSUM in begun:
            _until(control, _pk(control, CHECKSUM), lambda row: row["progress"]["done"])
        yield begun


def show(door: Door, database_url: str, asker: str, alive: Callable[[], bool]) -> None:
    """Have the scene on show for as long as the report takes, and tell how it is; what goes wrong stops nothing."""
    try:
        with control_plane(door) as control, on_show(database_url, control, asker) as begun:
            print(f"The demo is there: {_told(begun)}.", flush=True)
            end = time.monotonic() + REPORT_SECONDS
            while COMMENT in begun and alive() and time.monotonic() < end:
                time.sleep(EVERY)
    except (CannotGoOn, psycopg2.Error) as exc:
        if alive():  # Otherwise everything is being stopped, which is what it stumbled over.
            said = in_one_line(exc) if isinstance(exc, psycopg2.Error) else exc
            print(f"The demo could not be brought up: {said}. Everything else goes on.", flush=True)


def _told(begun: tuple[str, ...]) -> str:
    build = f"a build that waits for the transaction of a report, {REPORT_SECONDS // 60} minutes from now on"
    fill = f"a backfill of {BACKFILL_SECONDS // 60} minutes"
    told = [said for name, said in ((CHECKSUM, fill), (COMMENT, build)) if name in begun]
    return ", and ".join(told) or "all is as it was left"


def _bring_up(database_url: str, control: ControlPlane) -> tuple[str, ...]:
    """Have everything that is over when the page is first seen; return what is to be put in line then."""
    _load(database_url)
    with operators_may_force(database_url):
        for verb, name in _OVER:
            # The preflight sees the duplicates of this one, and nobody sees an ERROR that is not there.
            forced = {"force": True} if name == UNIQUE else {}
            control.ask(verb, pk := _pk(control, name), **forced)
            control.wait(pk, EVERY)
    _pause_in_the_middle(control)
    control.tune(_pk(control, CHECKSUM), _SLOWLY)
    return _LIVE


def _taken_back(control: ControlPlane, asker: str) -> Iterator[str]:
    """Roll back what has ended as the asker wanted, and yield what can begin. A backfill that is under way goes on."""
    for name in _LIVE:
        row = control.find(name)
        if name != CHECKSUM and row["status"] in _UNDER_WAY:
            # Nothing is in its way any more: the report has ended with the run before.
            _until(control, row["id"], lambda row: row["status"] not in _UNDER_WAY)
            row = control.find(name)
        has_ended = row["status"] == "FINISHED" and row["requested_by"] == asker
        if has_ended:
            control.ask("rollback", row["id"])
        if has_ended or (row["status"] == "SCHEDULED" and row["requested_at"] is None):
            if name == CHECKSUM:
                control.tune(row["id"], _QUICKLY if has_ended else _SLOWLY)
            _until(control, row["id"], lambda row: row["status"] in _CAN_BEGIN)
            yield name


def _is(question: str, database_url: str) -> bool:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return bool((cursor.fetchone() or (False,))[0])


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
