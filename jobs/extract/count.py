"""How many rows a source has, asked of the source itself: past NiFi, the object store and Spark.

It is the left side of the ledger's equation (etl.v_balance): whatever is lost or doubled on the way shows against it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow.parquet as parquet

from jobs.declaration import Source
from jobs.extract.manifest import Run
from jobs.extract.records import csv_spans, json_spans


@dataclass(frozen=True)
class Count:
    """Rows of a source; `how` tells people how they were counted."""

    rows: int
    how: str


class CountError(RuntimeError):
    """A source that could not be counted; the message names it and says why."""


def of_query(connection: Any, source: Source, run: Run) -> Count:
    """Let the database count what the declared query gives for the run's interval, over a DB-API connection."""
    query = source.query.replace("%", "%%").replace("?", "%s")
    bounds = (run.interval_from, run.interval_to) if source.interval else ()
    with connection.cursor() as cursor:
        cursor.execute(f"select count(*) from ({query}) as counted", bounds)
        return Count(cursor.fetchone()[0], f"count(*) of the query in {source.connection}")


def of_files(
    open_file: Callable[[str], AbstractContextManager[BinaryIO]], source: Source, names: Iterable[str]
) -> Count:
    """Count the records of delivered files, read where they were delivered."""
    names = list(names)
    rows = 0
    for name in names:
        with open_file(name) as file:
            try:
                rows += _records(gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file, source.format)
            except (OSError, EOFError, ValueError) as error:
                raise CountError(f"{source.connection}: {name} is no readable {source.format} file: {error}") from error
    return Count(rows, f"records of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} in {source.connection}")


def _records(file: BinaryIO, kind: str) -> int:
    if kind == "parquet":
        return parquet.ParquetFile(file).metadata.num_rows
    content = file.read()
    return max(len(csv_spans(content)) - 1, 0) if kind == "csv" else len(json_spans(content))
