"""Retention on a real warehouse and a real object store: old things go, needed ones never."""

import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from test_load_publish import go, load
from warehouse_kit import SCHEMAS, flights

from jobs import compaction, retention
from jobs.declaration import Retention
from jobs.load import journal, ledger, publish, staging
from tests import stores

JAN, FEB, MAR = (date(2013, month, 1) for month in (1, 2, 3))
LATER = datetime.now(UTC) + timedelta(days=400)


@pytest.fixture(scope="session")
def minio():
    with stores.minio() as url:
        yield stores.client(url, s3={"addressing_style": "path"})


@pytest.fixture
def lake(minio, request):
    """Three empty, versioned buckets: put(bucket, key), keys(bucket), and what a Retention needs of them."""
    names = {bucket: f"{bucket}-{abs(hash(request.node.name)) % 10**9}" for bucket in retention.BUCKETS}
    for name in names.values():
        minio.create_bucket(Bucket=name)
        minio.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def put(bucket, *keys):
        for key in keys:
            minio.put_object(Bucket=names[bucket], Key=key, Body=b"12345")

    def keys(bucket):
        return {entry["Key"] for entry in minio.list_objects_v2(Bucket=names[bucket]).get("Contents", ())}

    return SimpleNamespace(s3=minio, buckets=names, put=put, keys=keys)


def objects(run_id, attempt=1):
    """An object of a run in each bucket, as the run leaves them."""
    place = f"dt=2013-01-01/run_id={run_id}/attempt={attempt}"
    return {
        "raw": f"flights_db/flights/{place}/part-00000.avro",
        "curated": f"fact_flight/{place}/part-0.parquet",
        "quarantine": f"flights/flights/{place}/part-0.json",
    }


def plant(lake, run_id, attempt=1):
    for bucket, key in objects(run_id, attempt).items():
        lake.put(bucket, key)


def look(warehouse, lake, now=LATER, declared=None):
    return retention.Retention(warehouse.conn, lake.s3, lake.buckets, [declared or warehouse.declaration], now)


def fail(warehouse, run_id):
    run = warehouse.run(run_id, "2013-01-01", "2013-02-01")
    ledger.start_run(warehouse.conn, run)
    ledger.finish_run(warehouse.conn, run, "failed", "for the test")
    return run


def test_what_is_published_or_kept_stays_however_old(warehouse, lake):
    """Three runs over one month: the first is beyond the history of one version, the others are needed."""
    facts = flights(JAN, FEB)
    for run_id in ("r1", "r2", "r3"):
        go(warehouse, warehouse.run(run_id, "2013-01-01", "2013-02-01"), facts)
        plant(lake, run_id, 3)
    assert not [item for item in look(warehouse, lake).plan() if "r1" in item.what], "r1 can still be put back"
    with warehouse.connect("etl_owner") as conn:
        conn.execute("select etl.prune_history('fact_flight', 1)")
        conn.execute("delete from dwh_history.row_version")
        for name in ("dim_airline", "dim_airport", "dim_plane"):
            conn.execute(f"update dwh.{name} set run_id = 'r3'")
    plan = look(warehouse, lake).plan()
    assert {(item.kind, item.what.partition("run_id=")[2]) for item in plan} == {
        (f"{bucket} objects", "r1/attempt=3/") for bucket in ("curated", "quarantine", "raw")
    }


def test_one_row_of_a_run_among_the_published_ones_keeps_it(warehouse, lake):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    go(warehouse, warehouse.run("r2", "2013-01-02", "2013-02-01"), flights(date(2013, 1, 2), FEB))
    with warehouse.connect("etl_owner") as conn:
        conn.execute("select etl.prune_history('fact_flight', 0)")
        conn.execute("delete from dwh_history.row_version")
    plant(lake, "r1", 3)
    assert look(warehouse, lake).plan() == []


def test_a_dry_run_changes_nothing_and_the_real_one_leaves_a_way_back(warehouse, lake):
    fail(warehouse, "old")
    plant(lake, "old")
    before = {bucket: lake.keys(bucket) for bucket in retention.BUCKETS}
    looked = look(warehouse, lake)
    plan = looked.plan()
    objects_of = [item for item in plan if item.objects]
    assert [(item.objects, item.bytes) for item in objects_of] == [(1, 5)] * 3
    assert {bucket: lake.keys(bucket) for bucket in retention.BUCKETS} == before
    looked.apply(objects_of)
    assert not any(lake.keys(bucket) for bucket in retention.BUCKETS)
    for name in lake.buckets.values():
        assert len(lake.s3.list_object_versions(Bucket=name)["Versions"]) == 1, "behind its delete marker"
    assert warehouse.rows("select kind, object_count, byte_count from etl.retention order by 1") == [
        (f"{bucket} objects", 1, 5) for bucket in ("curated", "quarantine", "raw")
    ]
    assert not [item for item in look(warehouse, lake).plan() if item.objects]


def test_every_kind_has_days_of_its_own(warehouse, lake):
    fail(warehouse, "old")
    plant(lake, "old")
    for days, kinds in ((20, set()), (40, {"curated"}), (370, {"curated", "raw", "quarantine"})):
        plan = look(warehouse, lake, datetime.now(UTC) + timedelta(days=days)).plan()
        assert {item.kind.partition(" ")[0] for item in plan if item.objects} == kinds


def test_running_and_unknown_runs_are_left_alone(warehouse, lake):
    ledger.start_run(warehouse.conn, warehouse.run("busy", "2013-01-01", "2013-02-01"))
    plant(lake, "busy")
    plant(lake, "who")
    lake.put("curated", "_publications/1.json")
    looked = look(warehouse, lake)
    assert looked.plan() == []
    assert looked.unknown == {f"{bucket}: who" for bucket in retention.BUCKETS}


def test_attempts_that_were_not_taken_go_from_a_needed_run(warehouse, lake):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    go(warehouse, run, flights(JAN, FEB))
    for attempt in (1, 2, 3):
        lake.put("curated", objects("r1", attempt)["curated"])
    plan = look(warehouse, lake, datetime.now(UTC) + timedelta(days=8)).plan()
    assert sorted(item.what[-11:] for item in plan) == ["/attempt=1/", "/attempt=2/"], "the third is in the ledger"


def test_what_a_published_replay_was_merged_with_stays(warehouse, lake):
    """It is no attempt: after a restore the replay is published again with it."""
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_stage set attempt = 3 where dataset like 'clean%'")
    kept = {
        "_replay/r1/replay.json",
        "_replay/r1/base/attempt=1/fact_flight/part-00000.parquet",
        objects("r1", 3)["quarantine"],
    }
    lake.put("quarantine", *kept, objects("r1", 2)["quarantine"])
    looked = look(warehouse, lake)
    looked.apply(looked.plan())
    assert lake.keys("quarantine") == kept


def test_tables_of_runs_that_never_published(warehouse, lake):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    looked = look(warehouse, lake)
    assert looked.plan() == [], "it is running"
    ledger.finish_run(warehouse.conn, run, "failed", "for the test")
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=8))
    plan = looked.plan()
    assert {item.kind for item in plan} == {"staging table"} and len(plan) == 5
    assert sum(item.rows for item in plan) == 62 + 31 + 4
    looked.apply(plan)
    assert warehouse.rows("select tablename from pg_tables where schemaname = 'staging'") == []
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)


def test_partitions_that_were_built_and_never_published(warehouse, lake):
    fail(warehouse, "r1")
    warehouse.conn.execute(
        "select etl.build_partition('fact_flight', 'fact_flight_201301', '2013-01-01', '2013-02-01', 'r1', 1)"
    )
    warehouse.conn.commit()
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=8))
    plan = looked.plan()
    assert [item.kind for item in plan] == ["unpublished partition"]
    looked.apply(plan)
    assert warehouse.rows("select count(*) from etl.partition_version") == [(0,)]


def test_history_beyond_what_is_declared_and_undo_within_it(warehouse, lake):
    for run_id in ("r1", "r2", "r3"):
        go(warehouse, warehouse.run(run_id, "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    assert look(warehouse, lake).plan() == []
    fact = replace(warehouse.declaration.publish["fact_flight"], history=1)
    declared = replace(warehouse.declaration, publish={**warehouse.declaration.publish, "fact_flight": fact})
    looked = look(warehouse, lake, declared=declared)
    plan = looked.plan()
    assert [(item.kind, item.rows) for item in plan] == [("history versions", 62)]
    looked.apply(plan)
    assert look(warehouse, lake, declared=declared).plan() == []
    publish.undo(warehouse.conn, "r3")
    assert warehouse.rows("select distinct run_id from dwh.fact_flight") == [("r2",)]


def test_the_ledger_forgets_runs_that_published_nothing(warehouse, lake):
    fail(warehouse, "old")
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=800))
    looked.apply(looked.plan())
    assert warehouse.rows("select run_id from etl.run") == [("r1",)]


def test_lineage_events_go_with_the_runs_that_nothing_needs(warehouse, lake):
    fail(warehouse, "old")
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    with warehouse.connect("etl_owner") as conn:
        for run_id in ("old", "r1", "another_dag", None):
            conn.execute(
                "insert into etl.lineage_event values (%s, now(), 'COMPLETE', 'airflow', 'x', gen_random_uuid(), %s, '{}')",
                (str(run_id), run_id),
            )
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=800))
    looked.apply(looked.plan())
    assert warehouse.rows("select run_id from etl.lineage_event") == [("r1",)]


def test_what_a_retired_pipeline_left_goes_by_the_defaults(warehouse, lake):
    run = replace(warehouse.run("old", "2013-01-01", "2013-02-01"), pipeline="meters")
    ledger.start_run(warehouse.conn, run)
    ledger.finish_run(warehouse.conn, run, "failed", "for the test")
    plant(lake, "old")
    assert look(warehouse, lake).plan() == [], "of other pipelines alone"
    retired = retention.declared_or_retired("meters")
    assert (retired.retention, retired.publish) == (Retention(), {})
    assert {item.kind for item in look(warehouse, lake, declared=retired).plan() if item.objects} == {
        f"{bucket} objects" for bucket in retention.BUCKETS
    }
    assert retention.declared_or_retired("flights") == warehouse.declaration


def spread(lake, run, rows, files):
    """A published run's facts as so many files in the bucket, named by the ledger; returns their prefix."""
    prefix = f"fact_flight/dt=2013-01-01/run_id={run.run_id}/attempt=3"
    for number in range(files):
        out = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows[number::files], schema=SCHEMAS["fact_flight"]), out)
        lake.s3.put_object(Bucket=lake.buckets["curated"], Key=f"{prefix}/part-{number}.parquet", Body=out.getvalue())
    lake.put("curated", f"{prefix}/_SUCCESS")
    return prefix


def test_small_files_are_rewritten_and_hold_the_same_rows(warehouse, lake):
    run, rows = warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB)
    go(warehouse, run, rows)
    prefix = spread(lake, run, rows, 33)
    assert not look(warehouse, lake, datetime.now(UTC) + timedelta(days=6)).plan(), "it is young"
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=8))
    plan = looked.plan()
    assert [(item.kind, item.objects, item.what.endswith(f"/{prefix}/")) for item in plan] == [
        ("files in curated", 33, True)
    ]
    looked.apply(plan)
    (place,) = {row[0] for row in warehouse.rows("select prefix from etl.run_stage where dataset = 'fact_flight'")}
    assert place == f"s3a://curated/{prefix[:-1]}4"
    new = {key for key in lake.keys("curated") if key.startswith(f"{prefix[:-1]}4/")}
    assert new == {f"{prefix[:-1]}4/part-00000.parquet", f"{prefix[:-1]}4/_SUCCESS"}
    body = lake.s3.get_object(Bucket=lake.buckets["curated"], Key=f"{prefix[:-1]}4/part-00000.parquet")["Body"].read()
    found = parquet.read_table(io.BytesIO(body))
    assert found.schema.equals(SCHEMAS["fact_flight"])
    expected = pa.Table.from_pylist(rows, schema=SCHEMAS["fact_flight"])
    assert found.sort_by("flight_id").equals(expected.sort_by("flight_id"))
    (event,) = journal.read(lake.s3, lake.buckets["curated"])
    prefixes = {row["prefix"] for row in event["ledger"]["tables"]["run_stage"] if row["dataset"] == "fact_flight"}
    assert prefixes == {place}, "a restore would read from there"
    looked = look(warehouse, lake, datetime.now(UTC) + timedelta(days=8))
    assert [(i.kind, i.objects, i.what[-11:]) for i in looked.plan()] == [("curated objects", 34, "/attempt=3/")], (
        "former files go"
    )


def test_a_compaction_that_was_killed_is_done_again(warehouse, lake, monkeypatch):
    run, rows = warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB)
    go(warehouse, run, rows)
    prefix = spread(lake, run, rows, 33)

    def killed(*_args, **_named):
        raise KeyboardInterrupt

    later = datetime.now(UTC) + timedelta(days=8)
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_rows", killed)  # written, and neither checked nor sealed
        with pytest.raises(KeyboardInterrupt):
            looked = look(warehouse, lake, later)
            looked.apply(looked.plan())
    looked = look(warehouse, lake, later)
    plan = looked.plan()
    assert {(item.kind, item.what[-11:]) for item in plan} == {
        ("files in curated", "/attempt=3/"),
        ("curated objects", "/attempt=4/"),
    }
    looked.apply(plan)
    (place,) = {row[0] for row in warehouse.rows("select prefix from etl.run_stage where dataset = 'fact_flight'")}
    assert place == f"s3a://curated/{prefix[:-1]}5"
