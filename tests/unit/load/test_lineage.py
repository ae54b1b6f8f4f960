"""Lineage events in the ledger, the spool that brings Airflow's, and the tree that people read."""

import json
import os
from datetime import date

import pytest
from test_load_publish import load
from warehouse_kit import flights

from jobs.extract.manifest import File, Manifest
from jobs.lineage import events, spool
from jobs.lineage.tree import Lineage
from jobs.load import ledger, publish

JAN, FEB, MAR = (date(2013, month, 1) for month in (1, 2, 3))
COLUMNS = {"id": "bigint", "carrier": "string"}


def sealed(run, source):
    place = f"{source.connection}/{source.name}/dt=2013-01-01/run_id={run.run_id}/attempt=1"
    files = tuple(File(f"{place}/part-0000{number}.avro", 31, 100, "0" * 64) for number in range(2))
    return Manifest(
        run_id=run.run_id,
        attempt=1,
        pipeline="flights",
        source=source.connection,
        dataset=source.name,
        interval_from=str(run.interval_from),
        interval_to=str(run.interval_to),
        format="avro",
        flow_version="f10w",
        extracted_at="2026-01-01T00:00:00Z",
        files=files,
        bucket="raw",
        key=f"{place}/_manifest.json",
    )


def records(declaration, run, manifests):
    """The records of the three stages, as they leave them."""

    def record(stage, names, inputs):
        datasets = {
            name: {
                "prefix": f"s3a://curated/{name}/dt=2013-01-01/run_id={run.run_id}/attempt=3",
                "rows_out": 62,
                "columns": COLUMNS,
            }
            for name in names
        }
        return {"stage": stage, "attempt": 1, "inputs": inputs, "datasets": datasets}

    tables = declaration.publish.values()
    return [
        record(
            "clean_data", [f"clean_{name}" for name in declaration.sources], {k: m.url for k, m in manifests.items()}
        ),
        record("enrich_data", [table.name for table in tables if table.kind != "aggregate"], {}),
        record("aggregate_data", [table.name for table in tables if table.kind == "aggregate"], {}),
    ]


def go(warehouse, run, facts):
    """A whole run with its events; returns how many events were new."""
    load(warehouse, run, facts)
    manifests = {name: sealed(run, source) for name, source in warehouse.declaration.sources.items()}
    made = [
        events.extracted(run, one, {one.key: f"version-of-{name}", one.files[0].key: f"object-of-{name}"})
        for name, one in manifests.items()
    ]
    before = {}
    for record in records(warehouse.declaration, run, manifests):
        made += events.staged(run, warehouse.declaration, record, before)
        before |= record["datasets"]
    versions = publish.publish(warehouse.conn, warehouse.declaration, run)
    made += events.published(warehouse.conn, run, warehouse.declaration, versions)
    ledger.finish_run(warehouse.conn, run, "published")
    return events.store(warehouse.conn, made)


def tree(warehouse, *arguments):
    with warehouse.connect("etl_read") as conn:
        return "\n".join(Lineage(conn).tree(*arguments).lines())


def test_a_partition_leads_back_to_its_source_and_forward_to_what_stands_on_it(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    text = tree(warehouse, "dwh.fact_flight", "201302")
    assert "run r1 of flights, [2013-01-01 00:00:00, 2013-03-01 00:00:00), release release1" in text
    assert "fact_flight_201302 version 1: 56 rows" in text and "201301" not in text
    assert (
        "s3://curated/fact_flight/dt=2013-01-01/run_id=r1/attempt=3  62 rows, by flights.enrich_data.fact_flight"
        in text
    )
    assert "_manifest.json version version-of-flights_files, flow version f10w" in text
    assert "part-00000.avro version object-of-flights_files, 31 rows, 100 bytes" in text
    assert "118 rows = 118 published + 0 quarantined + 0 superseded (the test)" in text
    assert "planes_db planes" in text and "airlines" not in text, "a flight is joined with planes and airports alone"
    ahead = text.partition("what stands on it")[2]
    assert " dwh.agg_delay_day  by " in ahead.partition("\n\n")[0]


def test_every_run_of_a_partition_is_told(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    go(warehouse, warehouse.run("r2", "2013-01-10", "2013-01-12"), flights(date(2013, 1, 10), date(2013, 1, 12)))
    text = tree(warehouse, "fact_flight", "fact_flight_201301")
    assert "fact_flight_201301 version 2: 58 rows" in text and "fact_flight_201301 version 2: 4 rows" in text
    assert "run r1 of flights" in text and "run r2 of flights" in text
    assert "nothing stands on it" in tree(warehouse, "agg_delay_day")


def test_a_repeated_task_makes_the_same_events(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    manifest = sealed(run, warehouse.declaration.sources["flights_files"])
    ledger.start_run(warehouse.conn, run)
    assert events.store(warehouse.conn, [events.extracted(run, manifest, {})]) == 1
    assert events.store(warehouse.conn, [events.extracted(run, manifest, {})]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dwh.fact_fligt",), "there is no table dwh.fact_fligt; there are .*fact_flight"),
        (("fact_flight", "1999"), "no published partition"),
    ],
)
def test_what_is_not_there_is_named(warehouse, arguments, message):
    with pytest.raises(LookupError, match=message):
        tree(warehouse, *arguments)


def airflow_event(number=1, dag_run="manual__2013-01-01T00:00:00+00:00"):
    return {
        "eventTime": f"2026-01-01T00:00:0{number}Z",
        "eventType": "COMPLETE",
        "producer": "https://github.com/apache/airflow",
        "job": {"namespace": "airflow", "name": "etl_pipeline.start"},
        "run": {
            "runId": "0190b0a0-0000-7000-8000-000000000001",
            "facets": {"airflow": {"dagRun": {"dag_id": "etl_pipeline", "run_id": dag_run}}},
        },
    }


def test_the_spool_is_emptied_into_the_ledger_and_nothing_is_lost(warehouse, tmp_path):
    for number in range(3):
        (tmp_path / f"event-{number}.json").write_text(json.dumps(airflow_event(number)))
    (tmp_path / "event-young.json").write_text('{"eventTime"')
    (tmp_path / "event-old.json").write_text('{"eventTime"')
    os.utime(tmp_path / "event-old.json", (0, 0))
    assert spool.load(warehouse.conn, tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["event-old.broken", "event-young.json"]
    assert warehouse.rows("select distinct run_id, job_name from etl.lineage_event") == [
        ("etl_pipeline.manual__2013-01-01T00_00_00_00_00", "etl_pipeline.start")
    ]
    (tmp_path / "event-again.json").write_text(json.dumps(airflow_event(1)))
    assert spool.load(warehouse.conn, tmp_path) == 0, "the same event twice is one"


def test_without_the_warehouse_the_spool_stays(warehouse, tmp_path):
    (tmp_path / "event-1.json").write_text(json.dumps(airflow_event()))
    warehouse.conn.close()
    with pytest.raises(Exception, match="closed"):
        spool.load(warehouse.conn, tmp_path)
    assert (tmp_path / "event-1.json").exists()


def test_released_rows_lead_back_to_the_quarantine_and_the_run_that_filled_it(warehouse):
    first, replay = (warehouse.run(run_id, "2013-01-01", "2013-02-01") for run_id in ("r1", "replay1"))
    ledger.start_run(warehouse.conn, first)
    one = sealed(first, warehouse.declaration.sources["airlines"])
    (record, *_) = records(warehouse.declaration, first, {"airlines": one})
    place = "s3a://quarantine/flights/airlines/dt=2013-01-01/run_id=r1/attempt=1"
    record["datasets"]["clean_airlines"] |= {"quarantine": place, "rejected": {"name_missing": 2}}
    made = [events.extracted(first, one, {}), *events.staged(first, warehouse.declaration, record, {})]
    made.append(
        events.taken_up(
            replay,
            "s3a://quarantine/_replay/replay1/replay.json",
            {"sources": {"airlines": {"entries": [{"prefix": place}]}, "planes": {"sealed": [one.url]}}},
        )
    )
    events.store(warehouse.conn, made)
    with warehouse.connect("etl_read") as conn:
        taken = {"namespace": "s3://quarantine", "name": "_replay/replay1"}
        text = "\n".join(Lineage(conn).back(taken, "replay1").lines())
    assert "by flights.replay" in text
    assert "run_id=r1/attempt=1  2 rows, by flights.clean_data.clean_airlines of run r1" in text
    assert "flow version f10w" in text
