"""Stage clean: raw objects, as listed by sealed manifests, become typed rows; rows that break a rule go to quarantine.

spark-submit clean_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
--manifest flights=s3a://raw/…/_manifest.json --manifest planes=…
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.declaration import Source, load
from jobs.extract.landing import period_of
from jobs.transform.spark import raw
from jobs.transform.spark.hooks import hooked
from jobs.transform.spark.originals import BASE64, UNREADABLE, attach
from jobs.transform.spark.originals import RECORD as RECORD_OF
from jobs.transform.spark.raw import BLOCK, FILE, ORIGIN, RECORD, Raw
from jobs.transform.spark.session import Run, Stage, StageError, arguments, submit
from jobs.transform.spark.storage import Storage

SUPERSEDED, PERIOD = "superseded", "_period"
MOST_CHARACTERS = 1_000_000  # of one value of a text file
KEPT = ("_original", "_original_is")  # what a quarantined row keeps with it when it is taken up again
QUARANTINED = (
    "source_row string, source_file string, source_block bigint, source_record bigint, rule string, "
    "original string, original_is string"
)


def clean(
    rows: DataFrame | list[tuple[DataFrame, Column | None]], source: Source, newest: str | None = None
) -> tuple[DataFrame, DataFrame]:
    """Split raw rows into accepted and rejected ones; every row is in exactly one of them.

    rows: the source's columns as extracted, plus where each comes from (raw.ORIGIN) and, for text formats, `_unreadable` (the line
    that could not be parsed, else null); or several of these, each with a verdict on all its rows (drift) or None. A row is
    rejected by the first that applies: drift, unreadable_row, outside_period, unreadable_encoding, huge_value, unreadable_value (a
    value that does not fit the type in source.columns), the source's rules in order, key_missing, superseded. Among accepted rows with
    the same key the one with the greatest `newest` column stays, and of equally new ones the last in the order of files and records; the
    others are superseded: put aside and counted, but no fault.

    Returns (accepted: the source's columns, typed; rejected: source_row as JSON, source_file, source_block, source_record,
    rule, reason, and KEPT of rows that have it).
    """
    groups = rows if isinstance(rows, list) else [(rows, None)]
    judged = reduce(DataFrame.unionByName, [_judge(rows, source, verdict) for rows, verdict in groups])
    names = [name for name in judged.columns if name not in (*ORIGIN, *KEPT, "_row", "_fit")]
    judged = judged.withColumn("_verdict", _first_broken_rule(source))

    # A query gives equally new rows in any order: what tells them apart must not depend on it.
    last = [] if source.kind == "sql" else [F.col(name).desc() for name in ORIGIN]
    order = [
        F.col("_verdict").isNotNull(),
        *([F.col(newest).desc_nulls_last()] if newest else []),
        *last,
        F.xxhash64(*raw.quoted(names)),
    ]
    place = F.row_number().over(Window.partitionBy(*source.key).orderBy(*order))
    duplicate = F.col("_verdict").isNull() & (F.col("_place") > 1)
    judged = judged.withColumn("_place", place).withColumn(
        "_verdict",
        F.when(duplicate, _verdict(SUPERSEDED, f"A later row has the same {', '.join(source.key)}")).otherwise(
            F.col("_verdict")
        ),
    )
    accepted = judged.where(F.col("_verdict").isNull()).select(*raw.quoted(names))
    rejected = judged.where(F.col("_verdict").isNotNull()).select(
        F.col("_row").alias("source_row"),
        F.col(FILE).alias("source_file"),
        F.col(BLOCK).alias("source_block"),
        F.col(RECORD).alias("source_record"),
        F.col("_verdict.rule").alias("rule"),
        F.col("_verdict.reason").alias("reason"),
        *_kept(judged),
    )
    return accepted, rejected


def _kept(rows: DataFrame) -> list[str]:
    return [name for name in KEPT if name in rows.columns]


def _judge(rows: DataFrame, source: Source, verdict: Column | None) -> DataFrame:
    """The declared columns, typed, with their origin, `_row` (the original as JSON) and `_fit` (null when all is well so far)."""
    given = [name for name in rows.columns if name not in (*ORIGIN, *_kept(rows), UNREADABLE, PERIOD)]
    typed = [
        F.expr(f"try_cast(`{name}` as {kind})" if name in given else f"cast(null as {kind})").alias(name)
        for name, kind in source.columns.items()
    ] or raw.quoted(given)
    original = F.struct(*raw.quoted(name for name in rows.columns if name not in (*ORIGIN, *_kept(rows), PERIOD)))
    fit = _unfit(rows, source) if verdict is None else verdict
    row = F.to_json(original, {"ignoreNullFields": "false"})
    return rows.select(*typed, *ORIGIN, *_kept(rows), row.alias("_row"), fit.alias("_fit"))


def _verdict(rule: str, reason: str | Column) -> Column:
    return F.struct(F.lit(rule).alias("rule"), (F.lit(reason) if isinstance(reason, str) else reason).alias("reason"))


def _unfit(rows: DataFrame, source: Source) -> Column:
    """The verdict on what can only be seen before the types are set, null when all is well."""
    verdicts = []
    if UNREADABLE in rows.columns:
        verdicts.append(
            F.when(F.col(UNREADABLE).isNotNull(), _verdict("unreadable_row", "The row could not be parsed"))
        )
    if PERIOD in rows.columns:
        what = f"{source.interval} is outside the time that the name of the file says"
        verdicts.append(F.when(~F.col(PERIOD), _verdict("outside_period", what)))
    names = [name for name in source.columns if name in rows.columns]
    if source.format in raw.TEXT:
        for name in names:
            # what a reader puts in the place of bytes that are no character
            undecoded = F.col(name).contains("\ufffd")
            verdicts.append(F.when(undecoded, _verdict("unreadable_encoding", f"{name} is not {source.encoding}")))
            huge = F.length(name) > MOST_CHARACTERS
            verdicts.append(
                F.when(huge, _verdict("huge_value", f"{name} has more than {MOST_CHARACTERS:,} characters"))
            )
    for name in names:
        kind = source.columns[name]
        if kind == "string":
            no_text = f"{name} has the character NUL, which no text of PostgreSQL has"
            nul = F.col(name).cast("string").contains("\0")
            verdicts.append(F.when(nul, _verdict("unreadable_value", no_text)))
        unfit = F.expr(f"`{name}` is not null and try_cast(`{name}` as {kind}) is null")
        verdicts.append(F.when(unfit, _verdict("unreadable_value", f"{name} is not a valid {kind}")))
    return F.coalesce(*verdicts, F.lit(None))


def _drifted(source: Source, group: Raw) -> Column | None:
    """The verdict on all rows of files whose columns the declaration does not want, None when it takes them."""
    unwanted = [drift for drift in group.drifts if getattr(source.drift, drift.kind) == "quarantine"]
    return _verdict(f"drift_{unwanted[0].kind}", "; ".join(map(str, unwanted))) if unwanted else None


def _first_broken_rule(source: Source) -> Column:
    # Nulls are nobody's key: as equals of each other all but one of them would be superseded.
    no_key = F.expr(" or ".join(f"{name} is null" for name in raw.quoted(source.key)))
    return F.coalesce(
        F.col("_fit"),
        *[F.when(F.expr(rule.reject_if), _verdict(rule.name, rule.reason)) for rule in source.rules],
        F.when(no_key, _verdict("key_missing", f"A row needs {', '.join(source.key)}")),
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
    manifest["paths"] = {
        f"{directory}/{file['key'].rpartition('/')[2]}": file.get("name") or file["key"].rpartition("/")[2]
        for file in manifest["files"]
    }
    sizes = {path: int(file["bytes"]) for path, file in zip(manifest["paths"], manifest["files"], strict=True)}
    present = set(storage.names(directory))
    for path, stated in sizes.items():
        if path.rpartition("/")[2] not in present:
            raise StageError(f"{path} is listed by its manifest, but is not there")
        if (found := storage.size(path)) != stated:
            raise StageError(f"{path} has {found} bytes, its manifest says {stated}")
    return manifest


def delivered_twice(source: Source, manifest: dict, run: Run) -> dict[str, str]:
    """{URL of a file: URL of the file before it that has the same content}; parts of a query or of pages are no such files.

    One that is named for another time than the file before is not it once more: its rows are outside of its period.
    """
    if source.files is None:
        return {}
    bounds = source.overlap(run.start, run.end)
    first: dict[tuple, str] = {}
    twice = {}
    for (path, name), file in zip(manifest["paths"].items(), manifest["files"], strict=True):
        period = period_of(name, source, *bounds) if source.interval else None
        if (twin := first.setdefault((file["sha256"], period), path)) != path:
            twice[path] = twin
    return twice


def count(rows: DataFrame, source: Source) -> tuple[dict[str, int], list[str]]:
    """Count the rows of each file (by name of the object) as they are parsed in full; a bare count() may skip what it does not need.

    Returns the counts, and the text columns of which no value has its declared type. Raises StageError for a document of JSON that
    is broken.
    """
    text = {name: kind for name, kind in source.columns.items() if source.format in raw.TEXT and name in rows.columns}
    found = rows.groupBy(F.element_at(F.split(FILE, "/"), -1).alias("object")).agg(
        F.count(F.lit(1)).alias("rows"),
        F.max(F.xxhash64(*raw.quoted(rows.columns))),
        F.count(UNREADABLE if UNREADABLE in rows.columns else F.lit(None)).alias("unreadable"),
        *[F.count(name).alias(f"{name} given") for name in text],
        *[F.count(F.expr(f"try_cast(`{name}` as {kind})")).alias(f"{name} fit") for name, kind in text.items()],
    )
    counted = found.collect()
    if source.format == "json" and (broken := [row["object"] for row in counted if row["unreadable"]]):
        raise StageError(f"{', '.join(broken)} is not JSON from beginning to end")
    retyped = [
        name
        for name in text
        if sum(row[f"{name} given"] for row in counted) and not sum(row[f"{name} fit"] for row in counted)
    ]
    return {row["object"]: row["rows"] for row in counted}, retyped


def clean_source(stage: Stage, source: Source, url: str) -> None:
    """Clean one source's rows and account for every one of them."""
    manifest = read_manifest(stage.storage, url, stage.run, source.name)
    if not manifest["paths"]:
        raise StageError(f"{url} lists no files: an empty extract still has one part, with its columns")
    twice = delivered_twice(source, manifest, stage.run)
    files = {path: name for path, name in manifest["paths"].items() if path not in twice}
    with stage.doing(f"{source.name}, look at the files"):
        groups = raw.read(stage.spark, source, files)
    stated = [file.get("rows") for file in manifest["files"]]
    counts: dict[str, int] = {}
    judged = []
    for group in groups:
        rows = hooked(stage, f"clean_{source.name}", raw.within(group, source, stage.run.start, stage.run.end))
        retyped: list[str] = []
        if None in stated or source.format in raw.TEXT:
            with stage.doing(f"{source.name}, count the rows of the files"), raw.reading(source, group.files):
                counted, retyped = count(rows, source)
            counts |= counted
        drifts = [raw.Drift("retyped", name, source.columns[name], "no such value") for name in retyped]
        for drift in drifts:
            raw.enforce(source, group, drift)
        judged.append((rows, _drifted(source, replace(group, drifts=(*group.drifts, *drifts)))))
    rows_in = sum(counts.values()) if None in stated else sum(map(int, stated))
    accepted, rejected = clean(judged, source, _newest(source, judged[0][0]))
    with raw.reading(source, files):
        rows_out = stage.write(f"clean_{source.name}", accepted)
        put_aside = {}
        if rows_out != rows_in:
            # of a page the whole is no record
            kind = "page" if source.records else source.format
            put_aside = stage.put_aside(source.name, attach(rejected, kind, list(files)))
    # not read again: what one of two equal files has is superseded by what the other has
    if doubled := sum(counts.get(twin.rpartition("/")[2], 0) for twin in twice.values()):
        print(
            f"{source.name}: the same content as another file: {', '.join(manifest['paths'][path] for path in twice)}"
        )
        put_aside[SUPERSEDED] = put_aside.get(SUPERSEDED, 0) + doubled
    stage.account(f"clean_{source.name}", rows_in + doubled, rows_out, put_aside, **_feeds(source))


def clean_all(stage: Stage) -> None:
    """Clean every source of the run's pipeline that has days of the run's interval."""
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
    asked = {name: source for name, source in sources.items() if source.overlap(stage.run.start, stage.run.end)}
    if without := {source.dataset for source in sources.values()} - {source.dataset for source in asked.values()}:
        raise StageError(
            f"no source of {', '.join(sorted(without))} has days between {stage.run.start} and {stage.run.end}: see since and until"
        )
    stage.together(partial(clean_source, stage, source, stage.run.manifests[name]) for name, source in asked.items())


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
        groups = raw.read(stage.spark, source, _paths(stage, given["sealed"], source))
    judged = [(hooked(stage, f"clean_{source.name}", group.rows), _drifted(source, group)) for group in groups]
    accepted, _ = clean(judged, source, _newest(source, judged[0][0]))
    rows_out = stage.write(f"clean_{source.name}", accepted)
    stage.note(f"clean_{source.name}", rows_out, rows_out, reference=True, **_feeds(source))


def replay_source(stage: Stage, source: Source, given: dict) -> None:
    """Clean quarantined rows of one source, and account for every one of them; what is rejected again keeps its original."""
    kept = None
    for entry in given["entries"]:
        rows = read_quarantined(stage, source, entry)
        kept = rows if kept is None else kept.unionByName(rows)
    rows = hooked(stage, f"clean_{source.name}", kept)
    accepted, rejected = clean(rows, source, _newest(source, rows))
    rows_out = stage.write(f"clean_{source.name}", accepted)
    put_aside = {}
    if rows_out != given["rows"]:
        put_aside = stage.put_aside(
            source.name, rejected.withColumnsRenamed({name: name.removeprefix("_") for name in KEPT})
        )
    stage.account(f"clean_{source.name}", given["rows"], rows_out, put_aside, **_feeds(source))


def read_quarantined(stage: Stage, source: Source, entry: dict) -> DataFrame:
    """Read quarantined rows as if from their raw files: parsed anew from the original, or by the types of the raw files."""
    lines = stage.spark.read.schema(QUARANTINED).json(entry["prefix"]).where(F.col("rule").isin(entry["rules"]))
    kept = [*ORIGIN, *KEPT]
    lines = lines.withColumns({name: F.col(f"source{name}") for name in ORIGIN})
    lines = lines.withColumns({name: F.col(name.removeprefix("_")) for name in KEPT})
    text = F.expr(f"if(original_is = '{BASE64}', make_valid_utf8(cast(unbase64(original) as string)), original)")
    as_read = F.col("original_is") == RECORD_OF
    if source.format in raw.JSON:
        return raw.objects(lines, F.when(as_read, F.col("source_row")).otherwise(text), list(source.columns), kept)
    if source.format == "csv":
        # a record of CSV has the columns of its file, in their order
        like = list(_paths(stage, [entry["like"]], source))[:1] if entry.get("like") else []
        names = list(raw.columns_of(stage.spark, source, like[0])) if like else list(source.columns)
        columns = ", ".join(f"`{name}` string" for name in [*names, UNREADABLE])
        options = {"columnNameOfCorruptRecord": UNREADABLE, "mode": "PERMISSIVE", "escape": '"', "multiLine": "true"}
        row = F.when(as_read, F.from_json("source_row", columns)).otherwise(F.from_csv(text, columns, options))
    else:
        groups = raw.read(stage.spark, source, _paths(stage, [entry["like"]], source))
        row = F.from_json("source_row", groups[0].rows.drop(*ORIGIN).schema)
    return lines.select(row.alias("row"), *kept).select("row.*", *kept)


def _paths(stage: Stage, urls: list[str], source: Source) -> dict[str, str]:
    """The files of sealed manifests of other runs: {URL: name at the source}."""
    paths: dict[str, str] = {}
    for url in urls:
        run = replace(stage.run, run_id=json.loads(stage.storage.read_text(url))["run_id"])
        paths |= read_manifest(stage.storage, url, run, source.name)["paths"]
    return paths


def _newest(source: Source, rows: DataFrame) -> str | None:
    return "updated_at" if "updated_at" in (source.columns or rows.columns) else None


def _feeds(source: Source) -> dict[str, str]:
    """What a source's cleaned rows are part of, when it is not the only one of its dataset."""
    return {"feeds": f"clean_{source.dataset}"} if source.dataset != source.name else {}


if __name__ == "__main__":
    submit("clean_data", arguments(sys.argv[1:], manifests=True), clean_all)
