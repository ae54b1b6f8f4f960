"""What no published partition, no kept version and no running run needs any more goes after the days that its pipeline declares; what is
needed and in many small files is rewritten as few.

    python -m jobs.retention [--apply] [--pipeline flights]

Without --apply it only says what would go. Connects as etl_load with libpq's own means (PGHOST, ...), to the object store with
boto3's (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).

Objects are deleted by a delete marker: buckets are versioned, and until their own rule expires what is not current (minio_noncurrent_days)
a rewind brings them back. Runs that the ledger does not know are left alone, and so are releases, backups and the journal of publications.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psycopg
from botocore.config import Config
from psycopg import sql
from psycopg.rows import dict_row

from jobs import compaction, declaration
from jobs.declaration import Declaration
from jobs.load.statements import staged_name
from jobs.load.summary import table

RUN_OF = re.compile(r"(?:^|/)run_id=([^/]+)/attempt=(\d+)/|^_stages/([^/]+)/(\d+)/|^_replay/([^/]+)/")
BUCKETS = ("raw", "curated", "quarantine")
BATCH = 1000
SMALL = 32 * 1024 * 1024  # bytes of a file on average, above which files are left as they are
RUNS = """
select r.run_id, r.pipeline, r.state, coalesce(r.finished_at, r.started_at) as ended_at, r.state = 'running' as running,
    exists (select from etl.publication as p where p.run_id = r.run_id)
    or exists (select from etl.partition_version as v where v.run_id = r.run_id) as published_once
from etl.run as r
"""
# Runs that a version refers to which is published or kept, or that an undo would bring rows back of.
KEPT = """
select run_id from etl.partition_version where dropped_at is null and published_at is not null
union select content ->> 'run_id' from dwh_history.row_version where change = 'replaced' and content ? 'run_id'
union select p.run_id from etl.publication as p where p.undone_at is null and p.rows_kept
    and exists (select from dwh_history.row_version as h where h.publication_id = p.publication_id)
union select run_id from etl.run where state = 'running'
"""
USED = """
select s.run_id, 'raw' as bucket, rtrim(regexp_replace(s.manifest ->> 'key', '[^/]*$', ''), '/') as prefix from etl.run_source as s
where s.manifest ? 'key'
union all
select run_id, 'curated', regexp_replace(prefix, '^[a-z0-9]+://[^/]+/', '') from etl.run_stage where prefix is not null
union all
select run_id, 'quarantine', 'attempt=' || attempt from etl.run_stage where attempt is not null and dataset like 'clean\\_%%'
"""
HISTORY = """
select v.relation, v.row_count, pg_total_relation_size(v.relation::regclass) as bytes
from (
    select *, row_number() over (partition by partition_name order by version desc) as age from etl.partition_version
    where table_name = %s and not current and published_at is not null and dropped_at is null
) as v
where v.age > %s
"""
ABANDONED = """
select v.version_id, v.relation, v.run_id, r.pipeline, v.built_at, coalesce(pg_total_relation_size(to_regclass(v.relation)), 0) as bytes,
    coalesce(v.row_count, 0) as rows
from etl.partition_version as v inner join etl.run as r on v.run_id = r.run_id
where v.published_at is null and v.dropped_at is null and r.state <> 'running'
"""
STAGED = """
select c.relname as name, pg_total_relation_size(c.oid) as bytes, greatest(c.reltuples, 0)::bigint as rows
from pg_class as c where c.relnamespace = 'staging'::regnamespace and c.relkind = 'r'
"""

NO_PIPELINE = "-"  # events of what is no run of a pipeline, such as Airflow's of other DAGs
EVENTS = """
select {what} from etl.lineage_event as e
where e.event_time < %(before)s
    and (e.run_id = any(%(runs)s) or (%(others)s and not exists (select from etl.run as r where r.run_id = e.run_id)))
"""
DELETE_EVENTS = EVENTS.replace("select {what}", "delete")


@dataclass
class Item:
    """Something that goes (or is rewritten): a prefix of objects, a table, rows of the ledger. `why` is the rule with its days."""

    kind: str
    pipeline: str | None
    what: str
    why: str
    objects: int = 0
    bytes: int = 0
    rows: int = 0
    keys: list[str] = field(default_factory=list, repr=False)


class Retention:
    """Looks at ledger and buckets once; `plan` tells what goes, `apply` removes it."""

    def __init__(
        self,
        conn: psycopg.Connection,
        s3: Any,
        buckets: dict[str, str],
        declarations: Iterable[Declaration],
        now: datetime | None = None,
    ):
        self.conn, self.s3, self.buckets = conn, s3, buckets
        self.declared = {one.pipeline: one for one in declarations}
        self.now = now or datetime.now(UTC)
        self.runs = {row["run_id"]: row for row in self._rows(RUNS)}
        self.needed = self._needed()
        self.used: dict[tuple[str, str], set[str]] = {}
        for row in self._rows(USED):
            self.used.setdefault((row["run_id"], row["bucket"]), set()).add(row["prefix"])
        self.unknown: set[str] = set()
        self.files: dict[str, list[int]] = {}  # sizes of Parquet files in curated, by prefix
        self.attempts: dict[str, int] = {}  # the highest number of a run's attempts in curated
        self._removals: dict[str, Callable[[Item], None]] = {
            **{f"{bucket} objects": self._delete_objects for bucket in BUCKETS},
            "files in curated": self._compact,
            "staging table": self._drop_staging,
            "unpublished partition": self._drop_unpublished,
            "history versions": self._prune_history,
            "events of lineage": self._delete_events,
            "run": self._delete_run,
        }

    def plan(self) -> list[Item]:
        """What would go, in the order in which it goes."""
        objects = [item for bucket in BUCKETS for item in self._objects(bucket)]
        return [
            *objects,
            *self._small_files(),
            *self._staging(),
            *self._unpublished(),
            *self._history(),
            *self._events(),
            *self._old_runs(),
        ]

    def apply(self, items: Iterable[Item]) -> None:
        """Remove what a plan names and note it in etl.retention."""
        for item in items:
            self._removals[item.kind](item)
            with self.conn.transaction():
                self.conn.execute(
                    "insert into etl.retention (kind, pipeline, what, object_count, byte_count, row_count) values (%s, %s, %s, %s, %s, %s)",
                    (item.kind, item.pipeline, item.what, item.objects, item.bytes, item.rows),
                )

    def _rows(self, query: str | sql.Composed, parameters: Any = None) -> list[dict[str, Any]]:
        with self.conn.transaction(), self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, parameters).fetchall()

    def _needed(self) -> set[str]:
        """Runs of which anything is published, kept or running, and those whose quarantine one of these has released."""
        found = {row["run_id"] for row in self._rows(KEPT)}
        relations = [
            row["name"]
            for row in self._rows(
                "select relation as name from etl.partition_version where dropped_at is null and published_at is not null and not current"
            )
        ]
        published = self._rows(
            "select 'dwh.' || relname as name from pg_class"
            " where relnamespace = 'dwh'::regnamespace and relkind in ('r', 'p') and not relispartition"
        )
        for name in [*relations, *(row["name"] for row in published)]:
            query = sql.SQL("select distinct run_id from {}").format(sql.Identifier(*name.split(".")))
            found |= {row["run_id"] for row in self._rows(query)}
        replayed = self._rows("select run_id from etl.quarantine_replay where replay_run_id = any(%s)", (list(found),))
        return found | {row["run_id"] for row in replayed}

    def _retention(self, pipeline: str) -> declaration.Retention:
        declared = self.declared.get(pipeline)
        return declared.retention if declared else declaration.Retention()

    def _days(self, pipeline: str, kind: str) -> int:
        return getattr(self._retention(pipeline), kind)

    def _older(self, run: dict[str, Any], kind: str) -> bool:
        return self.now - run["ended_at"] > timedelta(days=self._days(run["pipeline"], kind))

    def _concerns(self, pipeline: str) -> bool:
        return pipeline in self.declared

    # What goes

    def _objects(self, bucket: str) -> Iterator[Item]:
        found: dict[tuple[str, str], Item] = {}
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.buckets[bucket])
        for entry in (entry for page in pages for entry in page.get("Contents", ())):
            match = RUN_OF.search(entry["Key"])
            if match is None:
                continue
            run_id = match[1] or match[3] or match[5]
            run = self.runs.get(run_id)
            if bucket == "curated" and match[2]:
                self.attempts[run_id] = max(self.attempts.get(run_id, 0), int(match[2]))
                if entry["Key"].endswith(".parquet") and entry["Size"]:
                    self.files.setdefault(entry["Key"][: match.end(2)], []).append(entry["Size"])
            if run is None:
                self.unknown.add(f"{bucket}: {run_id}")
                continue
            why = (
                self._why(bucket, run, entry["Key"][: match.end()].rstrip("/"))
                if self._concerns(run["pipeline"])
                else None
            )
            if why is None:
                continue
            place = f"s3://{self.buckets[bucket]}/{entry['Key'][: match.end()]}"
            item = found.setdefault((place, why), Item(f"{bucket} objects", run["pipeline"], place, why))
            item.objects += 1
            item.bytes += entry["Size"]
            item.keys.append(entry["Key"])
        yield from found.values()

    def _why(self, bucket: str, run: dict[str, Any], prefix: str) -> str | None:
        """The rule by which an object of a run goes, None when it stays."""
        if run["running"]:
            return None
        if run["run_id"] not in self.needed and self._older(run, bucket):
            return f"nothing published needs run {run['run_id']} ({bucket}: {self._days(run['pipeline'], bucket)} days)"
        used = self.used.get((run["run_id"], bucket), set())
        # _stages/ and _replay/ are of the run as a whole
        superseded = used and "/attempt=" in prefix
        if bucket == "quarantine":
            superseded = superseded and not any(prefix.endswith(f"/{one}") for one in used)
        else:
            superseded = superseded and prefix not in used
        if superseded and run["published_once"] and self._older(run, "attempts"):
            return f"another attempt was taken (attempts: {self._days(run['pipeline'], 'attempts')} days)"
        return None

    def _small_files(self) -> Iterator[Item]:
        """Prefixes that the ledger names, of runs that are needed, with more files than declared; known once objects were looked at."""
        for prefix, sizes in self.files.items():
            run = self.runs.get(RUN_OF.search(f"{prefix}/")[1])
            if run is None or not self._concerns(run["pipeline"]) or run["running"] or run["run_id"] not in self.needed:
                continue
            named = prefix in self.used.get((run["run_id"], "curated"), ())
            most = self._retention(run["pipeline"]).files
            if named and len(sizes) > most and sum(sizes) / len(sizes) < SMALL and self._older(run, "attempts"):
                place, why = f"s3://{self.buckets['curated']}/{prefix}/", f"rewritten as few (files: at most {most})"
                yield Item("files in curated", run["pipeline"], place, why, objects=len(sizes), bytes=sum(sizes))

    def _staging(self) -> Iterator[Item]:
        suffixes = {staged_name("", run_id): run for run_id, run in self.runs.items()}
        for row in self._rows(STAGED):
            run = suffixes.get(row["name"][-len("__12345678") :])
            if run and self._concerns(run["pipeline"]) and not run["running"] and self._older(run, "staging"):
                why = f"run {run['run_id']} ended as {run['state']} (staging: {self._days(run['pipeline'], 'staging')} days)"
                yield Item("staging table", run["pipeline"], row["name"], why, bytes=row["bytes"], rows=row["rows"])

    def _unpublished(self) -> Iterator[Item]:
        for row in self._rows(ABANDONED):
            days = self._days(row["pipeline"], "staging")
            if self._concerns(row["pipeline"]) and self.now - row["built_at"] > timedelta(days=days):
                why = f"run {row['run_id']} built it and never published (staging: {days} days)"
                yield Item(
                    "unpublished partition",
                    row["pipeline"],
                    str(row["version_id"]),
                    why,
                    bytes=row["bytes"],
                    rows=row["rows"],
                )

    def _history(self) -> Iterator[Item]:
        for one in self.declared.values():
            for published in one.publish.values():
                rows = self._rows(HISTORY, (published.name, published.history)) if published.partition_column else []
                if rows:
                    why = f"{len(rows)} versions beyond the newest {published.history} (history)"
                    size, count = (sum(row[name] or 0 for row in rows) for name in ("bytes", "row_count"))
                    yield Item("history versions", one.pipeline, published.name, why, bytes=size, rows=count)

    def _events(self) -> Iterator[Item]:
        for pipeline in (*self.declared, NO_PIPELINE):
            (row,) = self._rows(EVENTS.format(what="count(*) as rows"), self._event_parameters(pipeline))
            if row["rows"]:
                why = f"of runs that nothing needs (ledger: {self._days(pipeline, 'ledger')} days)"
                yield Item("events of lineage", pipeline, pipeline, why, rows=row["rows"])

    def _event_parameters(self, pipeline: str) -> dict[str, Any]:
        runs = [
            run_id for run_id, run in self.runs.items() if run["pipeline"] == pipeline and run_id not in self.needed
        ]
        before = self.now - timedelta(days=self._days(pipeline, "ledger"))
        return {"runs": runs, "others": pipeline == NO_PIPELINE, "before": before}

    def _old_runs(self) -> Iterator[Item]:
        for run in self.runs.values():
            if (
                self._concerns(run["pipeline"])
                and run["run_id"] not in self.needed
                and not run["published_once"]
                and self._older(run, "ledger")
            ):
                days = self._days(run["pipeline"], "ledger")
                yield Item("run", run["pipeline"], run["run_id"], f"published nothing (ledger: {days} days)", rows=1)

    # What is done

    def _delete_objects(self, item: Item) -> None:
        bucket = item.what.removeprefix("s3://").partition("/")[0]
        for start in range(0, len(item.keys), BATCH):
            keys = [{"Key": key} for key in item.keys[start : start + BATCH]]
            answer = self.s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if errors := answer.get("Errors"):
                raise RuntimeError(
                    f"{len(errors)} objects of {item.what} stay, such as {errors[0]['Key']}: {errors[0]['Message']}"
                )

    def _compact(self, item: Item) -> None:
        bucket, _, prefix = item.what.removeprefix("s3://").rstrip("/").partition("/")
        run_id = RUN_OF.search(f"{prefix}/")[1]
        self.attempts[run_id] += 1
        compaction.compact(self.conn, self.s3, bucket, run_id, prefix, self.attempts[run_id])

    def _drop_staging(self, item: Item) -> None:
        with self.conn.transaction():
            self.conn.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("staging", item.what)))

    def _drop_unpublished(self, item: Item) -> None:
        with self.conn.transaction():
            self.conn.execute("select etl.drop_unpublished(%s)", (int(item.what),))

    def _prune_history(self, item: Item) -> None:
        keep = next(one.publish[item.what].history for one in self.declared.values() if item.what in one.publish)
        with self.conn.transaction():
            self.conn.execute("select etl.prune_history(%s, %s)", (item.what, keep))

    def _delete_events(self, item: Item) -> None:
        with self.conn.transaction():
            self.conn.execute(DELETE_EVENTS, self._event_parameters(item.what))

    def _delete_run(self, item: Item) -> None:
        with self.conn.transaction():
            self.conn.execute("delete from etl.run where run_id = %s and state <> 'running'", (item.what,))


def text(items: list[Item], unknown: Iterable[str], applied: bool) -> str:
    """What goes, for people: totals by kind and pipeline, then every item."""
    totals: dict[tuple[str, str], list[int]] = {}
    for item in items:
        sums = totals.setdefault((item.kind, item.pipeline or "-"), [0, 0, 0, 0])
        for number, value in enumerate((1, item.objects, item.bytes, item.rows)):
            sums[number] += value
    verb = "Removed" if applied else "Would go (dry run)"
    parts = [
        table(
            verb,
            ("what", "pipeline", "items", "objects", "bytes", "rows"),
            [(*key, *sums) for key, sums in totals.items()],
        ),
        table(
            "Item by item",
            ("what", "name", "objects", "bytes", "rows", "why"),
            [(i.kind, i.what, i.objects, i.bytes, i.rows, i.why) for i in items],
        ),
    ]
    if unknown := sorted(unknown):
        parts.append("Left alone, as the ledger does not know the runs: " + ", ".join(unknown))
    return "\n\n".join(parts)


def declared_or_retired(pipeline: str) -> Declaration:
    """The declaration of a pipeline; of one that only the ledger knows any more what retention needs, the defaults."""
    if pipeline in declaration.names():
        return declaration.load(pipeline)
    return Declaration(pipeline, "", "", "", 0, "UTC", sources={}, publish={}, audits=())


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.retention", description="Remove what nothing needs any more.")
    parser.add_argument("--apply", action="store_true", help="remove it; the default only says what would go")
    parser.add_argument("--pipeline", help="of this pipeline alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for bucket in BUCKETS:
        parser.add_argument(f"--{bucket}", default=bucket, metavar="BUCKET", help=f"bucket of {bucket} objects")
    given = parser.parse_args(argv)
    s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    with psycopg.connect("", autocommit=True) as conn:
        known = sorted(
            {*declaration.names(), *(row[0] for row in conn.execute("select distinct pipeline from etl.run"))}
        )
        if given.pipeline and given.pipeline not in known:
            parser.error(f"there is no pipeline {given.pipeline}; there are {', '.join(known)}")
        names = [given.pipeline] if given.pipeline else known
        retention = Retention(
            conn, s3, {bucket: getattr(given, bucket) for bucket in BUCKETS}, map(declared_or_retired, names)
        )
        items = retention.plan()
        if given.apply:
            retention.apply(items)
    if given.json:
        listed = [{key: value for key, value in asdict(item).items() if key != "keys"} for item in items]
        print(json.dumps({"applied": given.apply, "items": listed, "unknown": sorted(retention.unknown)}))
    else:
        print(text(items, retention.unknown, given.apply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
