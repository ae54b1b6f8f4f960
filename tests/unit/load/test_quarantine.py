"""Quarantined rows released again: what is open, the merge with what is published, twice, undone, overtaken."""

import io
import json
from datetime import date

import pyarrow.parquet as parquet
import pytest
from test_load_publish import content, go
from warehouse_kit import SCHEMAS, delays, flight, flights

from jobs import quarantine
from jobs.load import audit, journal, ledger, publish, staging
from jobs.rollback import republish

JAN, FEB, MAR = (date(2013, month, 1) for month in (1, 2, 3))
SPARK = {
    "int64": "bigint",
    "int32": "int",
    "string": "string",
    "bool": "boolean",
    "date32[day]": "date",
    "double": "double",
}
COLUMNS = {
    name: {field.name: SPARK.get(str(field.type), "timestamp") for field in schema} for name, schema in SCHEMAS.items()
}
LATE = [flight(1, date(2013, 1, 9), delay=70), flight(2, date(2013, 1, 20), delay=80)]
BALANCE = """
    select extracted, published, quarantined, superseded, released, balanced from etl.v_balance
    where run_id = '{}' and dataset = 'flights_files'
"""


@pytest.fixture
def rejected(warehouse):
    """Run r1 over January and February, with two rows of January in quarantine for want of a carrier and one for another rule."""
    run = warehouse.run("r1", "2013-01-01", "2013-03-01")
    go(warehouse, run, flights(JAN, MAR))
    reject = {"carrier_missing": 2, "distance_invalid": 1}
    stage = {"rows_in": 121, "rows_out": 118, "rejected": reject}
    ledger.record_stage(
        warehouse.conn,
        run,
        {"stage": "clean_data", "datasets": {"clean_flights_files": stage}, "seconds": 1, "attempt": 2},
    )
    place = "flights/flights_files/dt=2013-01-01/run_id=r1/attempt=2"
    lines = [{"rule": rule} for rule, rows in reject.items() for _ in range(rows)]
    warehouse.lake.put_object("quarantine", f"{place}/part-0.json", "\n".join(map(json.dumps, lines)).encode())
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_source set source_rows = 121, row_count = 121 where dataset = 'flights_files'")
        conn.execute(
            "update etl.run_source set manifest = manifest || jsonb_build_object('bucket', 'raw', 'key', dataset || '/_manifest.json')"
        )
        conn.execute("delete from etl.run_stage where stage = 'clean' and dataset = 'clean_flights_files'")
        conn.execute("delete from etl.run_reject where stage = 'clean'")
    return warehouse


def take_up(warehouse, run_id="replay1", rule="carrier_missing"):
    run = warehouse.run(run_id, "2013-01-01", "2013-03-01")
    ledger.start_run(warehouse.conn, run)
    entries = quarantine.open_entries(warehouse.conn, "flights", rule=rule)
    url = quarantine.take_up(warehouse.conn, warehouse.lake, "quarantine", warehouse.declaration, run, entries)
    return run, json.loads(warehouse.lake.objects["quarantine", url.removeprefix("s3a://quarantine/")])


def stage(warehouse, run, facts, again=0):
    """What the Spark stages do of a replay, up to staged and merged rows; `again` of them are rejected once more."""
    prefixes, tables = {}, {name: [] for name in SCHEMAS} | {"fact_flight": facts}
    for name, rows in tables.items():
        prefixes[name] = f"{name}/dt=2013-01-01/run_id={run.run_id}/attempt=1"
        if name != "agg_delay_day":
            warehouse.lake.put(prefixes[name], rows, SCHEMAS[name], files=1)
    written = {
        name: {
            "rows_in": 0,
            "rows_out": len(tables[name]),
            "prefix": f"s3a://curated/{prefixes[name]}",
            "columns": COLUMNS[name],
        }
        for name in SCHEMAS
    }
    url = quarantine.snapshot(warehouse.conn, warehouse.lake, "quarantine", warehouse.declaration, run, written)
    base = f"{url.removeprefix('s3a://quarantine/')}/fact_flight/"
    published = [
        row
        for (_, key), body in sorted(warehouse.lake.objects.items())
        if key.startswith(base)
        for row in parquet.read_table(io.BytesIO(body)).to_pylist()
    ]
    keys = {row["flight_id"] for row in published}
    aggregates = delays(published + [fact for fact in facts if fact["flight_id"] not in keys])
    warehouse.lake.put(prefixes["agg_delay_day"], aggregates, SCHEMAS["agg_delay_day"], files=1)
    written["agg_delay_day"]["rows_out"] = len(aggregates)
    clean = {
        "rows_in": len(facts) + again,
        "rows_out": len(facts),
        "rejected": {"carrier_missing": again} if again else {},
    }
    for name, datasets in (("clean_data", {"clean_flights_files": clean}), ("enrich_data", written)):
        ledger.record_stage(warehouse.conn, run, {"stage": name, "datasets": datasets, "seconds": 1, "attempt": 1})
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    quarantine.merge(warehouse.conn, warehouse.declaration, run)
    return published


def finish(warehouse, run):
    audit.check(warehouse.conn, warehouse.declaration, run)
    versions = publish.publish(warehouse.conn, warehouse.declaration, run)
    assert journal.enter(warehouse.conn, warehouse.lake, "curated", run.run_id)
    ledger.finish_run(warehouse.conn, run, "published")
    return versions


def again(warehouse, **options):
    """What follows a restore."""
    return republish.republish(warehouse.conn, warehouse.lake, "curated", **options)


def test_what_a_replay_reads(rejected):
    _, document = take_up(rejected)
    assert document["sources"]["flights_files"] == {
        "rows": 2,
        "entries": [
            {
                "prefix": "s3a://quarantine/flights/flights_files/dt=2013-01-01/run_id=r1/attempt=2",
                "rules": ["carrier_missing"],
                "like": "s3a://raw/flights_files/_manifest.json",
            }
        ],
    }
    assert document["sources"]["planes"] == {"sealed": ["s3a://raw/planes/_manifest.json"]}


def test_released_rows_are_merged_and_the_rest_stays_as_it_was(rejected):
    before = content(rejected)
    run, _ = take_up(rejected)
    published = stage(rejected, run, LATE)
    assert {row["flight_date"] for row in published} == {date(2013, 1, day) for day in range(9, 21)}
    assert [version["partition"] for version in finish(rejected, run)] == ["fact_flight_201301"], "and no other month"
    after = content(rejected)
    mine = [row for row in after["fact_flight"] if row[0]["run_id"] == "replay1"]
    assert sorted(row[0]["flight_id"] for row in mine) == [1, 2]
    assert [row for row in after["fact_flight"] if row not in mine] == before["fact_flight"]
    expected = {(str(row["flight_date"]), row["flights"]) for row in delays(flights(JAN, MAR) + LATE)}
    assert {(row[0]["flight_date"], row[0]["flights"]) for row in after["agg_delay_day"]} == expected
    assert rejected.rows(BALANCE.format("replay1")) == [(2, 2, 0, 0, 0, True)]
    assert rejected.rows(BALANCE.format("r1")) == [(121, 118, 3, 0, 2, True)]
    assert rejected.rows("select rule, released_by from etl.v_quarantine order by 1") == [
        ("carrier_missing", "replay1"),
        ("distance_invalid", None),
    ]
    assert not rejected.rows("select tablename from pg_tables where schemaname = 'staging'")


def test_a_second_replay_finds_nothing(rejected):
    run, _ = take_up(rejected)
    stage(rejected, run, LATE)
    finish(rejected, run)
    before = content(rejected)
    with pytest.raises(quarantine.ReplayError, match="nothing to replay"):
        take_up(rejected, "replay2")
    assert content(rejected) == before


def test_what_is_rejected_again_is_quarantined_again_and_can_be_taken_up_again(rejected):
    run, _ = take_up(rejected)
    stage(rejected, run, LATE[:1], again=1)
    finish(rejected, run)
    assert rejected.rows(BALANCE.format("replay1")) == [(2, 1, 1, 0, 0, True)]
    (entry,) = quarantine.open_entries(rejected.conn, "flights", rule="carrier_missing")
    assert (entry.run_id, entry.rows) == ("replay1", 1)
    rejected.lake.put_object("quarantine", f"{entry.prefix}/part-0.json", b'{"rule": "carrier_missing"}\n')
    second, document = take_up(rejected, "replay2")
    assert document["sources"]["airports"] == {"sealed": ["s3a://raw/airports/_manifest.json"]}, (
        "those of the first run"
    )
    stage(rejected, second, LATE[1:])
    finish(rejected, second)
    assert rejected.rows("select count(*) from dwh.fact_flight where flight_id in (1, 2)") == [(2,)]
    assert rejected.rows(BALANCE.format("replay2")) == [(1, 1, 0, 0, 0, True)]


def test_a_published_row_is_newer_than_a_quarantined_one_of_its_key(rejected):
    taken = flights(JAN, FEB)[20]
    before = rejected.rows("select count(*), sum(dep_delay_minutes) from dwh.fact_flight")
    run, _ = take_up(rejected)
    stage(rejected, run, [taken | {"dep_delay_minutes": 999}, LATE[0]])
    finish(rejected, run)
    assert rejected.rows(BALANCE.format("replay1")) == [(2, 1, 0, 1, 0, True)]
    ((rows, delay),) = before
    assert rejected.rows("select count(*), sum(dep_delay_minutes) from dwh.fact_flight") == [(rows + 1, delay + 70)]


def test_undone_it_is_as_if_it_had_never_been(rejected):
    before = content(rejected)
    run, _ = take_up(rejected)
    stage(rejected, run, LATE)
    finish(rejected, run)
    publish.undo(rejected.conn, "replay1")
    assert content(rejected) == before
    assert [entry.rows for entry in quarantine.open_entries(rejected.conn, "flights")] == [2, 1]


def test_what_an_undone_run_rejected_is_not_released(rejected):
    """Nor that of one that failed: its days are read again by another run, which rejects what is still to be rejected."""
    publish.undo(rejected.conn, "r1")
    assert quarantine.open_entries(rejected.conn, "flights") == []


def test_what_retention_removed_does_not_stand_in_the_way_of_the_rest(rejected):
    (entry, *_) = quarantine.open_entries(rejected.conn, "flights")
    rejected.conn.execute(
        "insert into etl.retention (kind, pipeline, what) values ('quarantine objects', 'flights', %s)",
        (f"s3://quarantine/{entry.prefix}/",),
    )
    rejected.conn.commit()
    assert quarantine.open_entries(rejected.conn, "flights") == []
    run = rejected.run("replay1", "2013-01-01", "2013-03-01")
    with pytest.raises(quarantine.ReplayError, match="nothing to replay"):
        quarantine.take_up(rejected.conn, rejected.lake, "quarantine", rejected.declaration, run, [])


def test_a_row_lost_on_the_way_stops_it(rejected):
    """The audit of a replay can fail: two rows are in quarantine, one is staged and none was rejected."""
    run, _ = take_up(rejected)
    stage(rejected, run, LATE[:1])
    with pytest.raises(audit.AuditFailed, match="balance of flights_files: expected 2 rows .*found 1 published"):
        audit.check(rejected.conn, rejected.declaration, run)


def test_quarantine_that_lost_an_object_is_not_replayed(rejected):
    del rejected.lake.objects["quarantine", "flights/flights_files/dt=2013-01-01/run_id=r1/attempt=2/part-0.json"]
    with pytest.raises(quarantine.ReplayError, match="holds 0 rows of these rules, the ledger says 2"):
        take_up(rejected)


def test_days_published_meanwhile_are_not_overwritten(rejected):
    run, _ = take_up(rejected)
    stage(rejected, run, LATE)
    audit.check(rejected.conn, rejected.declaration, run)
    day = date(2013, 1, 10), date(2013, 1, 11)
    go(rejected, rejected.run("r2", *map(str, day)), flights(*day, delay=60))
    before = content(rejected)
    with pytest.raises(quarantine.ReplayError, match="another run has published days of dwh.fact_flight"):
        publish.publish(rejected.conn, rejected.declaration, run)
    assert content(rejected) == before


def test_a_day_first_published_meanwhile_is_not_lost(rejected):
    """One between those of the released rows, of which nothing was published when the replay looked."""
    day = date(2013, 1, 15), date(2013, 1, 16)
    go(rejected, rejected.run("r2", *map(str, day)), [])
    run, _ = take_up(rejected)
    assert day[0] not in {row["flight_date"] for row in stage(rejected, run, LATE)}
    audit.check(rejected.conn, rejected.declaration, run)
    go(rejected, rejected.run("r3", *map(str, day)), flights(*day))
    before = content(rejected)
    with pytest.raises(quarantine.ReplayError, match="another run has published days of dwh.fact_flight"):
        publish.publish(rejected.conn, rejected.declaration, run)
    assert content(rejected) == before


def test_after_a_restore_a_replay_is_published_again_in_its_turn(rejected, moments):
    moment = moments()
    run, _ = take_up(rejected)
    stage(rejected, run, [*LATE, flights(JAN, FEB)[20] | {"dep_delay_minutes": 999}])
    rejected.conn.execute("update etl.run_source set source_rows = 3, row_count = 3 where run_id = 'replay1'")
    rejected.conn.commit()
    finish(rejected, run)
    day = date(2013, 1, 10), date(2013, 1, 11)
    go(rejected, rejected.run("r2", *map(str, day)), flights(*day, delay=60))
    journal.sync(rejected.conn, rejected.lake, "curated")
    before, balance = content(rejected), rejected.rows(BALANCE.format("replay1"))

    back = moment.restored()
    assert content(back) != before
    assert [done["run_id"] for done in again(back)["publish"]] == ["replay1", "r2"]
    assert content(back) == before
    assert (back.rows(BALANCE.format("replay1")), back.rows(BALANCE.format("r1"))) == (
        balance,
        [(121, 118, 3, 0, 2, True)],
    )
    assert quarantine.open_entries(back.conn, "flights", rule="carrier_missing") == []
    assert not back.rows("select tablename from pg_tables where schemaname = 'staging'")
    assert again(back) == {"publish": [], "leave_out": [], "undo": []}
    publish.undo(back.conn, "r2")
    publish.undo(back.conn, "replay1")
    assert len(quarantine.open_entries(back.conn, "flights", rule="carrier_missing")) == 1


def test_a_replay_is_not_merged_with_other_rows_than_before(rejected, moments):
    """The aggregates that it has are of its own rows and those that were published then."""
    moment = moments()
    day = date(2013, 1, 10), date(2013, 1, 11)
    go(rejected, rejected.run("bad", *map(str, day)), flights(*day, delay=60))
    run, _ = take_up(rejected)
    stage(rejected, run, LATE)
    finish(rejected, run)
    journal.sync(rejected.conn, rejected.lake, "curated")
    back = moment.restored()
    before = content(back)
    message = r"run replay1: it released quarantined rows, and what it was merged with in dwh.fact_flight is not published as it was: .*"
    with pytest.raises(republish.RepublishFailed, match=f"{message}replay_quarantine.yml"):
        again(back, leave_out=["bad"])
    assert content(back) == before
    assert [entry.rows for entry in quarantine.open_entries(back.conn, "flights", rule="carrier_missing")] == [2]
    again(back, leave_out=["replay1"])
    assert content(back) == before


@pytest.mark.parametrize(
    ("gone", "why"), [("_replay/", "merged with in dwh.fact_flight is no longer kept"), (None, "r1 did not come back")]
)
def test_a_replay_whose_origin_is_gone_is_not_published_as_a_run_of_its_own(rejected, moments, gone, why):
    """Its rows alone would take the place of the days that they were merged with."""
    moment = moments()
    run, _ = take_up(rejected)
    stage(rejected, run, LATE)
    finish(rejected, run)
    back = moment.restored()
    before = content(back)
    if gone:
        for place in [place for place in back.lake.objects if place[1].startswith(gone)]:
            del back.lake.objects[place]
    else:
        (key,) = [key for key in back.lake.objects if key[1].startswith("_publications/replay1/")]
        back.lake.objects[key] = back.lake.objects[key].replace(b'"run_id": "r1"', b'"run_id": "r0"')
    with pytest.raises(republish.RepublishFailed, match=why.replace("r1", "r0")):
        again(back)
    assert content(back) == before
