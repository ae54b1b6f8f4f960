"""The export that the lab's sources are loaded from: nothing of the package's data changes but NA, which becomes NULL."""

import csv
import importlib.util
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

SCRIPT = Path(__file__).resolve().parents[2] / "roles/sources/files/export_flights.py"
sys.path.insert(0, str(SCRIPT.parent))  # as it has when it is run
spec = importlib.util.spec_from_file_location("export_flights", SCRIPT)
export_flights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export_flights)

COLUMNS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
WINTER = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
CANCELLED_IN_SUMMER = "2013,7,1,NA,2359,NA,NA,344,NA,B6,745,NA,JFK,PSE,NA,1617,23,59,2013-07-02T03:00:00Z"


def flights(*lines):
    return list(export_flights.flights(io.StringIO("\n".join([COLUMNS, *lines]))))


def test_rows_are_numbered_in_order():
    assert [row["id"] for row in flights(WINTER, CANCELLED_IN_SUMMER, WINTER)] == [1, 2, 3]


def test_departure_is_new_york_wall_clock_and_update_the_same_moment():
    winter, summer = flights(WINTER, CANCELLED_IN_SUMMER)
    assert (winter["sched_dep"], winter["updated_at"]) == ("2013-01-01 05:15:00", "2013-01-01T10:15:00+00:00")
    assert (summer["sched_dep"], summer["updated_at"]) == ("2013-07-01 23:59:00", "2013-07-02T03:59:00+00:00")


def test_na_becomes_an_empty_field_and_nothing_else_changes():
    content, count = export_flights.csv_bytes(export_flights.flights(io.StringIO(f"{COLUMNS}\n{CANCELLED_IN_SUMMER}")))
    (row,) = csv.DictReader(io.StringIO(content.decode()))
    original = dict(zip(COLUMNS.split(","), CANCELLED_IN_SUMMER.split(","), strict=True))
    assert count == 1
    assert {name: row[name] for name in original} == {
        name: "" if value == "NA" else value for name, value in original.items()
    }


def test_airports_keep_their_types():
    text = "faa,name,lat,lon,alt,tz,dst,tzone\nEWR,Newark,40.6925,-74.168667,18,-5,A,NA\n"
    assert export_flights.objects(io.StringIO(text), export_flights.AIRPORT_TYPES) == [
        {
            "faa": "EWR",
            "name": "Newark",
            "lat": 40.6925,
            "lon": -74.168667,
            "alt": 18,
            "tz": -5,
            "dst": "A",
            "tzone": None,
        }
    ]


def test_a_month_of_flights_keeps_its_values_as_parquet():
    table = pq.read_table(io.BytesIO(export_flights.parquet_bytes(flights(WINTER, CANCELLED_IN_SUMMER))))
    winter, summer = table.to_pylist()
    assert (winter["id"], winter["dep_time"], winter["tailnum"]) == (1, 517, "N14228")
    assert winter["sched_dep"] == datetime(2013, 1, 1, 5, 15)
    assert (summer["dep_time"], summer["tailnum"], summer["distance"]) == (None, None, 1617)
    assert summer["updated_at"] == datetime(2013, 7, 2, 3, 59, tzinfo=UTC)
    assert str(table.schema.field("sched_dep").type) == "timestamp[us]", "a wall clock has no zone"


def test_whole_export_is_complete_and_made_once(tmp_path):
    command = [sys.executable, str(SCRIPT), "--cache", str(tmp_path)]
    first, second = (json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(2))
    assert {name: file["rows"] for name, file in first["files"].items()} == {
        "flights.csv.gz": 170618,
        "planes.csv": 3322,
        "airlines.csv": 16,
        "airports.json": 1458,
        "weather.json": 26115,
        "flights-2013-01.parquet": 27004,
        "flights-2013-02.parquet": 24951,
        "flights-2013-03.parquet": 28834,
        "flights-2013-04.parquet": 28330,
        "flights-2013-05.parquet": 28796,
        "flights-2013-06.parquet": 28243,
    }
    assert (first["fresh"], second["fresh"]) == (True, False)
    assert first["files"] == second["files"]
    airlines = (Path(first["directory"]) / "airlines.csv").read_bytes()
    assert airlines == export_flights.package_file("airlines.csv").read_bytes()
