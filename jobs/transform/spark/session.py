"""What the three stages share: the command line, the Spark session, where things are, and the record of a stage.

A stage writes to prefixes of its own attempt only and seals them by its record, put last:
`<curated>/_stages/<run_id>/<attempt>/<stage>.json`. The next stage reads what
the run's latest record lists, nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.transform.spark.storage import Storage

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # On, JSON numbers read as strings may come back cut short from S3: a partial read of the stream is taken for a whole one.
    "spark.sql.json.enableExactStringParsing": "false",
    # Off, CSV may be in few encodings, windows-1252 not among them.
    "spark.sql.legacy.javaCharsets": "true",
    "spark.sql.debug.maxToStringFields": "200",
}
RUN_ID = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,250}")


class StageError(RuntimeError):
    """A stage that cannot go on without losing or doubling rows; the message says where and how many."""


@dataclass(frozen=True)
class Run:
    """One attempt of a stage over [start, end), bounds in the pipeline's local time."""

    pipeline: str
    run_id: str
    attempt: int
    start: datetime
    end: datetime
    manifests: dict[str, str] = field(default_factory=dict)
    replay: str | None = None
    base: str | None = None

    def path(self, dataset: str) -> str:
        """Return the key prefix of a dataset's output, without bucket."""
        return f"{dataset}/dt={self.start:%Y-%m-%d}/run_id={self.run_id}/attempt={self.attempt}"


def release() -> str:
    """Id of the release that this file belongs to; 'unreleased' in a plain checkout."""
    path = Path(__file__).resolve().parents[3] / "RELEASE"
    return json.loads(path.read_text())["id"] if path.exists() else "unreleased"


def arguments(argv: list[str], manifests: bool = False) -> Run:
    """Parse a stage's command line; exits with status 2 and usage when it is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--run-id", required=True, help="letters, digits, _ . -")
    parser.add_argument("--attempt", required=True, type=int, help="from 1; a new one for every submission")
    parser.add_argument("--from", dest="start", required=True, type=datetime.fromisoformat)
    parser.add_argument("--to", dest="end", required=True, type=datetime.fromisoformat)
    if manifests:
        parser.add_argument("--manifest", action="append", default=[], metavar="SOURCE=URL", help="sealed manifest")
        parser.add_argument("--replay", metavar="URL", help="in place of manifests: what of quarantine is taken up")
    parser.add_argument("--base", metavar="URL", help="under which the published rows of a replay's days are, by table")
    given = vars(parser.parse_args(argv))
    if not RUN_ID.fullmatch(given["run_id"]):
        parser.error(f"--run-id {given['run_id']!r}: use letters, digits, _ . - only")
    if given["attempt"] < 1:
        parser.error("--attempt counts from 1")
    if given["start"] >= given["end"]:
        parser.error("--from must be before --to")
    pairs = [pair.partition("=") for pair in given.pop("manifest", [])]
    if not all(source and url for source, _, url in pairs) or len({source for source, _, _ in pairs}) < len(pairs):
        parser.error("--manifest is SOURCE=URL, once for every source")
    if manifests and bool(pairs) == bool(given["replay"]):
        parser.error("either --manifest, once for every source, or --replay")
    return Run(**given, manifests={source: url for source, _, url in pairs})


def session(stage: str, run: Run) -> SparkSession:
    """Return the Spark session of a stage; master, credentials and sizes come from SPARK_CONF_DIR."""
    name = f"{run.pipeline} {stage} {run.run_id} attempt {run.attempt}"
    return SparkSession.builder.appName(name).config(map=SETTINGS).getOrCreate()


def gathered(datasets: dict[str, dict]) -> dict[str, dict]:
    """The datasets of a stage, and as one those that `feed` the same."""
    parts: dict[str, list[dict]] = {}
    for dataset in datasets.values():
        if "feeds" in dataset:
            parts.setdefault(dataset["feeds"], []).append(dataset)
    return datasets | {
        name: {
            "rows_out": sum(part["rows_out"] for part in fed),
            "columns": fed[0]["columns"],
            "prefix": [part["prefix"] for part in fed],
            "reference": all(part.get("reference") for part in fed),
        }
        for name, fed in parts.items()
    }


class Stage:
    """The work of one stage: reads sealed inputs, writes each dataset once, counts what is there, and seals."""

    def __init__(self, name: str, run: Run, spark: SparkSession, after: str | None = None):
        """`after`: the stage whose latest finished attempt is read, as `given` {dataset: {prefix, columns, …}}."""
        self.name = name
        self.run = run
        self.spark = spark
        self.storage = Storage(spark)
        self.curated = spark.conf.get("spark.etl.curated", "s3a://curated")
        self.quarantine = spark.conf.get("spark.etl.quarantine", "s3a://quarantine")
        self.datasets: dict[str, dict] = {}
        self._columns: dict[str, dict[str, str]] = {}
        self._aside: dict[str, str] = {}
        self._began = time.monotonic()
        others = {"replay": run.replay, "base": run.base}
        self.inputs: dict[str, str] = run.manifests | {name: url for name, url in others.items() if url}
        self.given = self._follow(after) if after else {}

    def prefix(self, name: str) -> str:
        """Return the URL under which this attempt writes a dataset."""
        return f"{self.curated}/{self.run.path(name)}"

    def record_path(self, stage: str, attempt: int) -> str:
        """Return the URL of a stage's record."""
        return f"{self.curated}/_stages/{self.run.run_id}/{attempt}/{stage}.json"

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name the Spark jobs inside, for whoever reads the history server."""
        context = self.spark.sparkContext
        context.setJobDescription(f"{self.name}: {what}")
        try:
            yield
        finally:
            context.setJobDescription(None)

    def perform(self, work: Callable[[Stage], None]) -> dict:
        """Do the work, seal it and return the record; an attempt that was sealed before is not done again.

        Raises StageError when it was sealed before, but made from other inputs.
        """
        record = self._sealed()
        if record is None:
            work(self)
            record = self._seal()
        return record

    def _sealed(self) -> dict | None:
        path = self.record_path(self.name, self.run.attempt)
        if not self.storage.exists(path):
            return None
        record = json.loads(self.storage.read_text(path))
        if record["inputs"] != self.inputs:
            raise StageError(f"{path} was made from other inputs ({record['inputs']}): submit with the next --attempt")
        return record

    def _follow(self, stage: str) -> dict[str, dict]:
        directory = f"{self.curated}/_stages/{self.run.run_id}"
        for attempt in sorted((int(name) for name in self.storage.names(directory) if name.isdigit()), reverse=True):
            path = self.record_path(stage, attempt)
            if self.storage.exists(path):
                self.inputs[stage] = path
                return gathered(json.loads(self.storage.read_text(path))["datasets"])
        raise StageError(f"run {self.run.run_id} has no finished stage {stage} under {directory}: run {stage} first")

    def read(self, dataset: str) -> DataFrame:
        """Read a dataset that the stage before wrote."""
        columns = ", ".join(f"`{name}` {kind}" for name, kind in self.given[dataset]["columns"].items())
        prefix = self.given[dataset]["prefix"]
        return self.spark.read.schema(columns).parquet(*([prefix] if isinstance(prefix, str) else prefix))

    def together(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Do several things at once, so that one waits for the object store while another computes; the first error is raised."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            for done in [pool.submit(task) for task in tasks]:
                done.result()

    def write(self, name: str, rows: DataFrame) -> int:
        """Write a dataset as Parquet to its prefix; return the number of rows found there afterwards."""
        self._columns[name] = dict(rows.dtypes)
        prefix = self._new(self.prefix(name))
        with self.doing(f"{name}, read, transform and write"):
            rows.write.parquet(prefix)
        with self.doing(f"{name}, count what was written"):
            return self.spark.read.schema(rows.schema).parquet(prefix).count()

    def put_aside(self, source: str, rejected: DataFrame) -> dict[str, int]:
        """Write rejected rows as JSON lines to quarantine; return how many are found there, by rule."""
        prefix = self._new(f"{self.quarantine}/{self.run.path(f'{self.run.pipeline}/{source}')}")
        told = {"run_id": self.run.run_id, "release": release(), "dataset": source}
        rejected = rejected.select(*[F.lit(value).alias(name) for name, value in told.items()], "*")
        self._aside[f"clean_{source}"] = prefix
        with self.doing(f"{source}, put rejected rows into quarantine"):
            rejected.write.json(prefix, ignoreNullFields=False)
        with self.doing(f"{source}, count rejected rows"):
            counts = self.spark.read.schema(rejected.schema).json(prefix).groupBy("rule").count().collect()
        return {row["rule"]: row["count"] for row in sorted(counts)}

    def _new(self, prefix: str) -> str:
        if self.storage.exists(prefix):
            raise StageError(f"{prefix} holds what an unfinished attempt left: submit with the next --attempt")
        return prefix

    def account(
        self,
        name: str,
        rows_in: int,
        rows_out: int,
        rejected: dict[str, int] | None = None,
        added: int = 0,
        left_out: int = 0,
        **more,
    ) -> None:
        """Note a dataset's counts. Raises StageError unless rows_in + added = rows_out + rejected + left_out."""
        rejected = rejected or {}
        if rows_in + added != rows_out + sum(rejected.values()) + left_out:
            raise StageError(
                f"{name}: {rows_in} rows in and {added} added, "
                f"but {rows_out} out, {sum(rejected.values())} rejected {rejected} and {left_out} left out"
            )
        self.note(name, rows_in, rows_out, rejected=rejected, added=added, left_out=left_out, **more)

    def note(self, name: str, rows_in: int, rows_out: int, **more) -> None:
        """Note and print the counts of a dataset that was written, for a stage that checks them in its own way."""
        counts = {"rows_in": rows_in, "rows_out": rows_out, "rejected": {}, **more}
        aside = {"quarantine": self._aside[name]} if name in self._aside else {}
        self.datasets[name] = {**counts, **aside, "prefix": self.prefix(name), "columns": self._columns[name]}
        print(f"{name}: {rows_in} rows in, {rows_out} out, rejected: {counts['rejected'] or 'none'}", flush=True)

    def _seal(self) -> dict:
        record = {
            "stage": self.name,
            "pipeline": self.run.pipeline,
            "run_id": self.run.run_id,
            "attempt": self.run.attempt,
            "from": f"{self.run.start:%Y-%m-%d %H:%M:%S}",
            "to": f"{self.run.end:%Y-%m-%d %H:%M:%S}",
            "application": self.spark.sparkContext.applicationId,
            "inputs": self.inputs,
            "datasets": dict(sorted(self.datasets.items())),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        self.storage.create_text(self.record_path(self.name, self.run.attempt), json.dumps(record))
        return record


def submit(name: str, run: Run, work: Callable[[Stage], None], after: str | None = None) -> None:
    """Run a stage as an application of its own and print its record as one line of JSON."""
    spark = session(name, run)
    print(json.dumps(Stage(name, run, spark, after).perform(work)), flush=True)
    spark.stop()
