"""The operators' page: the thresholds of the throttle, each set, turned off or taken back by itself."""

from __future__ import annotations

import re
from html import unescape

import pytest

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.states import Status

from .conftest import asked, told

pytestmark = pytest.mark.django_db(databases=["default", "second"])


class Form:
    """The form of a page that is open, as a browser sends it."""

    def __init__(self, client, pk):
        self.client, self.pk = client, pk
        self.page = client.get(f"/migrations/{pk}").text
        fields = re.findall(r'type="(?:number|hidden)" name="([^"]+)"[^>]*? value="([^"]*)"', self.page)
        self.fields = {name: value for name, value in fields if "throttle" in name}
        self.off = re.findall(r'name="off" value="([^"]+)" checked', self.page)

    def send(self, off=(), on=(), **typed):
        signals = {f"throttle.{name}": value for name, value in typed.items()}
        ticked = [*({*self.off, *(_name(each) for each in off)} - {_name(each) for each in on})]
        return self.client.post(f"/migrations/{self.pk}/tune", {**self.fields, **signals, "off": ticked})

    def says(self, name):
        (said,) = re.findall(rf'id="about-throttle{name}">(.*?):', self.page)
        return unescape(said)


def _name(signal):
    return "throttle" if signal == "all" else f"throttle.{signal}"


@pytest.fixture
def backfill(migration):
    def make(**options):
        return migration(Status.STARTED, kind="backfill", options=options)

    return make


def set_live(row):
    row.refresh_from_db()
    return row.tuning.get("throttle", "nothing")


def test_it_works(browser, backfill):
    row, client = backfill(), browser("tune")
    assert Form(client, row.pk).says("lock_waiters") == "2 by the settings"
    said = told(Form(client, row.pk).send(lock_waiters="7", off=["wal_archive_queue"]))[-1]
    assert '"lock_waiters": 7' in said
    assert set_live(row) == {"lock_waiters": 7, "wal_archive_queue": None}
    form = Form(client, row.pk)
    assert (form.fields["throttle.lock_waiters"], form.off) == ("7", ["throttle.wal_archive_queue"])
    form.send(on=["wal_archive_queue"])
    assert set_live(row) == {"lock_waiters": 7}
    Form(client, row.pk).send(lock_waiters="")
    assert set_live(row) == "nothing"


def test_what_the_file_says_of_other_signals_stays(browser, backfill):
    row, client = backfill(throttle={"active_sessions": 40, "lock_waiters": None}), browser("tune")
    form = Form(client, row.pk)
    assert (form.says("active_sessions"), form.says("lock_waiters")) == ("40 by the file", "off by the file")
    form.send(replica_lag_seconds="2.5")
    assert set_live(row) == {"active_sessions": 40, "lock_waiters": None, "replica_lag_seconds": 2.5}
    form = Form(client, row.pk)
    assert (form.off, form.fields["throttle.active_sessions"]) == ([], ""), "they are the file's, not set live"
    form.send(active_sessions="9")
    Form(client, row.pk).send(active_sessions="", replica_lag_seconds="")
    assert set_live(row) == "nothing"


def test_only_what_was_changed_is_sent(browser, backfill):
    row, client = backfill(), browser("tune")
    form = Form(client, row.pk)
    lifecycle.tune(row.pk, Origin("bob"), {"throttle": {"lock_waiters": 5}})
    form.send(replica_lag_seconds="3")
    assert set_live(row) == {"lock_waiters": 5, "replica_lag_seconds": 3}


def test_all_of_it_is_turned_off_and_on_again(browser, backfill):
    row, client = backfill(), browser("tune")
    Form(client, row.pk).send(off=["all"])
    assert set_live(row) is False
    refused = Form(client, row.pk).send(lock_waiters="7")
    assert (refused.status_code, "No signal is looked at at all" in refused.text) == (400, True)
    assert set_live(row) is False
    Form(client, row.pk).send(on=["all"], lock_waiters="7")
    assert set_live(row) == {"lock_waiters": 7}

    by_file = backfill(throttle=False)
    Form(client, by_file.pk).send(on=["all"])
    assert set_live(by_file) is True
    Form(client, by_file.pk).send(off=["all"])
    assert set_live(by_file) == "nothing"


def test_what_cannot_be_used_is_told_and_what_was_typed_is_kept(browser, backfill):
    row, client = backfill(), browser("tune")
    answer = Form(client, row.pk).send(lock_waiters="-1", replica_lag_seconds="3", off=["wraparound_vacuum"])
    assert (answer.status_code, answer.text.count("This is not a number from 0")) == (400, 1)
    assert re.search(r'name="throttle.lock_waiters"[^>]*value="-1"[^>]*aria-invalid', answer.text)
    assert re.search(r'name="throttle.replica_lag_seconds"[^>]*value="3"', answer.text)
    assert 'value="throttle.wraparound_vacuum" checked' in answer.text
    assert set_live(row) == "nothing"
    assert asked()[-1][1:3] == ("tune", "refused")


def test_an_sql_migration_has_no_throttle(browser, migration):
    assert "throttle" not in browser("tune").get(f"/migrations/{migration().pk}").text.replace("detail.css", "")
