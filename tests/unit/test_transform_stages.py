"""The Spark stages: rules on planted dirt, no row lost, times, unknown members, repeated submissions."""

import base64
import gzip
import hashlib
import io
import json
import sys
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.declaration import Drift, Join, load
from jobs.extract import records
from jobs.transform.spark import aggregate_data, clean_data, enrich_data, originals
from jobs.transform.spark import raw as raw_rows
from jobs.transform.spark.session import SETTINGS, Run, Stage, StageError, arguments
from jobs.validation import schema

FLIGHTS = load("flights")
PIPELINE_SCHEMA = schema()
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
    "schedule_in_gap": {"sched_dep": datetime(2013, 3, 10, 2, 30)},
    "distance_invalid": {"distance": 0},
    "delay_without_departure": {"dep_time": None, "arr_delay": 5},
}


def test_every_rule_of_flights_is_tried():
    assert set(DIRT) == {rule.name for rule in FLIGHTS.sources["flights_table"].rules}


def test_each_rule_rejects_its_row_and_no_other(spark):
    rows = flights(spark, {}, *DIRT.values(), {"dep_time": None, "arr_delay": None})
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights_table"], "updated_at")
    assert by_rule(rejected) == {rule: [number] for number, rule in enumerate(DIRT, 2)}
    assert sorted(row["id"] for row in accepted.collect()) == [1, len(DIRT) + 2]
    assert accepted.columns == list(FLIGHTS.sources["flights_table"].columns)


def test_a_rejected_row_keeps_its_original_its_file_and_a_reason(spark):
    _, rejected = clean_data.clean(flights(spark, {"distance": -1}), FLIGHTS.sources["flights_table"], "updated_at")
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
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights_table"], "updated_at")
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
    accepted, rejected = clean_data.clean(rows, FLIGHTS.sources["flights_table"], "updated_at")
    assert accepted.count() + rejected.count() == len(changes)
    assert accepted.count() == accepted.select("id").distinct().count()


def raw_file(lake, name, content):
    path = lake / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"file://{path}"


def cleaned_file(spark, lake, source, name, content):
    """(accepted rows, rejected rows, number of rows) of a file of a source, as clean_source reads it."""
    path = raw_file(lake, name, content)
    (group,) = raw_rows.read(spark, source, {path: name})
    accepted, rejected = clean_data.clean([(group.rows, clean_data._drifted(source, group))], source)
    counts, _ = clean_data.count(group.rows, source)
    return accepted.collect(), rejected.collect(), sum(counts.values())


AIRLINES, AIRPORT_SOURCE = FLIGHTS.sources["airlines"], FLIGHTS.sources["airports"]


def test_csv_with_quotes_newlines_and_broken_lines(spark, lake):
    content = 'carrier,name\nUA,"United, ""the""\nairline"\nAA\n,Nobody\nB6,JetBlue,extra\nDL,Delta\n'
    accepted, rejected, rows = cleaned_file(spark, lake, AIRLINES, "airlines.csv", content)
    assert {row["carrier"]: row["name"] for row in accepted} == {"UA": 'United, "the"\nairline', "DL": "Delta"}
    assert sorted(row["rule"] for row in rejected) == ["carrier_missing", "unreadable_row", "unreadable_row"]
    assert rows == 5
    assert all(row["source_file"].endswith("airlines.csv") for row in rejected)


@pytest.mark.parametrize("name", ["airlines.csv", "airlines.csv.gz"])
def test_csv_columns_are_known_by_their_names(spark, lake, name):
    content = b"name,carrier\nUnited,UA\n"
    accepted, rejected, _ = cleaned_file(
        spark, lake, AIRLINES, name, gzip.compress(content) if name.endswith("gz") else content
    )
    assert [(row["carrier"], row["name"]) for row in accepted] == [("UA", "United")]
    assert not rejected


def test_an_airline_in_another_encoding_goes_to_quarantine_and_the_others_on(spark, lake):
    content = "carrier,name\nUA,United\nXX,Air Cura\u00e7ao\n".encode("latin-1")
    accepted, rejected, _ = cleaned_file(spark, lake, AIRLINES, "airlines.csv", content)
    assert [row["carrier"] for row in accepted] == ["UA"]
    assert [(row["rule"], row["reason"]) for row in rejected] == [("unreadable_encoding", "name is not utf-8")]
    declared = replace(AIRLINES, encoding="iso-8859-1")
    accepted, rejected, _ = cleaned_file(spark, lake, declared, "airlines.csv", content)
    assert {row["name"] for row in accepted} == {"United", "Air Cura\u00e7ao"}


@pytest.mark.parametrize("encoding", PIPELINE_SCHEMA["$defs"]["files"]["properties"]["encoding"]["enum"])
def test_every_encoding_that_may_be_declared_can_be_read_and_counted(spark, lake, encoding):
    name = {"us-ascii": "Curacao", "iso-8859-1": "Cura\u00e7ao"}.get(encoding, "Cura\u00e7ao \u20ac")
    content = f"carrier,name\nXX,{name}\n".encode(encoding)
    declared = replace(AIRLINES, encoding=encoding)
    accepted, rejected, rows = cleaned_file(spark, lake, declared, "airlines.csv", content)
    assert ([row["name"] for row in accepted], rejected, rows) == ([name], [], len(records.spans("csv", content)))


@pytest.mark.parametrize("extra", ["price.eur", "a`b", "Unit Price", ""])
def test_a_column_that_is_not_declared_may_have_any_name(spark, lake, extra):
    accepted, rejected, rows = cleaned_file(
        spark, lake, AIRLINES, "airlines.csv", f"carrier,name,{extra}\nUA,United,1\n,Nobody,2\n"
    )
    assert ([row["carrier"] for row in accepted], rows) == (["UA"], 2)
    assert [json.loads(row["source_row"])[extra] for row in rejected] == ["2"], "and is kept with what is rejected"


def test_rows_without_a_key_are_no_equals(spark):
    """Where no rule of the source has them."""
    source = replace(FLIGHTS.sources["flights_table"], key=("carrier", "tailnum"), rules=())
    rows = flights(spark, {"tailnum": None}, {"tailnum": None}, {"tailnum": None, "carrier": None}, {}, {})
    accepted, rejected = clean_data.clean(rows, source, "updated_at")
    assert accepted.count() == 1
    assert {rule: len(ids) for rule, ids in by_rule(rejected).items()} == {"key_missing": 3, "superseded": 1}


def test_a_text_that_postgresql_cannot_hold_goes_to_quarantine(spark, lake):
    content = "carrier,name\nUA,United\nXX,a\0b\n"
    accepted, rejected, _ = cleaned_file(spark, lake, AIRLINES, "airlines.csv", content)
    assert [row["carrier"] for row in accepted] == ["UA"]
    (row,) = rejected
    assert (row["rule"], row["reason"][:27]) == ("unreadable_value", "name has the character NUL,")
    assert json.loads(row["source_row"])["name"] == "a\0b"


def test_a_byte_order_mark_is_no_part_of_the_first_column(spark, lake):
    accepted, _, _ = cleaned_file(spark, lake, AIRLINES, "airlines.csv", b"\xef\xbb\xbfcarrier,name\nUA,United\n")
    assert [row["carrier"] for row in accepted] == ["UA"]


def test_a_huge_field_goes_to_quarantine_and_the_others_on(spark, lake):
    content = f"carrier,name\nUA,United\nXX,{'x' * (clean_data.MOST_CHARACTERS + 1)}\n"
    accepted, rejected, _ = cleaned_file(spark, lake, AIRLINES, "airlines.csv", content)
    assert [row["carrier"] for row in accepted] == ["UA"]
    assert [row["rule"] for row in rejected] == ["huge_value"]
    assert "name has more than 1,000,000 characters" in rejected[0]["reason"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("carrier\nUA\n", r"airlines \(airlines.csv\): column name: expected string, found no such column"),
        ("", r"airlines \(airlines.csv\): column carrier: expected string, found no such column"),
        ("carrier,name,name\nUA,United,x\n", "the header names name more than once"),
    ],
)
def test_a_csv_without_the_declared_columns_stops(spark, lake, content, message):
    with pytest.raises(StageError, match=message):
        cleaned_file(spark, lake, AIRLINES, "airlines.csv", content)


def test_of_many_files_those_with_the_same_header_are_looked_into_once(spark, lake, monkeypatch):
    looked, columns_of = [], raw_rows.columns_of
    monkeypatch.setattr(
        raw_rows, "columns_of", lambda *given: looked.append(given[2].rpartition("/")[2]) or columns_of(*given)
    )
    content = {f"a-{day}.csv": b"carrier,name\r\nUA,%d\n" % day for day in range(5)}
    content |= {"b.csv": b"carrier,name\nUA,b", "c.csv.gz": gzip.compress(b"carrier,name\r\nUA,c")}
    content |= {"e.csv": b"name,carrier\ne,UA\n", "f.csv": b"carrier,name,alliance\nUA,f,Star\n"}
    files = {raw_file(lake, name, text): name for name, text in content.items()}
    groups = raw_rows.read(spark, AIRLINES, files)
    assert looked == ["a-0.csv", "e.csv", "f.csv"]
    assert [(str(group), [*group.columns]) for group in groups] == [
        ("a-0.csv, a-1.csv, a-2.csv, a-3.csv, a-4.csv, b.csv, c.csv.gz", ["carrier", "name"]),
        ("e.csv", ["name", "carrier"]),
        ("f.csv", ["carrier", "name", "alliance"]),
    ]
    assert [sorted(row["name"] for row in group.rows.collect()) for group in groups] == [[*"01234bc"], ["e"], ["f"]]
    with pytest.raises(raw_rows.DriftError, match=r"airlines \(f.csv\): column alliance: .* found string"):
        raw_rows.read(spark, replace(AIRLINES, drift=Drift(added="stop")), files)


@pytest.mark.parametrize(
    ("head", "path", "encoding", "header"),
    [
        (b"a,b\r\n1,2\n", "x.csv", "utf-8", b"a,b"),
        (b"a,b", "x.csv", "utf-8", b"a,b"),
        (b'\n \n"a\nb",c\n1,2', "x.csv", "iso-8859-1", b'\n \n"a\nb",c'),
        (gzip.compress(b"a,b\n1,2"), "x.csv.gz", "utf-8", b"a,b"),
        (b"a," * raw_rows.HEAD, "x.csv", "utf-8", None),
        (b'"a,b\n1,2\n', "x.csv", "utf-8", None),
        (b"a,b\n", "x.csv.gz", "utf-8", None),
        ("a,b\n".encode("utf-16"), "x.csv", "utf-16", None),
        (b"a,b\n", "x.csv", "of Spark alone", None),
        (b"", "x.csv", "utf-8", None),
    ],
)
def test_headers_are_known_by_their_bytes(head, path, encoding, header):
    assert raw_rows.header_of(head[: raw_rows.HEAD], path, encoding) == header


def test_a_csv_with_its_header_alone_is_empty(spark, lake):
    assert cleaned_file(spark, lake, AIRLINES, "airlines.csv", "carrier,name\n") == ([], [], 0)


ADDED = "carrier,name,alliance\nUA,United,Star\n"
GONE = "carrier\nUA\n"


def test_an_added_column_is_left_aside_unless_declared_otherwise(spark, lake, capsys):
    accepted, _, _ = cleaned_file(spark, lake, AIRLINES, "airlines.csv", ADDED)
    assert [row.asDict() for row in accepted] == [{"carrier": "UA", "name": "United"}]
    assert "column alliance: expected no such column, found string (drift: added is accept)" in capsys.readouterr().out
    with pytest.raises(raw_rows.DriftError, match="airlines.drift.added to accept or quarantine"):
        cleaned_file(spark, lake, replace(AIRLINES, drift=Drift(added="stop")), "airlines.csv", ADDED)
    source = replace(AIRLINES, drift=Drift(added="quarantine"))
    accepted, rejected, _ = cleaned_file(spark, lake, source, "airlines.csv", ADDED)
    assert not accepted
    assert [row["rule"] for row in rejected] == ["drift_added"]
    assert json.loads(rejected[0]["source_row"])["alliance"] == "Star"


def test_a_column_that_is_gone_is_null_when_that_is_accepted(spark, lake):
    source = replace(AIRLINES, rules=(), drift=Drift(gone="accept"))
    accepted, _, _ = cleaned_file(spark, lake, source, "airlines.csv", GONE)
    assert [row.asDict() for row in accepted] == [{"carrier": "UA", "name": None}]
    source = replace(AIRLINES, drift=Drift(gone="quarantine"))
    _, rejected, _ = cleaned_file(spark, lake, source, "airlines.csv", GONE)
    assert [(row["rule"], row["reason"]) for row in rejected] == [
        ("drift_gone", "column name: expected string, found no such column")
    ]


@pytest.mark.parametrize(
    ("found", "declared", "fits"),
    [("int", "bigint", True), ("bigint", "int", True), ("int", "double", True), ("double", "int", False)]
    + [("string", "int", False), ("int", "string", False), ("timestamp_ntz", "timestamp", True), ("void", "int", True)]
    + [("decimal(5,2)", "double", True), ("decimal(5,2)", "decimal(10,2)", True), ("string", "date", False)],
)
def test_types_that_hold_the_same_values(found, declared, fits):
    assert raw_rows.readable_as(found, declared) is fits


def test_json_values_that_do_not_fit_their_type(spark, lake):
    content = json.dumps(
        [*AIRPORTS, {**AIRPORTS[0], "faa": "XXX", "alt": "high"}, {**AIRPORTS[0], "faa": "YYY", "lat": 91}]
    )
    accepted, rejected, rows = cleaned_file(spark, lake, AIRPORT_SOURCE, "airports.json", content)
    assert sorted(row["faa"] for row in accepted) == ["EWR", "IAH"]
    assert {row["faa"]: row["alt"] for row in accepted} == {"EWR": 18, "IAH": 97}
    assert {row["rule"]: row["reason"] for row in rejected} == {
        "unreadable_value": "alt is not a valid int",
        "position_invalid": "A position is a latitude and a longitude in degrees",
    }
    assert rows == 4


def test_broken_json_stops(spark, lake):
    with pytest.raises(StageError, match=r"airports.json.* is not JSON from beginning to end"):
        cleaned_file(spark, lake, AIRPORT_SOURCE, "airports.json", json.dumps(AIRPORTS)[:-20])


def test_an_empty_list_is_an_empty_source(spark, lake):
    assert cleaned_file(spark, lake, AIRPORT_SOURCE, "airports.json", "[]") == ([], [], 0)


def test_a_page_of_an_api_is_its_records(spark, lake):
    source = FLIGHTS.sources["weather"]
    rows = [
        {"origin": "EWR", "time_hour": f"2013-11-03T0{hour}:00:00Z", "temp": 50.5, "visib": None} for hour in (5, 6)
    ]
    page = json.dumps(
        {"total": 2, "observations": [row | dict.fromkeys(("wind_speed", "wind_gust", "precip"), 0) for row in rows]}
    )
    accepted, rejected, count = cleaned_file(spark, lake, source, "part-00000.json", page)
    assert (len(accepted), rejected, count) == (2, [], 2)
    assert accepted[0]["temp"] == 50.5
    assert accepted[0]["visib"] is None


@pytest.mark.parametrize(("name", "cut"), [("airlines.csv.gz", 60), ("f.parquet", 100)])
def test_a_truncated_file_stops_with_its_name(spark, lake, name, cut):
    if name.endswith("gz"):
        source, content = (
            AIRLINES,
            gzip.compress(b"carrier,name\n" + b"".join(b"%04d,%x\n" % (n, n**9) for n in range(500))),
        )
    else:
        source, sink = FLIGHTS.sources["flights_files"], io.BytesIO()
        pq.write_table(pa.table({"id": list(range(1000))}), sink)
        content = sink.getvalue()
    with pytest.raises(StageError, match=rf"{source.name}: {name} .* cannot be read: .*deliver it again"):
        path = raw_file(lake, name, content[:-cut])
        with raw_rows.reading(source, {path: name}):
            cleaned_file(spark, lake, source, name, content[:-cut])


ORIGINALS = {
    "airlines": (
        "airlines.csv",
        b'carrier,name\r\nUA,"United, ""the""\r\nairline"\r\nAA\r\n,"No\nbody"\r\n\r\nB6,JetBlue,extra\r\n,\xc9re\r\nDL,Delta\r\nDL,Late',
        {
            2: ("unreadable_row", b"AA"),
            3: ("carrier_missing", b',"No\nbody"'),
            4: ("unreadable_row", b"B6,JetBlue,extra"),
            5: ("unreadable_encoding", b",\xc9re"),
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


NO_OBJECT = [
    json.dumps(AIRPORTS).encode(),
    json.dumps(AIRPORTS[:1]).encode(),
    b"[]",
    b"[1]",
    b"null",
    b"1",
    b'{"faa": "cut',
    b'{"faa": "cut \xc9',
    b'{"faa": "AAA"}{"faa": "BBB"}',
    b'{"faa": "AAA"},{"faa": "BBB"}',
    b'{"faa": "AAA"} {"faa": "BBB", "zzz": 1}',
    b'{"faa": "AAA"},',
    b'{"faa": "AAA"}]',
    b'[{"zzz": 1}]',
]


def json_lines(spark, lake, lines, **changes):
    """The source of the lines, their file at its URL, and their rows."""
    source = replace(AIRPORT_SOURCE, format="jsonl", files="airports.jsonl", **changes)
    path = raw_file(lake, "airports.jsonl", b"\r\n".join(lines))
    (group,) = raw_rows.read(spark, source, {path: "airports.jsonl"})
    return source, path, group


def test_of_json_lines_every_line_that_is_no_object_is_one_bad_record(spark, lake):
    objects = [json.dumps(AIRPORTS[0]).encode(), b" \t" + json.dumps(AIRPORTS[1]).encode() + b" \t"]
    without_key = json.dumps({**AIRPORTS[0], "faa": None}).encode()
    lines = [objects[0], b"", *NO_OBJECT, b" \t", objects[1], without_key]
    source, path, group = json_lines(spark, lake, lines)
    counts, retyped = clean_data.count(group.rows, source)
    accepted, rejected = clean_data.clean(group.rows, source)
    rows = originals.attach(rejected, source.format, [path]).collect()
    plain = {"text": str.encode, "base64": base64.b64decode}
    found = {row["source_record"]: (row["rule"], plain[row["original_is"]](row["original"])) for row in rows}
    expected = {number: ("unreadable_row", line) for number, line in enumerate(NO_OBJECT, 2)}
    assert found == expected | {len(NO_OBJECT) + 3: ("faa_missing", without_key)}
    assert {row["reason"] for row in rows if row["rule"] == "unreadable_row"} == {"The row could not be parsed"}
    assert sorted(row["faa"] for row in accepted.collect()) == ["EWR", "IAH"]
    assert (counts, retyped, group.drifts) == ({"airports.jsonl": len(NO_OBJECT) + 3}, [], ())
    content = b"\r\n".join(lines)
    assert len(records.spans("jsonl", content)) == len(NO_OBJECT) + 3, "as they are counted at the source"
    stage = Stage("clean_data", run(), spark)
    stage.put_aside("airports", originals.attach(rejected, source.format, [path]))
    entry = {"prefix": f"{stage.quarantine}/{stage.run.path('flights/airports')}", "rules": ["unreadable_row"]}
    again = clean_data.read_quarantined(stage, source, entry)
    assert again.where("_unreadable is not null").count() == len(NO_OBJECT), "a replay makes no rows of them either"


def test_json_lines_have_the_columns_of_their_objects(spark, lake):
    lines = [*NO_OBJECT, b'{"faa": "AAA", "name": {"de": [1]}}', b'{"lat": 1.5}']
    *_, group = json_lines(spark, lake, lines, columns={})
    assert list(group.columns) == ["faa", "lat", "name"]
    assert {row["faa"]: row["name"] for row in group.rows.where("faa is not null").collect()} == {"AAA": '{"de":[1]}'}
    *_, group = json_lines(spark, lake, [b"[]"])
    assert (group.columns, group.drifts, group.rows.count()) == ({}, (), 1)


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_rejected_record_keeps_its_bytes_and_its_place(spark, lake, name):
    file, content, expected = ORIGINALS[name]
    source, path = FLIGHTS.sources[name], raw_file(lake, file, content)
    (group,) = raw_rows.read(spark, source, {path: file})
    _, rejected = clean_data.clean(group.rows, source)
    rows = originals.attach(rejected, source.format, [path]).collect()
    plain = {"text": str.encode, "base64": base64.b64decode}
    found = {row["source_record"]: (row["rule"], plain[row["original_is"]](row["original"])) for row in rows}
    assert found == expected
    assert {row["source_block"] for row in rows} == {0}


def test_of_a_record_that_cannot_be_told_what_was_read_is_kept():
    fields = {"carrier": None, "name": "Nobody"}
    assert originals.original("csv", [b"AA,other"], 1, fields) == (json.dumps(fields), "record")
    assert originals.original("csv", [], 1, fields) == (json.dumps(fields), "record")
    assert originals.original("json", [b'{"a'], 1, {"a": None, "_unreadable": '[{"a'}) == ('[{"a', "text")


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
        {"sched_dep": datetime(2013, 11, 3, 1, 30)},
        {"sched_dep": datetime(2013, 11, 3, 1, 30), "origin": "IAH"},
    ).drop(*clean_data.ORIGIN)
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
    # the hours of New York in which the clocks change, and one of January
    weather = spark.createDataFrame(
        [
            ("EWR", datetime(2013, 1, 1, 10), 39.0),
            ("EWR", datetime(2013, 11, 3, 5), 51.98),
            ("EWR", datetime(2013, 11, 3, 6), 50.0),
        ],
        "origin string, time_hour timestamp, temp double",
    ).selectExpr("*", "12.5d wind_speed", "0.0d precip", "10.0d visib")
    cleaned = {
        "flights": rows,
        "planes": planes,
        "airlines": airlines,
        "airports": airports,
        "weather": weather,
    }.__getitem__
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
        "temperature_f": "double",
        "wind_mph": "double",
        "precipitation_in": "double",
        "visibility_miles": "double",
    }


def test_wall_clock_becomes_the_instant_on_both_sides_of_the_clock_change(enriched):
    facts = {
        row["flight_id"]: row
        for row in enriched["fact_flight"]
        .selectExpr("flight_id", "flight_date", "cast(scheduled_departure as string) as utc")
        .collect()
    }
    assert {number: row["utc"] for number, row in facts.items() if number in (1, 2, 5, 6, 7, 8)} == {
        1: "2013-01-01 10:15:00",
        2: "2013-07-01 09:15:00",
        5: "2013-03-11 03:59:00",
        6: "2013-11-03 04:30:00",
        7: "2013-11-03 05:30:00",  # of the hour that comes twice, the first
        8: "2013-11-03 06:30:00",  # the zone is the airport's
    }
    assert facts[5]["flight_date"] == date(2013, 3, 10)


def test_the_weather_is_that_of_the_hour_of_departure(enriched):
    facts = {row["flight_id"]: row["temperature_f"] for row in enriched["fact_flight"].collect()}
    assert facts == {1: 39.0, 2: None, 3: 39.0, 4: 39.0, 5: None, 6: None, 7: 51.98, 8: None}


def test_flights_keep_their_row_and_tell_what_is_known(enriched):
    facts = {row["flight_id"]: row for row in enriched["fact_flight"].collect()}
    assert len(facts) == 8
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
        (row["flight_date"], row["origin"], row["dest"]): row
        for row in aggregate_data.aggregate(FLIGHTS.publish["agg_delay_day"], enriched["fact_flight"]).collect()
    }
    day = rows[date(2013, 1, 1), "EWR", "IAH"]
    assert (day["flights"], day["departed"], day["cancelled"], day["diverted"]) == (3, 2, 1, 1)
    assert (day["mean_dep_delay_minutes"], day["mean_arr_delay_minutes"]) == (2.0, 11.0)
    assert sum(row["flights"] for row in rows.values()) == 8


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
    """Seal raw objects of the sources, with such flights as the file of January; return {source: manifest URL}."""
    planes = spark.createDataFrame(
        [("N14228", 1999, "x", "BOEING", "737", 2, 149, None, "y")],
        PLANE_COLUMNS,
    )
    frames = {
        "flights_files": flights(spark, *changes).drop(*clean_data.ORIGIN),
        "planes": planes,
    }
    files = {
        "weather": ("part-00000.json", json.dumps({"total": 0, "observations": []})),
        "airlines": ("airlines.csv", "carrier,name\nUA,United\n"),
        "airports": ("airports.json", json.dumps(AIRPORTS)),
    }
    urls = {}
    for source, declared in FLIGHTS.sources.items():
        if source == "flights_table":
            urls[source] = "none"
            continue
        directory = lake / f"raw/{source}/dt=2013-01-01/run_id=manual__1/attempt=1"
        if source in frames:
            kind = "parquet" if declared.format == "parquet" else raw_rows.AVRO
            frames[source].coalesce(1).write.format(kind).save(f"file://{directory}")
            parts = sorted(path for path in directory.glob("part-*"))
            rows = frames[source].count() if declared.kind == "sql" else None
        else:
            directory.mkdir(parents=True)
            (directory / files[source][0]).write_text(files[source][1])
            parts, rows = [directory / files[source][0]], None
        listed = [
            {"key": f"x/{part.name}", "rows": rows, "bytes": str(part.stat().st_size)}
            | {"sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
            | ({"name": "flights-2013-01.parquet"} if source == "flights_files" else {})
            for part in parts
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
    counts = record["datasets"]["clean_flights_files"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (
        4,
        2,
        {"distance_invalid": 1, "superseded": 1},
    )
    assert {name: value["rows_in"] for name, value in record["datasets"].items()} == {
        "clean_flights_files": 4,
        "clean_weather": 0,
        "clean_planes": 1,
        "clean_airlines": 1,
        "clean_airports": 2,
    }
    assert json.loads(Path(lake, "curated/_stages/manual__1/1/clean_data.json").read_text()) == record
    lines = [
        json.loads(line)
        for part in Path(lake, "quarantine/flights/flights_files").rglob("part-*.json")
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
    assert (bad["run_id"], bad["dataset"], bad["source_record"]) == ("manual__1", "flights_files", 3)
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


def test_a_join_that_would_double_rows_is_named_with_one_of_them(spark, lake, raw, monkeypatch):
    clean_all(spark, raw)
    fact = FLIGHTS.publish["fact_flight"]
    fact = replace(fact, joins=fact.joins | {"airports": Join("airports", "dest = airports.faa or dest = 'BQN'")})
    publish = FLIGHTS.publish | {"fact_flight": fact}
    monkeypatch.setattr(enrich_data, "load", lambda _: replace(FLIGHTS, publish=publish))
    message = (
        r"fact_flight: 2 rows of airports fit the row of flights with id 2, .*\(joins: airports: dest = .*for 1 rows"
    )
    with pytest.raises(StageError, match=message):
        Stage("enrich_data", run(), spark, after="clean_data").perform(enrich_data.enrich_all)


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


def put_file(directory, name, content, number):
    """Put a raw object with its entry of a manifest."""
    path = directory / f"part-{number:05}.{name.rpartition('.')[2]}"
    path.write_bytes(content)
    entry = {"key": f"x/{path.name}", "rows": None, "bytes": len(content), "name": name}
    return entry | {"sha256": hashlib.sha256(content).hexdigest()}


def seal(lake, source, files, start="2013-01-01"):
    """Seal files {name: content} of a source; return the manifest's URL."""
    directory = lake / f"raw/{source}/dt={start}/run_id=manual__1/attempt=9"
    directory.mkdir(parents=True)
    listed = [put_file(directory, name, content, number) for number, (name, content) in enumerate(files.items())]
    manifest = {"run_id": "manual__1", "pipeline": "flights", "dataset": source, "files": listed}
    (directory / "_manifest.json").write_text(json.dumps(manifest))
    return f"file://{directory}/_manifest.json"


def test_a_file_delivered_twice_is_read_once(spark, lake, capsys):
    content = b"carrier,name\nUA,United\nDL,Delta\n"
    url = seal(lake, "airlines", {"a.csv": content, "a-copy.csv": content, "b.csv": b"carrier,name\nAA,American\n"})
    stage = Stage("clean_data", run(), spark)
    clean_data.clean_source(stage, replace(AIRLINES, files="*.csv"), url)
    counts = stage.datasets["clean_airlines"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (5, 3, {"superseded": 2})
    assert "the same content as another file: a-copy.csv" in capsys.readouterr().out


def month(*days, first=1):
    """A Parquet file of flights on such days (datetime), ids counting up."""
    kinds = {"sched_dep": pa.timestamp("us"), "updated_at": pa.timestamp("us", "UTC")}
    rows = [{**GOOD, "id": number, "sched_dep": day} for number, day in enumerate(days, first)]
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in GOOD}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_of_a_file_a_run_takes_its_interval_and_refuses_what_the_name_does_not_say(spark, lake):
    january = month(datetime(2013, 1, 9), datetime(2013, 1, 10), datetime(2013, 1, 19, 23, 59), datetime(2013, 2, 1))
    url = seal(lake, "flights_files", {"flights-2013-01.parquet": january})
    part = Run("flights", "manual__1", 1, datetime(2013, 1, 10), datetime(2013, 1, 20), {})
    stage = Stage("clean_data", part, spark)
    clean_data.clean_source(stage, FLIGHTS.sources["flights_files"], url)
    counts = stage.datasets["clean_flights_files"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (3, 2, {"outside_period": 1})


def test_the_file_of_a_month_under_the_name_of_the_next_is_seen(spark, lake):
    """Not taken for one that was delivered twice, and the next month for one without rows."""
    january = month(datetime(2013, 1, 9), datetime(2013, 1, 10))
    url = seal(lake, "flights_files", {"flights-2013-01.parquet": january, "flights-2013-02.parquet": january})
    stage = Stage("clean_data", replace(run(), end=datetime(2013, 3, 1)), spark)
    clean_data.clean_source(stage, FLIGHTS.sources["flights_files"], url)
    counts = stage.datasets["clean_flights_files"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (4, 2, {"outside_period": 2})


def test_files_and_table_are_one_dataset(spark, lake, raw):
    table = flights(spark, {"id": 8, "sched_dep": datetime(2013, 7, 1)}).drop(*clean_data.ORIGIN)
    directory = lake / "raw/table"
    table.coalesce(1).write.format(raw_rows.AVRO).save(f"file://{directory}")
    (part,) = directory.glob("part-*.avro")
    entry = {"key": f"x/{part.name}", "rows": 1, "bytes": part.stat().st_size, "sha256": ""}
    manifest = {"run_id": "manual__1", "pipeline": "flights", "dataset": "flights_table", "files": [entry]}
    (directory / "_manifest.json").write_text(json.dumps(manifest))
    files = {
        f"flights-2013-{number:02}.parquet": month(datetime(2013, number, 5), first=number) for number in range(1, 7)
    }
    manifests = raw | {
        "flights_files": seal(lake, "flights_files", files),
        "flights_table": f"file://{directory}/_manifest.json",
    }
    year = Run("flights", "manual__1", 1, datetime(2013, 1, 1), datetime(2014, 1, 1), manifests)
    record = Stage("clean_data", year, spark).perform(clean_data.clean_all)
    assert record["datasets"]["clean_flights_files"]["feeds"] == "clean_flights"
    enrich = Stage("enrich_data", year, spark, after="clean_data")
    assert enrich.given["clean_flights"]["rows_out"] == 7
    assert sorted(row["id"] for row in enrich.read("clean_flights").collect()) == [1, 2, 3, 4, 5, 6, 8]


def test_a_file_of_other_types_stops_with_source_file_and_column(spark, lake):
    table = pq.read_table(io.BytesIO(month(datetime(2013, 1, 9))))
    table = table.set_column(table.schema.get_field_index("distance"), "distance", pa.array(["far"]))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    url = seal(lake, "flights_files", {"flights-2013-01.parquet": sink.getvalue()})
    expected = r"flights_files \(flights-2013-01.parquet\): column distance: expected int, found string \(drift: retyped is stop\)"
    with pytest.raises(raw_rows.DriftError, match=expected):
        clean_data.clean_source(Stage("clean_data", run(), spark), FLIGHTS.sources["flights_files"], url)


def test_a_text_column_of_which_no_value_fits_is_retyped(spark, lake):
    content = json.dumps([{**row, "alt": f"{row['alt']} ft"} for row in AIRPORTS]).encode()
    url = seal(lake, "airports", {"airports.json": content})
    with pytest.raises(raw_rows.DriftError, match=r"airports \(airports.json\): column alt: expected int"):
        clean_data.clean_source(Stage("clean_data", run(), spark), AIRPORT_SOURCE, url)
    stage = Stage("clean_data", run(attempt=2), spark)
    clean_data.clean_source(stage, replace(AIRPORT_SOURCE, drift=Drift(retyped="quarantine")), url)
    assert stage.datasets["clean_airports"]["rejected"] == {"drift_retyped": 2}


def test_a_finished_stage_submitted_again_does_nothing(spark, lake, raw):
    record = clean_all(spark, raw)
    assert clean_all(spark, raw) == record
    with pytest.raises(StageError, match="made from other inputs"):
        clean_all(spark, {**raw, "flights_files": "file:///other/_manifest.json"})


def test_what_an_unfinished_attempt_left_is_not_overwritten(spark, lake, raw):
    clean_all(spark, raw)
    Path(lake, "curated/_stages/manual__1/1/clean_data.json").unlink()
    with pytest.raises(StageError, match="next --attempt"):
        clean_all(spark, raw)
    assert clean_all(spark, raw, attempt=2)["datasets"]["clean_flights_files"]["rows_out"] == 2


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
    source, path = FLIGHTS.sources[name], raw_file(lake, file, content)
    stage = Stage("clean_data", run(), spark)
    (group,) = raw_rows.read(spark, source, {path: file})
    _, rejected = clean_data.clean(group.rows, source)
    stage.put_aside(name, originals.attach(rejected, source.format, [path]))
    wanted = sorted({rule for rule, _ in expected.values()} - {"superseded"})
    entry = {"prefix": f"{stage.quarantine}/{stage.run.path(f'flights/{name}')}", "rules": wanted}
    again = clean_data.read_quarantined(stage, source, entry)
    first = {row["source_record"]: json.loads(row["source_row"]) for row in rejected.collect() if row["rule"] in wanted}
    if source.format == "csv":  # of JSON, 1.50 may be read as 1.5
        assert {row["_record"]: [row[column] for column in source.columns] for row in again.collect()} == {
            number: [row[column] for column in source.columns] for number, row in first.items()
        }
    _, still = clean_data.clean(again, source)
    assert sorted(row["rule"] for row in still.collect()) == sorted(
        rule for rule, _ in expected.values() if rule != "superseded"
    )


def test_a_replay_releases_what_the_rules_of_today_accept(spark, lake, raw, monkeypatch):
    clean_all(spark, raw)
    Stage("enrich_data", run(), spark, after="clean_data").perform(enrich_data.enrich_all)
    mended = [rule for rule in FLIGHTS.sources["flights_files"].rules if rule.name != "distance_invalid"]
    sources = {**FLIGHTS.sources, "flights_files": replace(FLIGHTS.sources["flights_files"], rules=tuple(mended))}
    monkeypatch.setattr(clean_data, "load", lambda _: replace(FLIGHTS, sources=sources))
    entry = {
        "prefix": f"file://{lake}/quarantine/flights/flights_files/dt=2013-01-01/run_id=manual__1/attempt=1",
        "rules": ["distance_invalid"],
        "like": raw["flights_files"],
    }
    given = {name: {"sealed": [url]} for name, url in raw.items() if url != "none"} | {
        "flights_files": {"entries": [entry], "rows": 1}
    }
    document = lake / "replay.json"
    document.write_text(json.dumps({"pipeline": "flights", "run_id": "replay1", "sources": given}))
    replay = replace(run(), run_id="replay1", replay=f"file://{document}")

    record = Stage("clean_data", replay, spark).perform(clean_data.clean_all)
    counts = {name: (value["rows_in"], value["rows_out"]) for name, value in record["datasets"].items()}
    assert counts["clean_flights_files"] == (1, 1) and counts["clean_airports"] == (2, 2)
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
    prefix = "quarantine/flights/flights_files/dt=2013-01-01"
    entry = {
        "prefix": f"file://{lake}/{prefix}/run_id=manual__1/attempt=1",
        "rules": ["distance_invalid"],
        "like": raw["flights_files"],
    }
    stage = Stage("clean_data", replace(run(), run_id="replay1"), spark)
    clean_data.replay_source(stage, FLIGHTS.sources["flights_files"], {"entries": [entry], "rows": 1})
    assert stage.datasets["clean_flights_files"]["rejected"] == {"distance_invalid": 1}
    (line,) = [
        json.loads(line)
        for part in Path(lake, prefix, "run_id=replay1").rglob("part-*.json")
        for line in part.read_text().splitlines()
    ]
    assert (line["run_id"], line["source_record"], json.loads(line["original"])["distance"]) == ("replay1", 3, 0)
    with pytest.raises(StageError, match="2 rows in and 0 added, but 0 out"):
        replay = Stage("clean_data", replace(run(2), run_id="replay1"), spark)
        clean_data.replay_source(replay, FLIGHTS.sources["flights_files"], {"entries": [entry], "rows": 2})


def test_of_several_rows_of_a_page_each_is_replayed_once(spark, lake):
    """The place of all of them is that of their page."""
    weather = replace(FLIGHTS.sources["weather"], drift=Drift(gone="accept"))
    page = {"observations": [{"origin": place, "time_hour": "2013-01-01T05:00:00Z", "visib": -1} for place in "ABC"]}
    page["observations"][2]["visib"] = -2
    path = raw_file(lake, "part-00000.json", json.dumps(page))
    (group,) = raw_rows.read(spark, weather, {path: "part-00000.json"})
    first = Stage("clean_data", run(), spark)
    _, rejected = clean_data.clean(group.rows, weather)
    assert first.put_aside("weather", originals.attach(rejected, "page", [path])) == {"visibility_invalid": 3}
    entry = {"prefix": f"{first.quarantine}/{run().path('flights/weather')}", "rules": ["visibility_invalid"]}
    (rule,) = [rule for rule in weather.rules if rule.name == "visibility_invalid"]
    mended = replace(weather, rules=(replace(rule, reject_if="visib < -1"),))
    stage = Stage("clean_data", replace(run(), run_id="replay1"), spark)
    clean_data.replay_source(stage, mended, {"entries": [entry], "rows": 3})
    counts = stage.datasets["clean_weather"]
    assert (counts["rows_out"], counts["rejected"]) == (2, {"visibility_invalid": 1})
    (line,) = [
        json.loads(line)
        for part in Path(lake, "quarantine/flights/weather").rglob("run_id=replay1/**/part-*.json")
        for line in part.read_text().splitlines()
    ]
    assert (json.loads(line["original"])["origin"], line["original_is"]) == ("C", originals.RECORD)
