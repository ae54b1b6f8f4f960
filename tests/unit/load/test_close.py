"""The end of a run's last task: closed in the ledger, known to the journal with its lineage."""

import json
import sys
from contextlib import nullcontext
from datetime import date

from test_load_publish import load
from warehouse_kit import flights

from jobs.lineage import events
from jobs.load import publish
from tests.deployed import ROOT

JAN, FEB = (date(2013, month, 1) for month in (1, 2))


def test_a_closed_run_is_in_the_journal_with_its_lineage(warehouse, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "dags"), *sys.path])
    from common import platform

    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    versions = publish.publish(warehouse.conn, warehouse.declaration, run)
    events.store(warehouse.conn, events.published(warehouse.conn, run, warehouse.declaration, versions))
    monkeypatch.setattr(platform, "warehouse", lambda: nullcontext(warehouse.conn))
    monkeypatch.setattr(platform, "object_store", lambda: (warehouse.lake, {"curated": "curated"}))
    platform.close(run)
    platform.close(run)  # repeated, it is the same object
    assert warehouse.rows("select state, error from etl.run") == [("published", None)]
    entries = [
        json.loads(body) for (_, key), body in warehouse.lake.objects.items() if key.startswith("_publications/")
    ]
    (entry,) = entries
    assert (entry["run_id"], entry["ledger"]["run"]["state"]) == ("r1", "published")
    told = {event["job"]["name"] for event in entry["ledger"]["lineage"]}
    assert told == {f"flights.publish.{name}" for name in warehouse.declaration.publish}
