"""Small files of a dataset in curated, rewritten as few: what retention does with prefixes that have more than `files` files.

A sealed prefix is never changed: the files are rewritten under the next attempt's number, that prefix is sealed, and then the ledger
names it in place of the former one, which retention removes as it does any attempt that another took the place of. Killed at any
point, one of the two prefixes is whole and named.
"""

from __future__ import annotations

import tempfile
from typing import Any

import psycopg
import pyarrow.parquet as parquet

from jobs.load import journal
from jobs.load.staging import objects, parquet_files

FILE_BYTES = 256 * 1024 * 1024  # a file that has as much is followed by another


def compact(conn: psycopg.Connection, s3: Any, bucket: str, run_id: str, prefix: str, attempt: int) -> str:
    """Rewrite the Parquet files under `prefix` (…/attempt=<n>) as few under `attempt`, which is free, and have the ledger name that.

    Returns the new prefix. Memory stays at one row group. Raises RuntimeError when the ledger no longer names `prefix`.
    """
    place = f"{prefix.rpartition('/attempt=')[0]}/attempt={attempt}"
    rows = _rewrite(s3, bucket, objects(s3, bucket, f"{prefix}/"), place)
    found = _rows(s3, bucket, place)
    if found != rows:
        raise RuntimeError(f"s3://{bucket}/{place} has {found} rows, s3://{bucket}/{prefix} has {rows}")
    s3.put_object(Bucket=bucket, Key=f"{place}/_SUCCESS", Body=b"")
    with conn.transaction():
        changed = conn.execute(
            "update etl.run_stage set prefix = left(prefix, length(prefix) - length(%(old)s)) || %(new)s"
            " where run_id = %(run_id)s and right(prefix, length(%(old)s)) = %(old)s",
            {"run_id": run_id, "old": prefix, "new": place},
        ).rowcount
        if not changed:
            raise RuntimeError(f"run {run_id} no longer reads s3://{bucket}/{prefix}")
    # What a restore of the warehouse publishes again is read from where the journal says.
    journal.enter(conn, s3, bucket, run_id)
    return place


def _rewrite(s3: Any, bucket: str, sizes: dict[str, int], place: str) -> int:
    rows = written = number = 0
    with tempfile.TemporaryDirectory(prefix="compaction-") as directory:
        path, writer = f"{directory}/part", None

        def put() -> None:
            writer.close()
            s3.upload_file(path, bucket, f"{place}/part-{number:05}.parquet")

        for key, source in parquet_files(s3, bucket, sizes):
            for group in range(source.num_row_groups):
                if writer is None:
                    writer = parquet.ParquetWriter(path, source.schema_arrow, compression="snappy")
                content = source.read_row_group(group)
                writer.write_table(content)
                rows += content.num_rows
            written += sizes[key]
            if writer and written >= FILE_BYTES:
                put()
                writer, written, number = None, 0, number + 1
        if writer:
            put()
    return rows


def _rows(s3: Any, bucket: str, prefix: str) -> int:
    files = parquet_files(s3, bucket, objects(s3, bucket, f"{prefix}/"))
    return sum(file.metadata.num_rows for _, file in files)
