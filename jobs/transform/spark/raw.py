"""Raw files as rows: what columns they have, how that differs from the declared ones, and what the declaration says of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from jobs.declaration import Source
from jobs.extract.landing import period_of
from jobs.extract.records import csv_spans
from jobs.transform.spark.originals import UNREADABLE
from jobs.transform.spark.session import StageError
from jobs.transform.spark.storage import Storage

FILE, BLOCK, RECORD = ORIGIN = ("_file", "_block", "_record")
IDS_OF_A_PARTITION = 2**33 - 1
HEAD = 8192  # bytes of a file in which its header is looked for
# Spark's own reader, by class: the name "avro" asks for a further jar that adds only SQL functions.
AVRO = "org.apache.spark.sql.avro.AvroFileFormat"
JSON = ("json", "jsonl")  # a document, or one for each line
TEXT = ("csv", *JSON)
INTEGERS = ("tinyint", "smallint", "int", "bigint")
FRACTIONS = ("float", "double", "decimal")
# Types whose values are values of the declared one; whether each value fits is seen row by row.
FITTING = {
    **dict.fromkeys(INTEGERS, INTEGERS),
    **dict.fromkeys(FRACTIONS, INTEGERS + FRACTIONS),
    "timestamp": ("timestamp_ntz", "date"),
}


class DriftError(StageError):
    """The columns of a source are not the declared ones, and its declaration says stop."""


@dataclass(frozen=True)
class Drift:
    """One difference: kind is added, gone or retyped."""

    kind: str
    column: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"column {self.column}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Raw:
    """Files of one source with the same columns: their rows with ORIGIN and, of text, `_unreadable`.

    ORIGIN: `_file`; `_block`, the offset in bytes of the part of the file that was read at once (0 unless the file is large);
    `_record`, the number in that part, from 1 (of pages: the number of the page).
    """

    rows: DataFrame
    columns: dict[str, str]
    files: dict[str, str]
    drifts: tuple[Drift, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.files.values())


def read(spark: SparkSession, source: Source, files: dict[str, str]) -> list[Raw]:
    """Read the raw files {URL: name at the source}, those with the same columns together.

    Text is read as strings. Raises DriftError where the source's declaration says stop, StageError for a file that cannot be read.
    """
    found: dict[tuple, dict[str, str]] = {}
    known: dict[bytes | str, dict[str, str]] = {}
    # one query has one result: its parts are alike
    for path in files if source.kind != "sql" else list(files)[:1]:
        with reading(source, files):
            same = header_of(Storage(spark).head(path, HEAD), path, source.encoding) if source.format == "csv" else None
            if (key := same or path) not in known:
                known[key] = columns_of(spark, source, path)
        found.setdefault(tuple(known[key].items()), {})[path] = files[path]
    if source.kind == "sql":
        found = {columns: files for columns in found}
    groups = []
    for key, paths in found.items():
        columns = dict(key)
        with reading(source, paths):
            rows = _rows(spark, source, columns, list(paths))
        groups.append(Raw(rows, columns, paths, tuple(differences(source, columns))))
    for group in groups:
        for drift in group.drifts:
            enforce(source, group, drift)
    return groups


def enforce(source: Source, group: Raw, drift: Drift) -> None:
    """Print a difference. Raises DriftError when the declaration says stop."""
    policy = getattr(source.drift, drift.kind)
    message = f"{source.name} ({group}): {drift} (drift: {drift.kind} is {policy})"
    if policy == "stop":
        raise DriftError(
            f"{message}. Nothing is published. Declare the column as it is now, or set {source.dataset}.drift.{drift.kind} to "
            "accept or quarantine"
        )
    print(message, flush=True)


def columns_of(spark: SparkSession, source: Source, path: str) -> dict[str, str]:
    """Names and types of the columns that a file has; all string for text. {} for a text without rows or header."""
    if source.format == "csv":
        reader = spark.read.option("multiLine", True).option("encoding", source.encoding)
        header = reader.csv(path, escape='"').first()
        names = [(name or "").removeprefix("\ufeff") for name in header or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StageError(f"{source.name} ({path}): the header names {', '.join(twice)} more than once")
        return dict.fromkeys(names, "string")
    if source.format == "jsonl":
        keys = _lines(spark, [path]).select(F.explode(F.json_object_keys("value"))).distinct().collect()
        return dict.fromkeys(sorted(key for (key,) in keys), "string")
    if source.format == "json":
        inferred = spark.read.option("multiLine", True).option("primitivesAsString", True).json(path).schema
        return {name: "string" for name in _records(source, inferred) if name != "_corrupt_record"}
    reader = spark.read.parquet(path) if source.format == "parquet" else spark.read.format(AVRO).load(path)
    return dict(reader.dtypes)


def header_of(head: bytes, path: str, encoding: str) -> bytes | None:
    """All bytes of a CSV up to the end of its header, from its first HEAD bytes; None when they do not tell where that is.

    Files that have these in common have the same columns: Spark, for which looking into a file is two jobs, is asked once.
    """
    whole = len(head) < HEAD
    try:
        if '",\n'.encode(encoding) != b'",\n':
            return None
        if path.endswith(".gz"):
            head = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head)
    except (LookupError, zlib.error):
        return None
    end = next((end for start, end in csv_spans(head) if head[start:end].strip()), None)
    if end is None or (end == len(head) and not whole) or head[:end].count(b'"') % 2:
        return None
    return head[:end]


def _records(source: Source, schema: StructType) -> list[str]:
    """Names of the fields of the records in a page, or in an array that is the document."""
    kind = schema
    for step in source.records.split(".") if source.records else ():
        if step not in kind.names:
            return []
        kind = kind[step].dataType
        if isinstance(kind, ArrayType):
            kind = kind.elementType
        if not isinstance(kind, StructType):
            return []
    return kind.names


def differences(source: Source, columns: dict[str, str]) -> Iterator[Drift]:
    """How the columns of a file differ from the declared ones; nothing is declared, or nothing found: no difference."""
    if not source.columns or (not columns and source.format in JSON):
        return
    for name, kind in columns.items():
        if name not in source.columns:
            yield Drift("added", name, "no such column", kind)
        elif source.format not in TEXT and not readable_as(kind, source.columns[name]):
            yield Drift("retyped", name, source.columns[name], kind)
    for name, kind in source.columns.items():
        if name not in columns:
            yield Drift("gone", name, kind, "no such column")


def readable_as(found: str, declared: str) -> bool:
    """Whether values of a type are values of the declared one; a column without any value is of every type."""
    found, declared = (kind.partition("(")[0] for kind in (found, declared))
    return found in (declared, "void", *FITTING.get(declared, ()))


def _rows(spark: SparkSession, source: Source, columns: dict[str, str], paths: list[str]) -> DataFrame:
    if source.format == "parquet":
        return _with_origin(spark.read.parquet(*paths), F.lit(0), F.col("_metadata.row_index"))
    # A partition reads one file, or one block of it (see clean_all), from its beginning to its end.
    block, record = F.col("_metadata.file_block_start"), F.monotonically_increasing_id()
    record = record.bitwiseAND(F.lit(IDS_OF_A_PARTITION))
    if source.format not in TEXT:
        return _with_origin(spark.read.format(AVRO).load(paths), block, record)
    names = list(columns) or list(source.columns)
    if source.format == "jsonl":
        return objects(_with_origin(_lines(spark, paths), block, record), F.col("value"), names, [*ORIGIN])
    reader = spark.read.option("columnNameOfCorruptRecord", UNREADABLE).option("multiLine", True)
    if source.format == "csv":
        reader = reader.schema(_strings([*columns, UNREADABLE])).option("columnPruning", False)
        return _with_origin(reader.csv(paths, header=True, escape='"', encoding=source.encoding), block, record)
    if not source.records:
        return _with_origin(reader.schema(_strings([*names, UNREADABLE])).json(paths), block, record)
    page = ArrayType(_strings(names))
    for step in reversed(source.records.split(".")):
        page = StructType([StructField(step, page)])
    pages = _with_origin(reader.schema(page).json(paths), block, record)
    return pages.select(F.explode(source.records).alias("_row"), *ORIGIN).select("_row.*", *ORIGIN)


def _lines(spark: SparkSession, paths: list[str]) -> DataFrame:
    """The lines that are not blank, as the counts at the source see them."""
    return spark.read.text(paths).where(F.col("value").rlike(r"\S"))


def objects(lines: DataFrame, text: Column, names: list[str], kept: list[str]) -> DataFrame:
    """The fields of the JSON object that `text` is, as strings, `_unreadable`: the text, where it is anything but one object, and
    the columns `kept`.

    Spark would take an array for as many rows as it has objects, and leave out what follows the first object.
    """
    text = F.make_valid_utf8(text)
    # a step of its own, which parses each text once
    found = F.from_json(F.concat(F.lit("["), text, F.lit("]")), ArrayType(_strings(names)))
    parsed = lines.select(text.alias("_text"), found.alias("_found"), *kept)
    first = F.get("_found", F.lit(0))
    one = (F.size("_found") == 1) & first.isNotNull() & F.rtrim("_text", F.lit(" \t")).endswith("}")
    fields = [F.when(one, first[name]).alias(name) for name in names]
    return parsed.select(*fields, F.when(~F.coalesce(one, F.lit(False)), F.col("_text")).alias(UNREADABLE), *kept)


def _with_origin(rows: DataFrame, block: Column, record: Column) -> DataFrame:
    return rows.withColumns(
        {FILE: F.col("_metadata.file_path"), BLOCK: block.cast("bigint"), RECORD: (record + 1).cast("bigint")}
    )


def quoted(names: Iterable[str]) -> list[str]:
    """Columns whose names may have any letters in them, as Spark SQL: what is not declared is called as its source likes."""
    return [f"`{name.replace('`', '``')}`" for name in names]


def _strings(names: list[str]) -> StructType:
    return StructType([StructField(name, StringType()) for name in names])


def within(raw: Raw, source: Source, start: datetime, end: datetime) -> DataFrame:
    """The rows of files that belong to a run over [start, end), with `_period`: false where a row is not of its file's period.

    A row belongs to the run of its interval column; one without a value there, or outside its file's period, to any.
    """
    if source.interval is None or source.interval not in raw.columns or source.kind not in ("sftp", "directory"):
        return raw.rows
    start, end = source.overlap(start, end)
    moment = F.expr(f"try_cast(`{source.interval}` as timestamp)")
    rows = raw.rows
    inside = F.lit(True)
    for path, name in raw.files.items():
        if period := period_of(name, source, start, end):
            object_name = F.element_at(F.split(FILE, "/"), -1)
            inside = F.when(object_name == path.rpartition("/")[2], _between(moment, *period)).otherwise(inside)
    belongs = moment.isNull() | ~inside | _between(moment, start, end)
    return rows.withColumn("_period", F.coalesce(inside, F.lit(True))).where(belongs)


def _between(moment, start: datetime, end: datetime):
    return (moment >= F.lit(f"{start:%Y-%m-%d %H:%M:%S}").cast("timestamp")) & (
        moment < F.lit(f"{end:%Y-%m-%d %H:%M:%S}").cast("timestamp")
    )


@contextmanager
def reading(source: Source, files: dict[str, str]) -> Iterator[None]:
    """Say which file of which source it was that Spark could not read."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        text = str(error)
        named = [f"{name} ({path})" for path, name in files.items() if path.rpartition("/")[2] in text]
        causes = re.findall(r"Caused by: [\w.$]+(?:Exception|Error): (.+)", text)
        raise StageError(
            f"{source.name}: {', '.join(named) or ', '.join(files.values())} cannot be read: "
            f"{(causes or text.strip().splitlines())[-1 if causes else 0]}. Nothing is published; let the source deliver it again"
        ) from error
