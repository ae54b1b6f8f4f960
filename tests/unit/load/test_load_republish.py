"""After the warehouse went back to an earlier moment: what was published since is published again, and nothing else."""

import json
from datetime import date

import psycopg
import pytest
from test_lineage import airflow_event
from test_load_publish import content, go, load
from warehouse_kit import flights

from jobs.lineage import events
from jobs.load import journal, publish
from jobs.rollback import republish
from jobs.rollback.republish import RepublishFailed

JAN, FEB, MAR = (date(2013, month, 1) for month in (1, 2, 3))
LEDGER = ("run_source", "run_stage", "run_reject")


def publish_run(warehouse, run_id, start, end, facts):
    """A whole run, entered in the journal."""
    go(warehouse, warehouse.run(run_id, start, end), facts)
    assert journal.enter(warehouse.conn, warehouse.lake, "curated", run_id)


def move(warehouse, run_id, old, new):
    """A later attempt wrote elsewhere: what the ledger says now, and where the rows are."""
    objects = warehouse.lake.objects
    for bucket, key in [place for place in objects if f"run_id={run_id}/{old}/" in place[1]]:
        objects[bucket, key.replace(old, new)] = objects.pop((bucket, key))
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_stage set prefix = replace(prefix, %s, %s) where run_id = %s", (old, new, run_id))


def again(warehouse, **options):
    return republish.republish(warehouse.conn, warehouse.lake, "curated", **options)


def ledger_of(warehouse, run_id):
    """What the ledger says of a run, but for the moments at which it was said."""
    rows = {
        name: warehouse.rows(
            f"select to_jsonb(t) - 'recorded_at' from etl.{name} as t where run_id = '{run_id}' order by 1"
        )
        for name in LEDGER
    }
    columns = "run_id, dag_run_id, pipeline, release, attempt, interval_from, interval_to, state, started_at"
    return rows | {"run": warehouse.rows(f"select {columns} from etl.run where run_id = '{run_id}'")}


def test_what_was_published_since_is_published_again(warehouse, moments):
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    moment = moments()
    publish_run(warehouse, "r2", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    publish_run(warehouse, "r3", "2013-01-01", "2013-02-01", flights(JAN, FEB, delay=50))
    before, known = content(warehouse), ledger_of(warehouse, "r2")

    back = moment.restored()
    assert content(back) != before
    planned = republish.plan(back.conn, back.lake, "curated")
    assert [run["run_id"] for run in planned["publish"]] == ["r2", "r3"], "in the order in which they were published"
    assert planned["publish"][0]["rows_extracted"] == 56
    done = again(back)
    assert content(back) == before
    assert ledger_of(back, "r2") == known
    assert [(v["partition"], v["version"]) for v in done["publish"][1]["versions"]] == [("fact_flight_201301", 2)]
    assert back.rows("select count(*) from etl.audit_result where run_id = 'r2' and passed")[0][0] > 0

    objects = dict(back.lake.objects)
    assert again(back) == {"publish": [], "leave_out": [], "undo": []}
    assert back.lake.objects == objects


def test_its_lineage_comes_back(warehouse, moments):
    """What the run's own tasks told, and Airflow of them."""
    moment, run = moments(), warehouse.run("r1", "2013-01-01", "2013-02-01")
    versions = go(warehouse, run, flights(JAN, FEB))
    events.store(warehouse.conn, events.published(warehouse.conn, run, warehouse.declaration, versions))
    events.enter(warehouse.conn, [airflow_event(dag_run="r1")])
    journal.enter(warehouse.conn, warehouse.lake, "curated", "r1")
    query = "select e.event, d.direction, d.name from etl.lineage_event as e left join etl.lineage_dataset as d using (event_key)"
    known = warehouse.rows(query)
    assert {event["producer"] for event, *_ in known} > {airflow_event()["producer"]}

    back = moment.restored()
    assert back.rows(query) == []
    again(back)
    assert [row for row in known if row not in back.rows(query)] == []


def test_nothing_is_missing_without_a_restore(warehouse):
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    assert republish.missing(warehouse.conn, warehouse.lake, "curated") == []


def test_only_what_is_missing_is_read(warehouse, moments, monkeypatch):
    """The journal keeps every run there ever was."""
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish_run(warehouse, "r2", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    publish.undo(warehouse.conn, "r2")
    journal.enter(warehouse.conn, warehouse.lake, "curated", "r2")
    moment = moments()
    publish_run(warehouse, "r3", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    back, read = moment.restored(), []
    get = back.lake.get_object

    def reading(Bucket, Key):
        read.append(Key)
        return get(Bucket=Bucket, Key=Key)

    monkeypatch.setattr(back.lake, "get_object", reading)
    plan = republish.plan(back.conn, back.lake, "curated")
    assert [run["run_id"] for run in plan["publish"]] == ["r3"] and plan["undo"] == []
    assert [key.split("/")[1] for key in read] == ["r3"]


def test_a_bad_run_stays_away_for_good(warehouse, moments):
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    moment, later = moments(), moments()
    publish_run(warehouse, "bad", "2013-01-01", "2013-02-01", flights(JAN, FEB, delay=999))
    publish_run(warehouse, "r3", "2013-02-01", "2013-03-01", flights(FEB, MAR))

    back = moment.restored()
    with pytest.raises(LookupError, match="not among the runs that are missing: r9"):
        again(back, leave_out=["r9"])
    done = again(back, leave_out=["bad"])
    assert [run["run_id"] for run in done["leave_out"]] == ["bad"]
    assert again(back, leave_out=["bad"]) == {"publish": [], "leave_out": [], "undo": []}, "said once more"
    assert back.rows("select max(dep_delay_minutes), count(distinct run_id) from dwh.fact_flight") == [(5, 2)]
    assert [e["run_id"] for e in republish.missing(back.conn, back.lake, "curated")] == []

    second = later.restored()
    again(second)
    assert content(second) == content(back), "the next restore does not bring it back"


def test_a_run_that_was_undone_is_not_published_again(warehouse, moments):
    moment = moments()
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish.undo(warehouse.conn, "r1")
    assert len(journal.sync(warehouse.conn, warehouse.lake, "curated")) == 1
    assert journal.sync(warehouse.conn, warehouse.lake, "curated") == []
    assert republish.missing((back := moment.restored()).conn, back.lake, "curated") == []


def test_what_was_taken_back_since_is_taken_back_again(warehouse, moments):
    """Back to a moment between a publication and its undo, readers see what they saw before the restore."""
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish_run(warehouse, "r2", "2013-01-01", "2013-02-01", flights(JAN, FEB, delay=50))
    publish_run(warehouse, "r3", "2013-01-01", "2013-02-01", flights(JAN, FEB, delay=99))
    moment = moments()
    publish.undo(warehouse.conn, ["r2", "r3"])
    journal.enter_all(warehouse.conn, warehouse.lake, "curated", ["r2", "r3"])
    publish_run(warehouse, "r4", "2013-01-01", "2013-02-01", flights(JAN, FEB, delay=70))
    before = content(warehouse)

    back = moment.restored()
    assert republish.plan(back.conn, back.lake, "curated")["undo"] == ["r2", "r3"]
    done = again(back)
    assert content(back) == before
    assert (done["undo"], [run["run_id"] for run in done["publish"]]) == (["r2", "r3"], ["r4"])
    assert back.rows("select run_id, state from etl.run order by 1") == [
        ("r1", "published"),
        ("r2", "undone"),
        ("r3", "undone"),
        ("r4", "published"),
    ]
    assert back.rows("select requested_by, run_ids from etl.undo") == [("restore", ["r3", "r2"])]
    assert again(back) == {"publish": [], "leave_out": [], "undo": []}


def test_a_run_that_was_published_twice_comes_back_as_it_was_last(warehouse, moments):
    facts = flights(JAN, FEB)
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", facts)
    moment = moments()
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01", attempt=2), flights(JAN, FEB, delay=7))
    move(warehouse, "r1", "attempt=3", "attempt=4")
    journal.sync(warehouse.conn, warehouse.lake, "curated")
    before = content(warehouse, lineage=False)
    back = moment.restored()
    assert content(back, lineage=False) != before
    again(back)
    assert content(back, lineage=False) == before
    assert back.rows("select attempt, state from etl.run") == [(2, "published")]


def test_killed_at_any_point_and_called_again_it_completes(warehouse, moments, monkeypatch):
    moment = moments()
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish_run(warehouse, "r2", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    before = content(warehouse)
    back = moment.restored()

    class Killed(Exception):
        pass

    def kill(*arguments, **options):
        raise Killed

    for module, name in (
        (republish.staging, "load"),
        (republish.audit, "check"),
        (republish.publish, "publish"),
        (republish.ledger, "finish_run"),
        (republish.journal, "enter"),
    ):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, name, kill)
            again(back)
        assert (
            content(back) in ({table: [] for table in before}, before) or len(back.rows("table etl.publication")) == 1
        )
    again(back)
    assert content(back) == before
    assert back.rows("select state from etl.run") == [("published",), ("published",)]


def test_rows_that_are_gone_from_the_lake_are_named(warehouse, moments):
    moment = moments()
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish_run(warehouse, "r2", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    for bucket, key in list(warehouse.lake.objects):
        if "run_id=r1/" in key and "fact_flight" in key:
            del warehouse.lake.objects[bucket, key]
    back = moment.restored()
    with pytest.raises(RepublishFailed, match=r"run r1: s3://curated/fact_flight/.* is not complete"):
        again(back)
    assert back.rows("table etl.publication") == [], "nor what came after it"


def test_a_run_of_a_pipeline_that_is_gone_is_named(warehouse, moments):
    moment = moments()
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    (key,) = [key for key in warehouse.lake.objects if key[1].startswith("_publications/")]
    event = json.loads(warehouse.lake.objects[key])
    event["ledger"]["run"]["pipeline"] = "trains"
    warehouse.lake.objects[key] = json.dumps(event).encode()
    back = moment.restored()
    with pytest.raises(RepublishFailed, match="run r1: the pipeline trains is no longer declared"):
        again(back)


def test_what_retention_took_from_the_ledger_is_not_missing(warehouse):
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    publish_run(warehouse, "r2", "2013-02-01", "2013-03-01", flights(FEB, MAR))
    objects = warehouse.lake.objects
    (old,) = [key for key in objects if key[1].startswith("_publications/r1/")]
    event = json.loads(objects.pop(old)) | {"run_id": "r0", "at": "2020-01-01T00:00:00+00:00"}
    objects[old[0], "_publications/r0/20200101T000000.000000Z-published.json"] = json.dumps(event).encode()
    assert republish.missing(warehouse.conn, warehouse.lake, "curated") == []


def test_a_run_that_published_nothing_has_no_entry(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    assert journal.enter(warehouse.conn, warehouse.lake, "curated", "r1") is None


def test_the_journal_is_written_between_transactions(warehouse):
    publish_run(warehouse, "r1", "2013-01-01", "2013-02-01", flights(JAN, FEB))
    warehouse.conn.execute("select 1")
    with pytest.raises(psycopg.ProgrammingError):
        journal.enter(warehouse.conn, warehouse.lake, "curated", "r1")
