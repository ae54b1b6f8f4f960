"""Curated Parquet from the object store into staging tables, by COPY.

Files are read by row groups over ranged requests: memory stays at one row group, whatever the size of a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
from psycopg import sql

from jobs.load.ledger import Run
from jobs.load.statements import LINEAGE, columns, columns_of, require_idle, staged_name, statement, table

BATCH_ROWS = 65_536
READ_AHEAD = 4 * 1024 * 1024


class StagingError(RuntimeError):
    """Curated data that cannot be loaded; the message names the place and what is wrong."""


class S3File(io.RawIOBase):
    """One object as a seekable, read-only file: every read is a ranged GET."""

    def __init__(self, s3: Any, bucket: str, key: str, size: int) -> None:
        self._s3, self._bucket, self._key, self._size, self._at = s3, bucket, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        answer = self._s3.get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-{end - 1}")
        content = answer["Body"].read()
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def objects(s3: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Sizes of the objects under a prefix, by key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}


def parquet_files(s3: Any, bucket: str, sizes: Mapping[str, int]) -> Iterator[tuple[str, parquet.ParquetFile]]:
    """Those of the objects that are Parquet files with content: key and file, open until the next one is asked for."""
    for key, size in sizes.items():
        if key.endswith(".parquet") and size:
            with io.BufferedReader(S3File(s3, bucket, key, size), READ_AHEAD) as file:
                yield key, parquet.ParquetFile(file)


def load(
    conn: psycopg.Connection,
    s3: Any,
    declaration: Any,
    run: Run,
    attempt: int | Mapping[str, int],
    *,
    bucket: str = "curated",
) -> dict[str, int]:
    """Copy every table that the declaration publishes into staging.<table>__<hash of the run>; returns rows per table.

    A table is read from the prefix that its stage recorded in the ledger; where a stage recorded none, from the contract's prefix
    of `attempt` (one for all tables, or one for each). A staging table that is there is made anew, and what audits said of the
    former rows is forgotten. Raises StagingError when a prefix is not complete (_SUCCESS) or its columns are not those of the
    published table.
    """
    require_idle(conn)
    with conn.transaction():
        conn.execute("delete from etl.audit_result where run_id = %s", (run.run_id,))
        recorded = dict(
            conn.execute(
                "select distinct on (dataset) dataset, prefix from etl.run_stage"
                " where run_id = %s and prefix is not null order by dataset, recorded_at desc",
                (run.run_id,),
            ).fetchall()
        )
    rows = {}
    for name in declaration.publish:
        number = attempt if isinstance(attempt, int) else attempt.get(name)
        default = f"s3://{bucket}/{name}/dt={run.interval_from:%Y-%m-%d}/run_id={run.run_id}/attempt={number}"
        rows[name] = _load_table(conn, s3, recorded.get(name, default), name, run)
    return rows


def drop(conn: psycopg.Connection, declaration: Any, run: Run) -> None:
    """Drop the run's staging tables, where they are."""
    for name in (*declaration.publish, *(f"base_{name}" for name in declaration.publish)):
        conn.execute(sql.SQL("drop table if exists {}").format(table("staging", staged_name(name, run.run_id))))


def _load_table(conn: psycopg.Connection, s3: Any, place: str, name: str, run: Run) -> int:
    bucket, _, prefix = place.partition("://")[2].rstrip("/").partition("/")
    sizes = objects(s3, bucket, f"{prefix}/")
    if f"{prefix}/_SUCCESS" not in sizes:
        raise StagingError(f"s3://{bucket}/{prefix} is not complete: it has no _SUCCESS")
    staged = table("staging", staged_name(name, run.run_id))
    rows = 0
    with conn.transaction(), conn.cursor() as cursor:
        wanted = [column for column in columns_of(conn, "dwh", name) if column not in LINEAGE]
        if not wanted:
            raise StagingError(f"there is no table dwh.{name}: add a migration for it")
        # Some writers store moments without their zone; they are UTC.
        cursor.execute("set local timezone = 'UTC'")
        cursor.execute("set local client_min_messages = 'warning'")
        cursor.execute(sql.SQL("drop table if exists {}").format(staged))
        cursor.execute(statement("create_staged", staged=staged, target=table("dwh", name)))
        cursor.execute(statement("stamp_staged", staged=staged, run_id=run.run_id, release=run.release))
        for key, source in parquet_files(s3, bucket, sizes):
            _same_columns(f"s3://{bucket}/{key}", source.schema_arrow.names, wanted)
            rows += copy(cursor, staged, source)
        cursor.execute(sql.SQL("analyze {}").format(staged))
    return rows


def copy(cursor: psycopg.Cursor, target: sql.Composable, source: parquet.ParquetFile) -> int:
    """Copy the rows of a file into a table that has its columns; returns how many they are."""
    rows = 0
    with cursor.copy(statement("copy_staged", staged=target, columns=columns(source.schema_arrow.names))) as stream:
        for batch in source.iter_batches(BATCH_ROWS):
            stream.write(_csv(batch))
            rows += batch.num_rows
    return rows


def _same_columns(place: str, found: list[str], wanted: list[str]) -> None:
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unexpected:
        raise StagingError(
            f"{place}: columns missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
        )


def _csv(batch: pa.RecordBatch) -> memoryview:
    """CSV as COPY reads it: a null is empty, an empty text is quoted."""
    out = io.BytesIO()
    csv.write_csv(batch, out, csv.WriteOptions(include_header=False))
    return out.getbuffer()
