"""Rejected rows get back what the source delivered: the bytes of their record, looked up by its place in the raw file."""

from __future__ import annotations

import base64
import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs.extract.records import SPANS, spans

UNREADABLE = "_unreadable"
TEXT, BASE64, RECORD = "text", "base64", "record"


def attach(rejected: DataFrame, kind: str, paths: list[str]) -> DataFrame:
    """Add `original` and `original_is` to rejected rows of a source in format `kind`, which came from the files `paths`.

    original_is: `text`, the record as the file has it; `base64`, the same where it is no UTF-8; `record`, the fields as JSON:
    all that there is of a row of a binary format (avro, parquet), and of a record whose bytes cannot be told from the file.
    A file with rejected rows is read whole, by one task.
    """
    schema = f"{', '.join(f'{name} {of}' for name, of in rejected.dtypes)}, original string, original_is string"
    if kind not in SPANS:
        return rejected.withColumn("original", F.col("source_row")).withColumn("original_is", F.lit(RECORD))
    wanted = {_name(row[0]) for row in rejected.select("source_file").distinct().collect()}
    files = rejected.sparkSession.read.format("binaryFile").load([path for path in paths if _name(path) in wanted])
    contents = files.select("path", "content").rdd.map(lambda row: (_name(row[0]), bytes(row[1])))
    rows = rejected.rdd.map(lambda row: (_name(row["source_file"]), row))
    return rejected.sparkSession.createDataFrame(contents.cogroup(rows).flatMap(partial(_of_file, kind)), schema)


def _name(path: str) -> str:
    """The name of a raw file in its directory, however the URL is written; the files of a manifest share one directory."""
    return unquote(path).rpartition("/")[2]


def _of_file(kind: str, pair: tuple[str, tuple[Iterable[bytes], Iterable[Row]]]) -> Iterator[tuple]:
    name, (contents, rows) = pair
    records = list(_records(kind, name, next(iter(contents))))
    for row in rows:
        yield (*row, *original(kind, records, row["source_record"], json.loads(row["source_row"])))


def _records(kind: str, name: str, content: bytes) -> Iterator[bytes]:
    content = gzip.decompress(content) if name.endswith(".gz") else content
    return (content[start:end] for start, end in spans(kind, content))


def original(kind: str, records: list[bytes], number: int, fields: dict[str, Any]) -> tuple[str, str]:
    """(text, what it is) of record `number`, from 1, if that is the record from which `fields` were read."""
    record = records[number - 1] if number <= len(records) else b""
    if not (_is_csv if kind == "csv" else _is_json)(record, fields):
        # The reader saw other records than the file seems to have: what it kept of this one is all that is certain.
        kept = fields.get(UNREADABLE)
        return (kept, TEXT) if kept else (json.dumps(fields, ensure_ascii=False), RECORD)
    try:
        return record.decode(), TEXT
    except UnicodeDecodeError:
        return base64.b64encode(record).decode(), BASE64


def _is_csv(record: bytes, fields: dict[str, Any]) -> bool:
    csv.field_size_limit(2**31 - 1)
    found = next(csv.reader([record.decode(errors="replace")], strict=False), []) if record else []
    expected = [value for name, value in fields.items() if name != UNREADABLE]
    given = zip(found, expected, strict=False)
    return bool(found) and all(value is None or value.strip() == text.strip() for text, value in given)


def _is_json(record: bytes, fields: dict[str, Any]) -> bool:
    try:
        found = json.loads(record)
    except ValueError:
        return fields.get(UNREADABLE) == record.decode(errors="replace")
    if not isinstance(found, dict):
        return fields.get(UNREADABLE) is not None
    return all(found.get(name) == value for name, value in fields.items() if isinstance(found.get(name), str))
