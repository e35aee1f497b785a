"""The ledger in words."""

from __future__ import annotations

from alflow.campaign.model import Began, Finished, Resources, Submitted, Task, Verb
from alflow.monitor.accounts import UNKNOWN, sections
from alflow.monitor.history import History
from alflow.monitor.ledger import Ledger

H = 3600.0


def told(*lines):
    ledger, history = Ledger(), History()
    history.header = {"stages": ["melt"]}
    for hours, *events in lines:
        ledger.add(hours * H, events)
        history.add(hours * H, events)
    return sections(ledger, history)


FIT = Task("0-calibrate-000000", Verb.CALIBRATE, {"stage": 0, "loop": 0, "version": 1})
MADE = {"version": 1, "n": 40, "members": 2, "path": "m", "errors": {"energy_rmse_meV_atom": 2.0}}


def test_lanes_and_versions():
    held = {"cpu": {"nodes": 2, "workers": 2, "pending": 0}, "gpu": {"nodes": 2, "workers": 2, "pending": 0}}
    accounts, versions = told(
        (0, Began({"calibrate": "gpu"}, ["rounds"]), Resources(held), Submitted(FIT)),
        (5, Finished(FIT.id, {**MADE, "started": 0.0, "ended": 5 * H})),
    )
    rows = {row[0]: dict(zip(accounts.columns, row, strict=True)) for row in accounts.rows}
    assert rows["gpu"]["busy"] == "50 %"
    assert rows["gpu"]["barrier"] == "50 %"
    assert rows["cpu"]["barrier"] == "100 %"
    assert (rows["all"]["node-\nhours"], rows["all"]["busy"]) == ("20.0", "25 %")
    assert versions.rows[0][:4] == ("melt 1", "20.0", "0", "40")


def test_a_runner_that_tells_nothing():
    accounts, versions = told((0, Submitted(FIT)), (5, Finished(FIT.id, MADE)))
    assert accounts.rows == ()
    assert accounts.note == UNKNOWN
    assert versions.rows[0][:4] == ("melt 1", "–", "0", "40")
