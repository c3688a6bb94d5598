"""Every write of a migration's status, lease and counters: one conditional UPDATE each, and one event with it.

Each function reads what the row says, decides by the table in `states.py`, and writes only if the row still says so.
The row count is the answer: whoever loses the race has changed nothing. Times come from the database clock.
"""

from .audit import Channel, Origin
from .figures import UnderWay, counts, counts_up_to, held_for, under_way, waits
from .gate import Verdict, Wanted, judge, survey
from .hold import changing_holds, databases, held, holds, holds_in_force, lift_hold, set_hold
from .leases import (
    Asked,
    cancelled,
    claim,
    claim_first,
    fail,
    failed_since,
    give_back,
    note,
    paused,
    reap,
    release,
    renew,
    succeed,
)
from .line import (
    BEHIND,
    call_up,
    in_line,
    mark_dispatched,
    mark_unsent,
    next_in_line,
    note_held,
    note_waiting,
    unclaimed,
    waiting,
)
from .moves import Answer, Lease, get, remark, rows
from .requests import Request, check_request, collect_requests, leave_request, take_over, write_done
from .samples import take_sample
from .tuning import tune
from .verbs import cancel, foresee, pause, resume, rollback, run

__all__ = [
    "BEHIND",
    "Answer",
    "Asked",
    "Channel",
    "Lease",
    "Origin",
    "Request",
    "UnderWay",
    "Verdict",
    "Wanted",
    "call_up",
    "cancel",
    "cancelled",
    "changing_holds",
    "check_request",
    "claim",
    "claim_first",
    "collect_requests",
    "counts",
    "counts_up_to",
    "databases",
    "fail",
    "failed_since",
    "foresee",
    "get",
    "give_back",
    "held",
    "held_for",
    "holds",
    "holds_in_force",
    "in_line",
    "judge",
    "leave_request",
    "lift_hold",
    "mark_dispatched",
    "mark_unsent",
    "next_in_line",
    "note",
    "note_held",
    "note_waiting",
    "pause",
    "paused",
    "reap",
    "release",
    "remark",
    "renew",
    "resume",
    "rollback",
    "rows",
    "run",
    "set_hold",
    "succeed",
    "survey",
    "take_over",
    "take_sample",
    "tune",
    "unclaimed",
    "under_way",
    "waiting",
    "waits",
    "write_done",
]
