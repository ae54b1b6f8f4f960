"""Stage clean: raw objects, as listed by sealed manifests, become typed rows; rows that break a rule go to quarantine.

spark-submit clean_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
--manifest flights=s3a://raw/…/_manifest.json --manifest planes=…
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.declaration import Source, load
from jobs.transform.spark.hooks import hooked
from jobs.transform.spark.originals import BASE64, UNREADABLE, attach
from jobs.transform.spark.originals import RECORD as RECORD_OF
from jobs.transform.spark.session import Run, Stage, StageError, arguments, submit
from jobs.transform.spark.storage import Storage

FILE, BLOCK, RECORD = ORIGIN = ("_file", "_block", "_record")
SUPERSEDED = "superseded"
IDS_OF_A_PARTITION = 2**33 - 1
QUARANTINED = (
    "source_row string, source_file string, source_block bigint, source_record bigint, rule string, "
    "original string, original_is string"
)
# Spark's own reader, by class: the name "avro" asks for a further jar that adds only SQL functions.
AVRO = "org.apache.spark.sql.avro.AvroFileFormat"


def clean(rows: DataFrame, source: Source, newest: str | None = None) -> tuple[DataFrame, DataFrame]:
    """Split raw rows into accepted and rejected ones; every row is in exactly one of them.

    rows: the source's columns as extracted, plus where each comes from: `_file`, `_block` (offset in bytes of the part of
    the file that was read at once; 0 unless the file is large) and `_record` (number in that part, from 1), and, for text
    formats, `_unreadable` (the line that could not be parsed, else null). A row is rejected by the first that applies:
    unreadable_row, unreadable_value (a value that does not fit the type in source.columns), the source's rules in order,
    superseded. Among accepted rows with the same key the one with the greatest `newest` column stays, and of equally new
    ones the last in the order of files and records; the others are superseded: put aside and counted, but no fault.

    Returns (accepted: the source's columns, typed; rejected: source_row as JSON, source_file, source_block, source_record,
    rule, reason).
    """
    given = [name for name in rows.columns if name not in (*ORIGIN, UNREADABLE)]
    names = list(source.columns) or given
    typed = [
        F.expr(f"try_cast(`{name}` as {source.columns[name]})").alias(name) if source.columns else F.col(name)
        for name in names
    ]
    original = F.struct(*[F.col(name) for name in rows.columns if name not in ORIGIN])
    judged = rows.select(*typed, *ORIGIN, original.alias("_row"), _unfit(rows, source).alias("_fit"))
    judged = judged.withColumn("_verdict", _first_broken_rule(source))

    # A query gives equally new rows in any order: what tells them apart must not depend on it.
    last = [] if source.kind == "sql" else [F.col(name).desc() for name in ORIGIN]
    order = [
        F.col("_verdict").isNotNull(),
        *([F.col(newest).desc_nulls_last()] if newest else []),
        *last,
        F.xxhash64(*names),
    ]
    place = F.row_number().over(Window.partitionBy(*source.key).orderBy(*order))
    duplicate = F.col("_verdict").isNull() & (F.col("_place") > 1)
    judged = judged.withColumn("_place", place).withColumn(
        "_verdict",
        F.when(duplicate, _verdict(SUPERSEDED, f"A later row has the same {', '.join(source.key)}")).otherwise(
            F.col("_verdict")
        ),
    )
    accepted = judged.where(F.col("_verdict").isNull()).select(*names)
    rejected = judged.where(F.col("_verdict").isNotNull()).select(
        F.to_json("_row", {"ignoreNullFields": "false"}).alias("source_row"),
        F.col(FILE).alias("source_file"),
        F.col(BLOCK).alias("source_block"),
        F.col(RECORD).alias("source_record"),
        F.col("_verdict.rule").alias("rule"),
        F.col("_verdict.reason").alias("reason"),
    )
    return accepted, rejected


def _verdict(rule: str, reason: str | Column) -> Column:
    return F.struct(F.lit(rule).alias("rule"), (F.lit(reason) if isinstance(reason, str) else reason).alias("reason"))


def _unfit(rows: DataFrame, source: Source) -> Column:
    """The verdict on what can only be seen before the types are set, null when all is well."""
    verdicts = (
        [F.when(F.col(UNREADABLE).isNotNull(), _verdict("unreadable_row", "The row could not be parsed"))]
        if UNREADABLE in rows.columns
        else []
    )
    for name, kind in source.columns.items():
        unfit = F.expr(f"`{name}` is not null and try_cast(`{name}` as {kind}) is null")
        verdicts.append(F.when(unfit, _verdict("unreadable_value", f"{name} is not a valid {kind}")))
    return F.coalesce(*verdicts, F.lit(None))


def _first_broken_rule(source: Source) -> Column:
    return F.coalesce(
        F.col("_fit"), *[F.when(F.expr(rule.reject_if), _verdict(rule.name, rule.reason)) for rule in source.rules]
    )


def read_manifest(storage: Storage, url: str, run: Run, source: str) -> dict:
    """Return a sealed manifest with `paths`: the URLs of its files, which lie beside it.

    Raises StageError when it belongs to another pipeline, run or source, or a file is missing or of another size.
    """
    manifest = json.loads(storage.read_text(url))
    for name, expected in {"pipeline": run.pipeline, "run_id": run.run_id, "dataset": source}.items():
        if manifest[name] != expected:
            raise StageError(f"{url}: {name} is {manifest[name]!r}, expected {expected!r}")
    directory = url.rpartition("/")[0]
    manifest["paths"] = [f"{directory}/{file['key'].rpartition('/')[2]}" for file in manifest["files"]]
    sizes = {path: int(file["bytes"]) for path, file in zip(manifest["paths"], manifest["files"], strict=True)}
    present = set(storage.names(directory))
    for path, stated in sizes.items():
        if path.rpartition("/")[2] not in present:
            raise StageError(f"{path} is listed by its manifest, but is not there")
        if (found := storage.size(path)) != stated:
            raise StageError(f"{path} has {found} bytes, its manifest says {stated}")
    return manifest


def read_raw(spark: SparkSession, source: Source, paths: list[str]) -> DataFrame:
    """Read raw files into the source's columns and where each row comes from; text formats as strings, with `_unreadable`."""
    text = StructType([StructField(name, StringType()) for name in [*source.columns, UNREADABLE]])
    if source.format in ("csv", "json"):
        reader = spark.read.schema(text).option("columnNameOfCorruptRecord", UNREADABLE).option("multiLine", True)
    if source.format == "csv":
        rows = reader.option("columnPruning", False).csv(paths, header=True, enforceSchema=False, escape='"')
    elif source.format == "json":
        rows = reader.json(paths)
    elif source.format == "parquet":
        rows = spark.read.parquet(*paths)
    else:
        rows = spark.read.format(AVRO).load(paths)
    if source.format == "parquet":
        block, record = F.lit(0), F.col("_metadata.row_index")
    else:
        # A partition reads one file, or one block of it (see clean_all), from its beginning to its end.
        block, record = F.col("_metadata.file_block_start"), F.monotonically_increasing_id()
        record = record.bitwiseAND(F.lit(IDS_OF_A_PARTITION))
    return rows.withColumns(
        {FILE: F.col("_metadata.file_path"), BLOCK: block.cast("bigint"), RECORD: (record + 1).cast("bigint")}
    )


def count(rows: DataFrame) -> int:
    """Count rows as they are parsed in full; a bare count() of a text file may skip what it does not need."""
    return rows.agg(F.count(F.lit(1)).alias("rows"), F.max(F.xxhash64(*rows.columns))).first()["rows"]


def clean_source(stage: Stage, source: Source, url: str) -> None:
    """Clean one source's rows and account for every one of them."""
    manifest = read_manifest(stage.storage, url, stage.run, source.name)
    if not manifest["paths"]:
        raise StageError(f"{url} lists no files: an empty extract still has one part, with its columns")
    with stage.doing(f"{source.name}, look at the files"):
        rows = hooked(stage, f"clean_{source.name}", read_raw(stage.spark, source, manifest["paths"]))
    stated = [file.get("rows") for file in manifest["files"]]
    if None in stated:
        with stage.doing(f"{source.name}, count the rows of the files"):
            rows_in = count(rows)
    else:
        rows_in = sum(map(int, stated))
    accepted, rejected = clean(rows, source, newest="updated_at" if "updated_at" in rows.columns else None)
    rows_out = stage.write(f"clean_{source.name}", accepted)
    put_aside = {}
    if rows_out != rows_in:
        put_aside = stage.put_aside(source.name, attach(rejected, source.format, manifest["paths"]))
    stage.account(f"clean_{source.name}", rows_in, rows_out, put_aside)


def clean_all(stage: Stage) -> None:
    """Clean every source of the run's pipeline."""
    if stage.run.replay:
        replay_all(stage)
        return
    # Opening a file costs as much as a partition may hold: no partition reads two, so that a row's number is its place.
    stage.spark.conf.set("spark.sql.files.openCostInBytes", stage.spark.conf.get("spark.sql.files.maxPartitionBytes"))
    sources = load(stage.run.pipeline).sources
    if unmatched := set(sources) ^ set(stage.run.manifests):
        raise StageError(
            f"sources of {stage.run.pipeline} and --manifest do not agree about: {', '.join(sorted(unmatched))}"
        )
    stage.together(partial(clean_source, stage, source, stage.run.manifests[name]) for name, source in sources.items())


def replay_all(stage: Stage) -> None:
    """Clean quarantined rows, as the document of a replay lists them; sources without any are there to be joined with."""
    document = json.loads(stage.storage.read_text(stage.run.replay))
    if (document["pipeline"], document["run_id"]) != (stage.run.pipeline, stage.run.run_id):
        raise StageError(f"{stage.run.replay} is of run {document['run_id']} of {document['pipeline']}")
    sources = load(stage.run.pipeline).sources
    stage.together(
        partial(replay_source if "entries" in given else refer_to, stage, sources[name], given)
        for name, given in document["sources"].items()
    )


def refer_to(stage: Stage, source: Source, given: dict) -> None:
    """Clean what the runs had extracted of a source, only to join with it: nothing of it is counted or published."""
    with stage.doing(f"{source.name}, look at the files"):
        rows = hooked(
            stage, f"clean_{source.name}", read_raw(stage.spark, source, _paths(stage, given["sealed"], source))
        )
    accepted, _ = clean(rows, source, newest="updated_at" if "updated_at" in rows.columns else None)
    rows_out = stage.write(f"clean_{source.name}", accepted)
    stage.note(f"clean_{source.name}", rows_out, rows_out, reference=True)


def replay_source(stage: Stage, source: Source, given: dict) -> None:
    """Clean quarantined rows of one source, and account for every one of them; what is rejected again keeps its original."""
    kept = None
    for entry in given["entries"]:
        rows = read_quarantined(stage, source, entry)
        kept = rows if kept is None else kept.unionByName(rows)
    originals = ("original", "original_is")
    rows = hooked(stage, f"clean_{source.name}", kept.drop(*originals))
    accepted, rejected = clean(rows, source, newest="updated_at" if "updated_at" in rows.columns else None)
    rows_out = stage.write(f"clean_{source.name}", accepted)
    put_aside = {}
    if rows_out != given["rows"]:
        place = {FILE: "source_file", BLOCK: "source_block", RECORD: "source_record"}
        kept = kept.select(*[F.col(mine).alias(name) for mine, name in place.items()], *originals)
        put_aside = stage.put_aside(source.name, rejected.join(kept, list(place.values()), "left"))
    stage.account(f"clean_{source.name}", given["rows"], rows_out, put_aside)


def read_quarantined(stage: Stage, source: Source, entry: dict) -> DataFrame:
    """Read quarantined rows as if from their raw files: parsed anew from the original, or by the types of the raw files."""
    lines = stage.spark.read.schema(QUARANTINED).json(entry["prefix"]).where(F.col("rule").isin(entry["rules"]))
    if source.format in ("csv", "json"):
        columns = ", ".join(f"`{name}` string" for name in [*source.columns, UNREADABLE])
        options = {"columnNameOfCorruptRecord": UNREADABLE, "mode": "PERMISSIVE"}
        text = F.expr(f"if(original_is = '{BASE64}', make_valid_utf8(cast(unbase64(original) as string)), original)")
        parsed = (
            F.from_csv(text, columns, {**options, "escape": '"', "multiLine": "true"})
            if source.format == "csv"
            else F.from_json(text, columns, options)
        )
        row = F.when(F.col("original_is") == RECORD_OF, F.from_json("source_row", columns)).otherwise(parsed)
    else:
        raw = read_raw(stage.spark, source, _paths(stage, [entry["like"]], source))
        row = F.from_json("source_row", raw.drop(*ORIGIN).schema)
    place = [F.col(f"source{name}").alias(name) for name in ORIGIN]
    return lines.select(row.alias("row"), *place, "original", "original_is").select(
        "row.*", *ORIGIN, "original", "original_is"
    )


def _paths(stage: Stage, urls: list[str], source: Source) -> list[str]:
    """The files of sealed manifests of other runs."""
    paths = []
    for url in urls:
        run = replace(stage.run, run_id=json.loads(stage.storage.read_text(url))["run_id"])
        paths += read_manifest(stage.storage, url, run, source.name)["paths"]
    return paths


if __name__ == "__main__":
    submit("clean_data", arguments(sys.argv[1:], manifests=True), clean_all)
