"""A throw-away PostgreSQL of this machine's binaries, a lake in memory, and rows of flights for both."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from botocore.response import StreamingBody

from jobs import declaration
from jobs.extract.count import Count
from jobs.load import ledger

OLDEST = 15  # MERGE


def _binaries() -> Path:
    """Directory of the newest initdb; pytest fails with the remedy when there is none."""
    found = {int(path.parts[-3]): path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")}
    if not found or max(found) < OLDEST:
        pytest.fail(
            f"these tests need PostgreSQL {OLDEST} or newer in /usr/lib/postgresql: `make setup` as root, or apt-get install postgresql"
        )
    return found[max(found)]


class Server:
    """One server on a socket of its own, run as an unprivileged user."""

    def __init__(self, directory: Path) -> None:
        self._bin, self.directory, self._numbers = _binaries(), directory, itertools.count()
        # PostgreSQL refuses to run as root; Debian's package brings the user postgres.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(directory, self._user)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            cwd=self.directory,
            env={"LC_ALL": "C.UTF-8"},
            text=True,
            capture_output=True,
        )
        if done.returncode:
            log = self.directory / "log"
            pytest.fail(f"{program} failed: {done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}")

    def start(self) -> None:
        data = str(self.directory / "data")
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "--no-sync", data)
        options = f"-c listen_addresses='' -c unix_socket_directories={self.directory} -c fsync=off -c timezone=UTC -c shared_buffers=32MB"
        self._run("pg_ctl", "-D", data, "-w", "-l", str(self.directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "stop")

    def connect(self, database: str, user: str, autocommit: bool = True) -> psycopg.Connection:
        return psycopg.connect(host=str(self.directory), dbname=database, user=user, autocommit=autocommit)

    def database(self, template: str = "template1") -> str:
        """A new database that etl_owner owns; returns its name."""
        name = f"dwh{next(self._numbers)}"
        with self.connect("postgres", "postgres") as conn:
            conn.execute(f"create database {name} owner etl_owner template {template}")
        return name


class Lake:
    """The part of a boto3 S3 client that loading uses, over a dict of objects."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.ranges = 0

    def get_paginator(self, operation: str) -> Lake:
        assert operation == "list_objects_v2"
        return self

    def paginate(self, Bucket: str, Prefix: str):
        keys = [key for bucket, key in sorted(self.objects) if bucket == Bucket and key.startswith(Prefix)]
        for start in range(0, len(keys), 2):
            yield {
                "Contents": [{"Key": key, "Size": len(self.objects[Bucket, key])} for key in keys[start : start + 2]]
            }

    def put_object(self, Bucket: str, Key: str, Body: bytes, ContentType: str = "") -> None:
        self.objects[Bucket, Key] = Body

    def get_object(self, Bucket: str, Key: str, Range: str | None = None):
        if Range is None:
            content = self.objects[Bucket, Key]
            return {"Body": StreamingBody(io.BytesIO(content), len(content))}
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", Range).groups())
        self.ranges += 1
        return {"Body": io.BytesIO(self.objects[Bucket, Key][first : last + 1])}

    def put(self, prefix: str, rows: list[dict], schema: pa.Schema, files: int = 2) -> None:
        """Rows as Parquet files under s3://curated/prefix, sealed by _SUCCESS."""
        for number in range(files):
            out = io.BytesIO()
            parquet.write_table(pa.Table.from_pylist(rows[number::files], schema), out, row_group_size=7)
            self.objects["curated", f"{prefix}/part-{number:05d}.parquet"] = out.getvalue()
        self.objects["curated", f"{prefix}/_SUCCESS"] = b"{}"


WEATHER = ("temperature_f", "wind_mph", "precipitation_in", "visibility_miles")
SCHEMAS = {
    "fact_flight": pa.schema(
        {
            "flight_id": pa.int64(),
            "flight_date": pa.date32(),
            "scheduled_departure": pa.timestamp("us", "UTC"),
            "carrier": pa.string(),
            "flight_number": pa.int32(),
            "tailnum": pa.string(),
            "origin": pa.string(),
            "dest": pa.string(),
            "dep_delay_minutes": pa.int32(),
            "arr_delay_minutes": pa.int32(),
            "air_time_minutes": pa.int32(),
            "distance_miles": pa.int32(),
            "cancelled": pa.bool_(),
            "diverted": pa.bool_(),
            "plane_known": pa.bool_(),
            "dest_known": pa.bool_(),
        }
        | dict.fromkeys(WEATHER, pa.float64())
    ),
    "dim_airline": pa.schema({"carrier": pa.string(), "name": pa.string()}),
    "dim_airport": pa.schema(
        {
            "faa": pa.string(),
            "name": pa.string(),
            "lat": pa.float64(),
            "lon": pa.float64(),
            "alt_ft": pa.int32(),
            "tz_offset_hours": pa.float64(),
            "dst": pa.string(),
            "tzone": pa.string(),
            "known": pa.bool_(),
        }
    ),
    "dim_plane": pa.schema(
        {
            "tailnum": pa.string(),
            "year": pa.int32(),
            "type": pa.string(),
            "manufacturer": pa.string(),
            "model": pa.string(),
            "engines": pa.int32(),
            "seats": pa.int32(),
            "speed": pa.int32(),
            "engine": pa.string(),
            "known": pa.bool_(),
        }
    ),
    "agg_delay_day": pa.schema(
        {
            "flight_date": pa.date32(),
            "carrier": pa.string(),
            "origin": pa.string(),
            "dest": pa.string(),
            "flights": pa.int32(),
            "departed": pa.int32(),
            "cancelled": pa.int32(),
            "diverted": pa.int32(),
            "mean_dep_delay_minutes": pa.float64(),
            "mean_arr_delay_minutes": pa.float64(),
        }
        | dict.fromkeys([f"mean_{name}" for name in WEATHER], pa.float64())
    ),
}


def flight(number: int, day: date, delay: int | None = 5, **changed: Any) -> dict:
    """A flight of carrier UA from JFK to LAX; delay None is a cancelled one."""
    return {
        "flight_id": number,
        "flight_date": day,
        "scheduled_departure": datetime(day.year, day.month, day.day, 12, 30, tzinfo=UTC),
        "carrier": "UA",
        "flight_number": 100,
        "tailnum": None if number == 1 else "N1",
        "origin": "JFK",
        "dest": "LAX",
        "dep_delay_minutes": delay,
        "arr_delay_minutes": delay,
        "air_time_minutes": None if delay is None else 300,
        "distance_miles": 2475,
        "cancelled": delay is None,
        "diverted": False,
        "plane_known": True,
        "dest_known": True,
    } | changed


def flights(start: date, end: date, delay: int | None = 5, per_day: int = 2) -> list[dict]:
    """per_day flights for every day of [start, end); the ids depend on the day alone."""
    return [
        flight(10 * (start + timedelta(days=day)).toordinal() + number, start + timedelta(days=day), delay)
        for day in range((end - start).days)
        for number in range(per_day)
    ]


def delays(facts: list[dict]) -> list[dict]:
    """Aggregate rows of facts that are all of one carrier and route."""
    rows = []
    for day, group in itertools.groupby(sorted(facts, key=lambda f: f["flight_date"]), key=lambda f: f["flight_date"]):
        group = list(group)
        late = [fact["dep_delay_minutes"] for fact in group if not fact["cancelled"]]
        mean = sum(late) / len(late) if late else None
        rows.append(
            {
                "flight_date": day,
                "carrier": "UA",
                "origin": "JFK",
                "dest": "LAX",
                "flights": len(group),
                "departed": len(late),
            }
            | {
                "cancelled": len(group) - len(late),
                "diverted": 0,
                "mean_dep_delay_minutes": mean,
                "mean_arr_delay_minutes": mean,
            }
        )
    return rows


class Warehouse:
    """One migrated database, its lake and the declared flights pipeline."""

    def __init__(self, server: Server, database: str) -> None:
        self._server, self.database = server, database
        self.declaration = declaration.load("flights")
        self.lake = Lake()
        self.conn = self.connect("etl_load", autocommit=False)

    def connect(self, user: str, autocommit: bool = True) -> psycopg.Connection:
        return self._server.connect(self.database, user, autocommit)

    def close(self) -> None:
        self.conn.close()
        with self._server.connect("postgres", "postgres") as conn:
            conn.execute(f"drop database {self.database} with (force)")

    def rows(self, query: str, user: str = "etl_owner") -> list[tuple]:
        with self.connect(user) as conn:
            return conn.execute(query).fetchall()

    def run(self, run_id: str, start: str, end: str, attempt: int = 1) -> ledger.Run:
        return ledger.Run(run_id, f"manual__{run_id}", "flights", "release1", attempt, start, end)

    def prepare(
        self, run: ledger.Run, facts: list[dict], dims: dict[str, list[dict]] | None = None, aggregates=None
    ) -> None:
        """What comes before the load: curated Parquet, and in the ledger the manifests and the stages' counts."""
        tables = {
            "fact_flight": facts,
            "agg_delay_day": delays(facts) if aggregates is None else aggregates,
            "dim_airline": [{"carrier": "UA", "name": 'United, "Air" Lines'}],
            "dim_airport": [
                {
                    "faa": "LAX",
                    "name": "Los Angeles",
                    "lat": 33.94,
                    "lon": -118.4,
                    "alt_ft": 126,
                    "tz_offset_hours": -8.0,
                    "known": True,
                },
                {"faa": "JFK", "name": "", "known": True},
            ],
            "dim_plane": [{"tailnum": "N1", "year": 1999, "known": True}],
        } | (dims or {})
        ledger.start_run(self.conn, run)
        asked = [s for s in self.declaration.sources.values() if s.overlap(run.interval_from, run.interval_to)]
        for source in asked:
            rows = len(facts) if source.dataset == "flights" else None
            ledger.record_extract(self.conn, run, manifest(run, source, rows))
        names = {source.dataset: source.name for source in asked}
        read = dict.fromkeys(names.values(), 0) | {
            names[table.source]: sum(row.get("known", True) for row in tables[table.name])
            for table in self.declaration.publish.values()
            if table.source in names
        }
        for source, rows in read.items():
            ledger.record_count(self.conn, run, source, Count(rows, "the test"))
        clean = {f"clean_{name}": {"rows_in": rows, "rows_out": rows} for name, rows in read.items()}
        clean["clean_flights_files"]["rejected"] = {"carrier_missing": 0}
        ledger.record_stage(self.conn, run, {"stage": "clean", "datasets": clean, "seconds": 1.5})
        written = {}
        for name, rows in tables.items():
            prefix = f"{name}/dt={run.interval_from:%Y-%m-%d}/run_id={run.run_id}/attempt=3"
            self.lake.put(prefix, rows, SCHEMAS[name])
            written[name] = {"rows_in": len(rows), "rows_out": len(rows), "prefix": f"s3a://curated/{prefix}"}
        ledger.record_stage(self.conn, run, {"stage": "enrich", "datasets": written, "seconds": 2})


def manifest(run: ledger.Run, source: declaration.Source, rows: int | None) -> dict:
    """A sealed manifest of one file in the form of _manifest.json, numbers as text."""
    return {
        "run_id": run.run_id,
        "attempt": "1",
        "pipeline": run.pipeline,
        "source": source.connection,
        "dataset": source.name,
        "from": str(run.interval_from),
        "to": str(run.interval_to),
        "format": source.format,
        "flow_version": "1",
        "extracted_at": "2026-01-01T00:00:00Z",
        "files": [
            {"key": "x/part-00000", "rows": None if rows is None else str(rows), "bytes": "10", "sha256": "0" * 64}
        ],
    }
