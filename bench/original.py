"""The original's way, as the yardstick: the SQL enqueued through RQ, and one worker that forks for each job.

`python -m bench.original QUEUE` is that worker. Django is set up once, before the first fork, and every job opens a
connection of its own, as `manage.py rqworker` has it. The job keeps what the original's keeps: a status before and one
behind. The statement is enqueued from the bench itself; no request stands in front of it, as there does in ours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import django
from redis import Redis
from rq import Queue, Worker

from api.processes import running
from examples.demo.errors import CannotGoOn
from examples.demo.service import EXAMPLES, READY_TIMEOUT, Place, last_words

from .project.trials.statements import NAME, THROUGH_RQ, say_when

_JOB = "bench.project.trials.jobs.execute_sql_job"


class Original:
    """Enqueues jobs and says what became of them."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def enqueue(self, number: int) -> None:
        """Enqueue the job with the statement of this number."""
        self._queue.enqueue(_JOB, migration_name=NAME.format(number), sql=say_when(THROUGH_RQ + number))


@contextmanager
def original(where: Place) -> Iterator[Original]:
    """Run a worker on a queue of its own for the length of the block; what RQ leaves in Redis ends within minutes."""
    url = where.env["BROKER_URL"]
    if url.startswith("amqp"):
        raise CannotGoOn("BROKER_URL names RabbitMQ, and RQ works with Redis alone: name a Redis, or leave it out.")
    queue = Queue(f"{where.name}_rq", connection=Redis.from_url(url))
    env = where.env | {"DJANGO_SETTINGS_MODULE": "bench.project.settings", "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-m", "bench.original", queue.name]
    try:
        with running(command, env, where.directory / "rq.log") as worker:
            deadline = time.monotonic() + READY_TIMEOUT
            while not Worker.count(queue=queue):
                if not worker.is_alive() or time.monotonic() > deadline:
                    raise CannotGoOn(f"the RQ worker did not start; it said last: {last_words(worker)}")
                time.sleep(0.1)
            yield Original(queue)
    finally:
        for job_id in queue.finished_job_registry.get_job_ids():
            queue.finished_job_registry.remove(job_id, delete_job=True)
        queue.delete(delete_jobs=True)


def work(queue: str) -> None:
    """Work on the queue until told to stop."""
    django.setup()
    import_module("bench.project.trials.jobs")  # Once here, not after each fork.

    connection = Redis.from_url(os.environ["BROKER_URL"])
    Worker([Queue(queue, connection=connection)], connection=connection).work()


if __name__ == "__main__":
    work(sys.argv[1])
