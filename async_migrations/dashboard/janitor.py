"""What builds have left behind in the targets, and its removal: what the doors of the janitor do, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from .. import asking, lifecycle, tasks
from ..errors import BrokerAway, ExecutionError, NotALeftover
from ..execution import janitor
from ..lifecycle import Channel, audit
from ..rest.janitor import look_at
from ..rest.origin import origin_of
from .door import door, live, page, require

#: What is typed to have several dropped at once; one asks for its own name.
WORD = "drop"

_ACTION = "drop_leftover"

# Database, schema, and name of an index.
_Index = tuple[str, str, str]


@door("GET", "HEAD")
def leftovers(request: HttpRequest) -> HttpResponse:
    """Show what is left over in each target now."""
    found = [_look_at(alias) for alias in janitor.databases()]
    _name_makers([index for target in found for index in target["leftovers"]])
    holds = list(lifecycle.holds_in_force())
    count = sum(len(target["leftovers"]) for target in found)
    looked_at = [target["database"] for target in found if target["error"] is None]
    context = {"targets": found, "count": count, "looked_at": looked_at, "holds": holds}
    return live(request, "janitor", (found, [hold.pk for hold in holds]), lambda: context)


@door("POST")
def drop(request: HttpRequest) -> HttpResponse:
    """Have the chosen dropped, after one page that lists them and asks for the name."""
    require(request, _ACTION)
    chosen = list(dict.fromkeys(_chosen(request)))[: asking.MOST]
    if not chosen:
        messages.warning(request, "No index is chosen. Tick the boxes in front of some, then press the button.")
        return redirect("dashboard:janitor")
    typed = request.POST.get("name", "").strip()
    if typed != _word(chosen):
        return _confirm(request, chosen, typed)
    for index in chosen:
        if not _drop(request, *index):
            break
    return redirect("dashboard:janitor")


def _look_at(alias: str) -> dict[str, Any]:
    """Return what is left over in a target, each with the text by which it is chosen."""
    target = look_at(alias)
    for found in target["leftovers"]:
        found["key"] = json.dumps([alias, found["schema"], found["name"]])
    return target


def _name_makers(found: list[dict[str, Any]]) -> None:
    """Add the name of the migration that made it to each that one of ours has made."""
    makers = {index["migration"] for index in found} - {None}
    names = dict(lifecycle.rows().filter(pk__in=makers).values_list("pk", "name")) if makers else {}
    for index in found:
        index["maker"] = names.get(index["migration"], "")


def _chosen(request: HttpRequest) -> Iterator[_Index]:
    """Yield the indexes whose boxes were ticked; what no box of ours has said is left out."""
    known = janitor.databases()
    for text in request.POST.getlist("index"):
        try:
            database, schema, name = json.loads(text)
        except (ValueError, TypeError):
            continue
        if database in known and isinstance(schema, str) and isinstance(name, str):
            yield database, schema, name


def _word(chosen: list[_Index]) -> str:
    return chosen[0][2] if len(chosen) == 1 else WORD


def _confirm(request: HttpRequest, chosen: list[_Index], typed: str) -> HttpResponse:
    """List what would be dropped, and what is not left over any more or looked after by its migration."""
    there = {found["key"]: found for alias in {index[0] for index in chosen} for found in _look_at(alias)["leftovers"]}
    fitting, others = [], []
    for index in chosen:
        found = there.get(json.dumps(index))
        if found and not found["running"]:
            fitting.append((index, found))
        else:
            others.append(index)
    word = _word([index for index, _ in fitting]) if fitting else ""
    context = {"fitting": fitting, "others": others, "word": word, "wrong": typed}
    return page(request, "drop", context, status=400 if typed else 200)


def _drop(request: HttpRequest, database: str, schema: str, name: str) -> bool:
    """Have one dropped and say what became of it; False when nobody can be asked for the others either."""
    origin = origin_of(request, Channel.DASHBOARD)
    index, failed = f"{schema}.{name}", audit.Outcome.FAILED
    try:
        gone = asking.drop(database, schema, name, origin, tasks.ask_to_drop)
    except NotALeftover as exc:
        audit.refuse(_ACTION, origin, exc.code, str(exc), database=database, index=index)
        messages.error(request, str(exc))
    except BrokerAway as exc:
        audit.refuse(_ACTION, origin, exc.code, str(exc), database=database, outcome=failed, index=index)
        messages.error(request, f"{index} on {database}: {exc}")
        return False
    except ExecutionError as exc:
        audit.refuse(_ACTION, origin, exc.code, str(exc), database=database, outcome=failed, index=index)
        messages.error(request, f"Not dropped: {index} on {database}: {exc.message} {exc.hint or ''}".rstrip())
    else:
        said = "It is gone" if gone else "A worker has been asked to drop it"
        messages.success(request, f"{said}: {index} on {database}.")
    return True
