"""The Spark stages: rules on planted dirt, no row lost, times, unknown members, repeated submissions."""

import base64
import json
import sys
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from pyspark.sql import SparkSession

from jobs.declaration import load
from jobs.transform.spark import aggregate_data, clean_data, enrich_data, originals
from jobs.transform.spark.session import SETTINGS, Run, Stage, StageError, arguments

FLIGHTS = load("flights")
FLIGHT_COLUMNS = (
    "id bigint, carrier string, flight int, tailnum string, origin string, dest string, sched_dep timestamp, "
    "dep_time int, dep_delay int, arr_delay int, air_time int, distance int, updated_at timestamp"
)
PLANE_COLUMNS = (
    "tailnum string, year int, type string, manufacturer string, model string, engines int, seats int, speed int, "
    "engine string"
)
GOOD = {
    "id": 1,
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "sched_dep": datetime(2013, 1, 1, 5, 15),
    "dep_time": 517,
    "dep_delay": 2,
    "arr_delay": 11,
    "air_time": 227,
    "distance": 1400,
    "updated_at": datetime(2013, 1, 2),
}
AIRPORTS = [
    {
        "faa": "EWR",
        "name": "Newark",
        "lat": 40.69,
        "lon": -74.17,
        "alt": 18,
        "tz": -5,
        "dst": "A",
        "tzone": "America/New_York",
    },
    {
        "faa": "IAH",
        "name": "Houston",
        "lat": 29.98,
        "lon": -95.34,
        "alt": 97,
        "tz": -6,
        "dst": "A",
        "tzone": "America/Chicago",
    },
]


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    work = tmp_path_factory.mktemp("spark")
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
        .config("spark.sql.shuffle.partitions", "1")
        .config(map=SETTINGS)
        .config("spark.sql.warehouse.dir", str(work))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def lake(spark, tmp_path):
    """A directory that plays the object store."""
    spark.conf.set("spark.etl.curated", f"file://{tmp_path}/curated")
    spark.conf.set("spark.etl.quarantine", f"file://{tmp_path}/quarantine")
    return tmp_path


def flights(spark, *changes):
    """Raw flights: GOOD with each of the changes, ids counting up unless given."""
    names = [column.split()[0] for column in FLIGHT_COLUMNS.split(", ")]
    rows = [{**GOOD, "id": number, **change} for number, change in enumerate(changes, 1)]
    frame = spark.createDataFrame([tuple(row[name] for name in names) for row in rows], FLIGHT_COLUMNS)
    place = ("'part-00000.avro' as _file", "0L as _block", "monotonically_increasing_id() + 1 as _record")
    return frame.selectExpr("*", *place)


def by_rule(rejected):
    found = {}
    for row in rejected.collect():
        found.setdefault(row["rule"], []).append(json.loads(row["source_row"])["id"])
    return {rule: sorted(ids) for rule, ids in found.items()}


DIRT = {
    "carrier_missing": {"carrier": None},
    "airport_missing": {"dest": None},
    "schedule_missing": {"sched_dep": None},
    "distance_invalid": {"distance": 0},
    "delay_without_departure": {"dep_time": None, "arr_delay": 5},
}


def test_every_rule_of_flights_is_tried():
    assert set(DIRT) == {rule.name for rule in FLIGHTS.sources["flights"].rules}


def test_each_rule_rejects_its_row_and_no_other(spark):
    rows = flights(spark, {}, *DIRT.values(), {"dep_time": None, "arr_delay": None})
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights"], "updated_at")
    assert by_rule(rejected) == {rule: [number] for number, rule in enumerate(DIRT, 2)}
    assert sorted(row["id"] for row in accepted.collect()) == [1, len(DIRT) + 2]
    assert accepted.columns == [name for name in rows.columns if name not in clean_data.ORIGIN]


def test_a_rejected_row_keeps_its_original_its_file_and_a_reason(spark):
    _, rejected = clean_data.clean(flights(spark, {"distance": -1}), FLIGHTS.sources["flights"], "updated_at")
    (row,) = rejected.collect()
    original = json.loads(row["source_row"])
    assert original["distance"] == -1
    assert original["tailnum"] == "N14228"
    assert set(GOOD) <= set(original)
    assert (row["source_file"], row["source_block"], row["source_record"]) == ("part-00000.avro", 0, 1)
    assert row["reason"] == "A distance is a positive number of miles"


def test_of_rows_with_the_same_key_the_newest_good_one_stays(spark):
    rows = flights(
        spark,
        {"id": 7, "arr_delay": 1},
        {"id": 7, "arr_delay": 2, "updated_at": datetime(2013, 1, 5)},
        {"id": 7, "arr_delay": 3, "updated_at": datetime(2013, 1, 9), "distance": 0},
        {"id": 7, "arr_delay": 4, "updated_at": None},
    )
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights"], "updated_at")
    assert [row["arr_delay"] for row in accepted.collect()] == [2]
    assert by_rule(rejected) == {"superseded": [7, 7], "distance_invalid": [7]}


def test_rows_without_a_key_are_not_taken_for_duplicates(spark):
    planes = spark.createDataFrame(
        [(None, "a.avro", 0, number) for number in (1, 2)] + [("N1", "a.avro", 0, 3)],
        "tailnum string, _file string, _block bigint, _record bigint",
    )
    accepted, rejected = clean_data.clean(planes, FLIGHTS.sources["planes"])
    assert accepted.count() == 1
    assert [row["rule"] for row in rejected.collect()] == ["tailnum_missing"] * 2


def test_no_row_is_lost_whatever_is_in_it(spark):
    """1 in + 1 in … = out + rejected for every mix of dirt, doubled keys among it."""
    dirt = [{}, *DIRT.values()]
    changes = [
        {**first, **second, "id": number % 17}
        for number, (first, second) in enumerate((a, b) for a in dirt for b in dirt)
    ]
    rows = flights(spark, *changes)
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights"], "updated_at")
    assert accepted.count() + rejected.count() == len(changes)
    assert accepted.count() == accepted.select("id").distinct().count()


def raw_file(lake, name, content):
    path = lake / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"file://{path}"


def test_csv_with_quotes_newlines_and_broken_lines(spark, lake):
    path = raw_file(
        lake, "airlines.csv", 'carrier,name\nUA,"United, ""the""\nairline"\nAA\n,Nobody\nB6,JetBlue,extra\nDL,Delta\n'
    )
    source = FLIGHTS.sources["airlines"]
    rows = clean_data.read_raw(spark, source, [path])
    accepted, rejected = clean_data.clean(rows, source)
    assert {row["carrier"]: row["name"] for row in accepted.collect()} == {
        "UA": 'United, "the"\nairline',
        "DL": "Delta",
    }
    assert sorted(row["rule"] for row in rejected.collect()) == ["carrier_missing", "unreadable_row", "unreadable_row"]
    assert clean_data.count(rows) == 5
    assert all(row["source_file"].endswith("airlines.csv") for row in rejected.collect())


ORIGINALS = {
    "airlines": (
        "airlines.csv",
        b'carrier,name\r\nUA,"United, ""the""\r\nairline"\r\nAA\r\n,"No\nbody"\r\n\r\nB6,JetBlue,extra\r\n,\xc9re\r\nDL,Delta\r\nDL,Late',
        {
            2: ("unreadable_row", b"AA"),
            3: ("carrier_missing", b',"No\nbody"'),
            4: ("unreadable_row", b"B6,JetBlue,extra"),
            5: ("carrier_missing", b",\xc9re"),
            6: ("superseded", b"DL,Delta"),
        },
    ),
    "airports": (
        "airports.json",
        json.dumps(AIRPORTS).encode()[:-1]
        + b', {"faa":  "XXX", "lat" : "high",\n"lon": 1.50}, {"faa": null, "lat": 1, "lon": 2}]',
        {
            3: ("unreadable_value", b'{"faa":  "XXX", "lat" : "high",\n"lon": 1.50}'),
            4: ("faa_missing", b'{"faa": null, "lat": 1, "lon": 2}'),
        },
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_rejected_record_keeps_its_bytes_and_its_place(spark, lake, name):
    file, content, expected = ORIGINALS[name]
    source, paths = FLIGHTS.sources[name], [raw_file(lake, file, content)]
    _, rejected = clean_data.clean(clean_data.read_raw(spark, source, paths), source)
    rows = originals.attach(rejected, source.format, paths).collect()
    plain = {"text": str.encode, "base64": base64.b64decode}
    found = {row["source_record"]: (row["rule"], plain[row["original_is"]](row["original"])) for row in rows}
    assert found == expected
    assert {row["source_block"] for row in rows} == {0}


def test_of_a_record_that_cannot_be_told_what_was_read_is_kept():
    fields = {"carrier": None, "name": "Nobody"}
    assert originals.original("csv", [b"AA,other"], 1, fields) == (json.dumps(fields), "record")
    assert originals.original("csv", [], 1, fields) == (json.dumps(fields), "record")
    assert originals.original("json", [b'{"a'], 1, {"a": None, "_unreadable": '[{"a'}) == ('[{"a', "text")


def test_csv_with_other_columns_than_declared_stops(spark, lake):
    path = raw_file(lake, "airlines.csv", "name,carrier\nUnited,UA\n")
    accepted, _ = clean_data.clean(
        clean_data.read_raw(spark, FLIGHTS.sources["airlines"], [path]), FLIGHTS.sources["airlines"]
    )
    with pytest.raises(Exception, match="CSV header does not conform to the schema"):
        accepted.collect()


def test_json_values_that_do_not_fit_their_type(spark, lake):
    path = raw_file(
        lake,
        "airports.json",
        json.dumps([*AIRPORTS, {**AIRPORTS[0], "faa": "XXX", "alt": "high"}, {**AIRPORTS[0], "faa": "YYY", "lat": 91}]),
    )
    source = FLIGHTS.sources["airports"]
    rows = clean_data.read_raw(spark, source, [path])
    accepted, rejected = clean_data.clean(rows, source)
    assert dict(accepted.dtypes) == {
        "faa": "string",
        "name": "string",
        "lat": "double",
        "lon": "double",
        "alt": "int",
        "tz": "double",
        "dst": "string",
        "tzone": "string",
    }
    assert sorted(row["faa"] for row in accepted.collect()) == ["EWR", "IAH"]
    assert {row["rule"]: row["reason"] for row in rejected.collect()} == {
        "unreadable_value": "alt is not a valid int",
        "position_invalid": "A position is a latitude and a longitude in degrees",
    }
    assert clean_data.count(rows) == 4


def test_broken_json_is_rejected_as_a_whole(spark, lake):
    path = raw_file(lake, "airports.json", json.dumps(AIRPORTS)[:-20])
    source = FLIGHTS.sources["airports"]
    accepted, rejected = clean_data.clean(clean_data.read_raw(spark, source, [path]), source)
    rows = rejected.collect()
    assert accepted.count() + len(rows) >= 1
    assert "unreadable_row" in {row["rule"] for row in rows}


@pytest.fixture
def enriched(spark):
    rows = flights(
        spark,
        {},
        {"tailnum": "N00000", "dest": "BQN", "sched_dep": datetime(2013, 7, 1, 5, 15)},
        {"tailnum": None, "dep_time": None, "dep_delay": None, "arr_delay": None, "air_time": None},
        {"arr_delay": None, "air_time": None},
        {"sched_dep": datetime(2013, 3, 10, 23, 59)},
        {"sched_dep": datetime(2013, 11, 3, 0, 30)},
    ).drop("_file")
    planes = spark.createDataFrame(
        [("N14228", 1999, "Fixed wing", "BOEING", "737", 2, 149, None, "Turbo-fan")],
        PLANE_COLUMNS,
    )
    airlines = spark.createDataFrame([("UA", "United")], "carrier string, name string")
    airports = spark.createDataFrame(
        [tuple(row.values()) for row in AIRPORTS],
        "faa string, name string, lat double, lon double, alt int, tz int, dst string, tzone string",
    )
    airports = airports.withColumn("tz", airports.tz.cast("double"))
    cleaned = {"flights": rows, "planes": planes, "airlines": airlines, "airports": airports}.__getitem__
    tables = [table for table in FLIGHTS.publish.values() if table.kind != "aggregate"]
    return {table.name: enrich_data.shape(table, enrich_data.join(table, cleaned), cleaned) for table in tables}


def test_facts_have_the_columns_of_the_warehouse(enriched):
    assert dict(enriched["fact_flight"].dtypes) == {
        "flight_id": "bigint",
        "flight_date": "date",
        "scheduled_departure": "timestamp",
        "carrier": "string",
        "flight_number": "int",
        "tailnum": "string",
        "origin": "string",
        "dest": "string",
        "dep_delay_minutes": "int",
        "arr_delay_minutes": "int",
        "air_time_minutes": "int",
        "distance_miles": "int",
        "cancelled": "boolean",
        "diverted": "boolean",
        "plane_known": "boolean",
        "dest_known": "boolean",
    }


def test_wall_clock_becomes_the_instant_on_both_sides_of_the_clock_change(enriched):
    facts = {
        row["flight_id"]: row
        for row in enriched["fact_flight"]
        .selectExpr("flight_id", "flight_date", "cast(scheduled_departure as string) as utc")
        .collect()
    }
    assert {number: row["utc"] for number, row in facts.items() if number in (1, 2, 5, 6)} == {
        1: "2013-01-01 10:15:00",
        2: "2013-07-01 09:15:00",
        5: "2013-03-11 03:59:00",
        6: "2013-11-03 04:30:00",
    }
    assert facts[5]["flight_date"] == date(2013, 3, 10)


def test_flights_keep_their_row_and_tell_what_is_known(enriched):
    facts = {row["flight_id"]: row for row in enriched["fact_flight"].collect()}
    assert len(facts) == 6
    assert {number: (row["plane_known"], row["dest_known"]) for number, row in facts.items() if number < 4} == {
        1: (True, True),
        2: (False, False),
        3: (False, True),
    }
    assert [number for number, row in facts.items() if row["cancelled"]] == [3]
    assert [number for number, row in facts.items() if row["diverted"]] == [4]


def test_unknown_members_complete_the_dimensions(enriched):
    airports = {row["faa"]: row for row in enriched["dim_airport"].collect()}
    planes = {row["tailnum"]: row for row in enriched["dim_plane"].collect()}
    assert {faa: row["known"] for faa, row in airports.items()} == {"EWR": True, "IAH": True, "BQN": False}
    assert {tailnum: row["known"] for tailnum, row in planes.items()} == {"N14228": True, "N00000": False}
    assert airports["BQN"]["name"] is None
    assert airports["IAH"]["tz_offset_hours"] == -6.0


def test_aggregate_counts_each_flight_once_and_means_only_what_flew(enriched):
    rows = {
        (row["flight_date"], row["dest"]): row
        for row in aggregate_data.aggregate(FLIGHTS.publish["agg_delay_day"], enriched["fact_flight"]).collect()
    }
    day = rows[date(2013, 1, 1), "IAH"]
    assert (day["flights"], day["departed"], day["cancelled"], day["diverted"]) == (3, 2, 1, 1)
    assert (day["mean_dep_delay_minutes"], day["mean_arr_delay_minutes"]) == (2.0, 11.0)
    assert sum(row["flights"] for row in rows.values()) == 6


def cleaned_orders(spark, *orders):
    """Cleaned sources of the orders pipeline: one customer, and orders (day, deleted) with a line each."""
    pipeline = load("orders")
    days = [(key, date.fromisoformat(day), deleted) for key, (day, deleted) in enumerate(orders, 1)]
    order = {"customer_key": 7, "status": "O", "total_price": Decimal("10.50")}
    line = {
        "customer_key": 7,
        "line_number": 1,
        "quantity": Decimal(2),
        "extended_price": Decimal("100.00"),
        "discount": Decimal("0.05"),
    }
    rows = {
        "customers": [{"customer_key": 1, "market_segment": "BUILDING"}],
        "orders": [order | {"order_key": key, "order_date": day, "deleted": deleted} for key, day, deleted in days],
        "line_items": [line | {"order_key": key, "order_date": day, "deleted": deleted} for key, day, deleted in days],
    }
    schemas = {
        name: ", ".join(f"{column} {kind}" for column, kind in pipeline.sources[name].columns.items()) for name in rows
    }
    frames = {
        name: spark.createDataFrame([tuple(map(row.get, pipeline.sources[name].columns)) for row in rows[name]], schema)
        for name, schema in schemas.items()
    }
    return pipeline.publish, frames.__getitem__


def test_rows_that_a_table_leaves_out_still_tell_their_month(spark):
    tables, cleaned = cleaned_orders(spark, ("1995-01-31", False), ("1995-03-01", True), ("1995-01-01", True))
    joined = enrich_data.join(tables["fact_order"], cleaned)
    assert enrich_data.months(tables["fact_order"], joined) == ["1995-01-01", "1995-03-01"]
    (order,) = enrich_data.shape(tables["fact_order"], joined, cleaned).collect()
    assert (order["order_key"], order["customer_known"]) == (1, False)


def test_joins_look_up_without_losing_or_doubling_rows(spark):
    tables, cleaned = cleaned_orders(spark, ("1995-01-31", False), ("1995-03-01", False))
    lines = enrich_data.shape(tables["fact_line_item"], enrich_data.join(tables["fact_line_item"], cleaned), cleaned)
    assert [(row["market_segment"], row["order_known"], row["net_price"]) for row in lines.collect()] == [
        ("UNKNOWN", True, Decimal("95.0000"))
    ] * 2
    assert dict(lines.dtypes)["net_price"] == "decimal(18,4)"
    totals = aggregate_data.aggregate(tables["agg_revenue_day"], lines).collect()
    assert [(row["orders"], row["lines"], row["revenue"]) for row in totals] == [(1, 1, Decimal("95.0000"))] * 2


def run(attempt=1, manifests=None):
    return Run("flights", "manual__1", attempt, datetime(2013, 1, 1), datetime(2013, 2, 1), manifests or {})


def put_raw(spark, lake, *changes):
    """Seal raw objects of the four sources, with such flights; return {source: manifest URL}."""
    planes = spark.createDataFrame(
        [("N14228", 1999, "x", "BOEING", "737", 2, 149, None, "y")],
        PLANE_COLUMNS,
    )
    frames = {
        "flights": flights(spark, *changes).drop("_file"),
        "planes": planes,
    }
    files = {
        "airlines": ("airlines.csv", "carrier,name\nUA,United\n"),
        "airports": ("airports.json", json.dumps(AIRPORTS)),
    }
    urls = {}
    for source in FLIGHTS.sources:
        directory = lake / f"raw/{source}/dt=2013-01-01/run_id=manual__1/attempt=1"
        if source in frames:
            frames[source].coalesce(1).write.format(clean_data.AVRO).save(f"file://{directory}")
            parts = sorted(directory.glob("part-*.avro"))
            rows = frames[source].count()
        else:
            directory.mkdir(parents=True)
            (directory / files[source][0]).write_text(files[source][1])
            parts, rows = [directory / files[source][0]], None
        listed = [
            {"key": f"x/{part.name}", "rows": rows, "bytes": str(part.stat().st_size), "sha256": ""} for part in parts
        ]
        manifest = {"run_id": "manual__1", "pipeline": "flights", "dataset": source, "files": listed}
        (directory / "_manifest.json").write_text(json.dumps(manifest))
        urls[source] = f"file://{directory}/_manifest.json"
    return urls


@pytest.fixture
def raw(spark, lake):
    """Raw objects with four flights, a bad and a doubled one among them."""
    return put_raw(spark, lake, {}, {"dest": "BQN"}, {"distance": 0}, {"id": 1})


def clean_all(spark, raw, attempt=1):
    return Stage("clean_data", run(attempt, raw), spark).perform(clean_data.clean_all)


def test_the_record_accounts_for_every_row(spark, lake, raw):
    record = clean_all(spark, raw)
    counts = record["datasets"]["clean_flights"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (
        4,
        2,
        {"distance_invalid": 1, "superseded": 1},
    )
    assert {name: value["rows_in"] for name, value in record["datasets"].items()} == {
        "clean_flights": 4,
        "clean_planes": 1,
        "clean_airlines": 1,
        "clean_airports": 2,
    }
    assert json.loads(Path(lake, "curated/_stages/manual__1/1/clean_data.json").read_text()) == record
    lines = [
        json.loads(line)
        for part in Path(lake, "quarantine/flights/flights").rglob("part-*.json")
        for line in part.read_text().splitlines()
    ]
    assert {line["rule"] for line in lines} == {"distance_invalid", "superseded"}
    told = {"run_id", "release", "dataset", "rule", "reason"}
    assert set(lines[0]) == told | {
        "source_row",
        "source_file",
        "source_block",
        "source_record",
        "original",
        "original_is",
    }
    (bad,) = [line for line in lines if line["rule"] == "distance_invalid"]
    assert (bad["run_id"], bad["dataset"], bad["source_record"]) == ("manual__1", "flights", 3)
    assert bad["original_is"] == "record" and json.loads(bad["original"])["distance"] == 0


def test_the_stages_follow_each_other(spark, lake, raw):
    clean_all(spark, raw)
    record = Stage("enrich_data", run(attempt=3), spark, after="clean_data").perform(enrich_data.enrich_all)
    assert record["inputs"] == {"clean_data": f"file://{lake}/curated/_stages/manual__1/1/clean_data.json"}
    assert {
        name: (value["rows_in"], value["added"], value["rows_out"]) for name, value in record["datasets"].items()
    } == {
        "fact_flight": (2, 0, 2),
        "dim_airline": (1, 0, 1),
        "dim_airport": (2, 1, 3),
        "dim_plane": (1, 0, 1),
    }
    totals = Stage("aggregate_data", run(attempt=2), spark, after="enrich_data").perform(aggregate_data.aggregate_all)
    assert totals["datasets"]["agg_delay_day"]["rows_out"] == 2


def test_a_hook_changes_rows_and_may_not_lose_any(spark, lake, raw, monkeypatch):
    hooks = ModuleType("jobs.pipelines.flights")
    hooks.__spec__ = ModuleSpec(hooks.__name__, None)
    hooks.dim_airline = lambda rows: rows.selectExpr("carrier", "upper(name) as name")
    monkeypatch.setitem(sys.modules, hooks.__name__, hooks)
    clean_all(spark, raw)
    enrich = Stage("enrich_data", run(), spark, after="clean_data")
    enrich.perform(enrich_data.enrich_all)
    assert [row["name"] for row in spark.read.parquet(enrich.prefix("dim_airline")).collect()] == ["UNITED"]
    hooks.fact_flight = lambda rows: rows.limit(1)
    with pytest.raises(StageError, match="fact_flight: 2 rows in and 0 added, but 1 out"):
        Stage("enrich_data", run(attempt=2), spark, after="clean_data").perform(enrich_data.enrich_all)


def test_an_interval_without_flights_goes_through(spark, lake):
    clean_all(spark, put_raw(spark, lake))
    record = Stage("enrich_data", run(), spark, after="clean_data").perform(enrich_data.enrich_all)
    assert {name: value["rows_out"] for name, value in record["datasets"].items()} == {
        "fact_flight": 0,
        "dim_airline": 1,
        "dim_airport": 2,
        "dim_plane": 1,
    }
    totals = Stage("aggregate_data", run(), spark, after="enrich_data").perform(aggregate_data.aggregate_all)
    assert totals["datasets"]["agg_delay_day"]["rows_out"] == 0


def test_a_finished_stage_submitted_again_does_nothing(spark, lake, raw):
    record = clean_all(spark, raw)
    assert clean_all(spark, raw) == record
    with pytest.raises(StageError, match="made from other inputs"):
        clean_all(spark, {**raw, "flights": "file:///other/_manifest.json"})


def test_what_an_unfinished_attempt_left_is_not_overwritten(spark, lake, raw):
    clean_all(spark, raw)
    Path(lake, "curated/_stages/manual__1/1/clean_data.json").unlink()
    with pytest.raises(StageError, match="next --attempt"):
        clean_all(spark, raw)
    assert clean_all(spark, raw, attempt=2)["datasets"]["clean_flights"]["rows_out"] == 2


def test_a_stage_without_the_one_before_says_so(spark, lake):
    with pytest.raises(StageError, match="no finished stage clean_data"):
        Stage("enrich_data", run(), spark, after="clean_data")


def edit(url, change):
    path = Path(url.removeprefix("file://"))
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_fewer_rows_than_the_manifest_states_stop_the_stage(spark, lake, raw):
    edit(raw["planes"], lambda manifest: manifest["files"][0].update(rows=2))
    with pytest.raises(StageError, match="2 rows in and 0 added, but 1 out"):
        clean_data.clean_source(Stage("clean_data", run(), spark), FLIGHTS.sources["planes"], raw["planes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["files"][0].update(bytes=1), "its manifest says 1"),
        (lambda manifest: manifest["files"][0].update(key="x/part-9.avro"), "is not there"),
        (lambda manifest: manifest.update(run_id="other"), "run_id is 'other', expected 'manual__1'"),
        (lambda manifest: manifest.update(files=[]), "lists no files"),
    ],
)
def test_a_manifest_that_does_not_match_its_files_stops_the_stage(spark, lake, raw, change, message):
    edit(raw["planes"], change)
    with pytest.raises(StageError, match=message):
        clean_data.clean_source(Stage("clean_data", run(), spark), FLIGHTS.sources["planes"], raw["planes"])


BASE = [
    "--pipeline",
    "flights",
    "--run-id",
    "manual__2013",
    "--attempt",
    "1",
    "--from",
    "2013-01-01 00:00:00",
    "--to",
    "2014-01-01 00:00:00",
]


def test_command_line():
    given = arguments([*BASE, "--manifest", "a=s3a://raw/x=1/_manifest.json"], manifests=True)
    assert given.manifests == {"a": "s3a://raw/x=1/_manifest.json"}
    assert given.path("fact_flight") == "fact_flight/dt=2013-01-01/run_id=manual__2013/attempt=1"


@pytest.mark.parametrize(
    "wrong", [["--run-id", "a/b"], ["--run-id", ".."], ["--attempt", "0"], ["--to", "2013-01-01"], ["--manifest", "a"]]
)
def test_command_line_that_is_wrong(wrong):
    with pytest.raises(SystemExit):
        arguments([*BASE, "--manifest", "b=s3a://raw/m", *wrong], manifests=True)


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_quarantined_record_is_parsed_anew_from_its_original(spark, lake, name):
    file, content, expected = ORIGINALS[name]
    source, paths = FLIGHTS.sources[name], [raw_file(lake, file, content)]
    stage = Stage("clean_data", run(), spark)
    _, rejected = clean_data.clean(clean_data.read_raw(spark, source, paths), source)
    stage.put_aside(name, originals.attach(rejected, source.format, paths))
    wanted = sorted({rule for rule, _ in expected.values()} - {"superseded"})
    entry = {"prefix": f"{stage.quarantine}/{stage.run.path(f'flights/{name}')}", "rules": wanted}
    again = clean_data.read_quarantined(stage, source, entry)
    first = {row["source_record"]: json.loads(row["source_row"]) for row in rejected.collect() if row["rule"] in wanted}
    if source.format == "csv":  # of JSON, 1.50 may be read as 1.5
        assert {row["_record"]: [row[column] for column in source.columns] for row in again.collect()} == {
            number: [row[column] for column in source.columns] for number, row in first.items()
        }
    _, still = clean_data.clean(again.drop("original", "original_is"), source)
    assert sorted(row["rule"] for row in still.collect()) == sorted(
        rule for rule, _ in expected.values() if rule != "superseded"
    )


def test_a_replay_releases_what_the_rules_of_today_accept(spark, lake, raw, monkeypatch):
    clean_all(spark, raw)
    Stage("enrich_data", run(), spark, after="clean_data").perform(enrich_data.enrich_all)
    mended = [rule for rule in FLIGHTS.sources["flights"].rules if rule.name != "distance_invalid"]
    sources = {**FLIGHTS.sources, "flights": replace(FLIGHTS.sources["flights"], rules=tuple(mended))}
    monkeypatch.setattr(clean_data, "load", lambda _: replace(FLIGHTS, sources=sources))
    entry = {
        "prefix": f"file://{lake}/quarantine/flights/flights/dt=2013-01-01/run_id=manual__1/attempt=1",
        "rules": ["distance_invalid"],
        "like": raw["flights"],
    }
    given = {name: {"sealed": [url]} for name, url in raw.items()} | {"flights": {"entries": [entry], "rows": 1}}
    document = lake / "replay.json"
    document.write_text(json.dumps({"pipeline": "flights", "run_id": "replay1", "sources": given}))
    replay = replace(run(), run_id="replay1", replay=f"file://{document}")

    record = Stage("clean_data", replay, spark).perform(clean_data.clean_all)
    counts = {name: (value["rows_in"], value["rows_out"]) for name, value in record["datasets"].items()}
    assert counts["clean_flights"] == (1, 1) and counts["clean_airports"] == (2, 2)
    tables = Stage("enrich_data", replay, spark, after="clean_data").perform(enrich_data.enrich_all)["datasets"]
    assert {name: value["rows_out"] for name, value in tables.items()} == {
        "fact_flight": 1,
        "dim_airline": 0,
        "dim_airport": 0,
        "dim_plane": 0,
    }, "what no quarantined row is of is not published again"
    (fact,) = spark.read.parquet(tables["fact_flight"]["prefix"]).collect()
    assert (fact["flight_id"], fact["distance_miles"], fact["plane_known"], fact["dest_known"]) == (3, 0, True, True)

    published = f"file://{lake}/curated/fact_flight/dt=2013-01-01/run_id=manual__1/attempt=1"
    spark.read.parquet(published).write.parquet(f"file://{lake}/base/fact_flight")
    replay = replace(replay, replay=None, base=f"file://{lake}/base")
    totals = Stage("aggregate_data", replay, spark, after="enrich_data").perform(aggregate_data.aggregate_all)
    rows = spark.read.parquet(totals["datasets"]["agg_delay_day"]["prefix"]).collect()
    assert {row["dest"]: row["flights"] for row in rows} == {"IAH": 2, "BQN": 1}


def test_a_replay_of_rows_that_are_still_wrong_quarantines_them_with_their_original(spark, lake, raw):
    clean_all(spark, raw)
    prefix = "quarantine/flights/flights/dt=2013-01-01"
    entry = {
        "prefix": f"file://{lake}/{prefix}/run_id=manual__1/attempt=1",
        "rules": ["distance_invalid"],
        "like": raw["flights"],
    }
    stage = Stage("clean_data", replace(run(), run_id="replay1"), spark)
    clean_data.replay_source(stage, FLIGHTS.sources["flights"], {"entries": [entry], "rows": 1})
    assert stage.datasets["clean_flights"]["rejected"] == {"distance_invalid": 1}
    (line,) = [
        json.loads(line)
        for part in Path(lake, prefix, "run_id=replay1").rglob("part-*.json")
        for line in part.read_text().splitlines()
    ]
    assert (line["run_id"], line["source_record"], json.loads(line["original"])["distance"]) == ("replay1", 3, 0)
    with pytest.raises(StageError, match="2 rows in and 0 added, but 0 out"):
        replay = Stage("clean_data", replace(run(2), run_id="replay1"), spark)
        clean_data.replay_source(replay, FLIGHTS.sources["flights"], {"entries": [entry], "rows": 2})
