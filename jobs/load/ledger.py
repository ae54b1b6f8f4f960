"""The ledger (schema etl): what every run was asked for, read, counted and published.

Every function takes an idle psycopg connection of etl_load, commits what it writes, and may be called again with the same arguments.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

STATES = ("running", "published", "failed", "undone")


# Airflow's DagRunType: what it names a run by itself is unique within its DAG alone.
NAMED_BY_AIRFLOW = re.compile(r"(scheduled|backfill|manual|operator_triggered|asset_triggered|asset_materialization)__")


def run_id_of(dag_id: str, dag_run_id: str) -> str:
    """The ledger's id of an Airflow run: its name, or DAG and name when Airflow made it ("orders.scheduled__2013-01-01T00_00_00_00_00").

    Every character other than letters, digits, dot, dash and underscore is replaced by an underscore.
    """
    name = f"{dag_id}.{dag_run_id}" if NAMED_BY_AIRFLOW.match(dag_run_id) else dag_run_id
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


@dataclass(frozen=True)
class Run:
    """One pipeline run. The interval [interval_from, interval_to) is in the sources' local time, without offset;
    text like "2013-01-01 00:00:00" is accepted."""

    run_id: str
    dag_run_id: str
    pipeline: str
    release: str
    attempt: int
    interval_from: datetime
    interval_to: datetime

    def __post_init__(self) -> None:
        for name in ("interval_from", "interval_to"):
            value = getattr(self, name)
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            if moment.tzinfo is not None:
                raise ValueError(
                    f"{name} {value} has an offset: the interval is in the sources' local time, without one"
                )
            object.__setattr__(self, name, moment)
        if self.interval_from >= self.interval_to:
            raise ValueError(f"the interval ends at {self.interval_to}, not after its start {self.interval_from}")


class ReleaseTakenBack(RuntimeError):
    """The run's code belongs to a release that was taken back: it must not run again."""


class RunIdTaken(RuntimeError):
    """The ledger knows another run by this id; the message names it."""


def start_run(conn: psycopg.Connection, run: Run) -> None:
    """Open the run, or open it again for another attempt; the release is entered when it is new.

    Raises ReleaseTakenBack for a run that a repetition would give the code of a release that was taken back, RunIdTaken when the id
    is another run's: two that people gave one name.
    """
    with conn.transaction():
        conn.execute("insert into etl.release (release) values (%s) on conflict do nothing", (run.release,))
        taken_back = conn.execute(
            "select reason from etl.release where release = %s and state = 'bad' and manifest ->> 'because' = 'rollback'",
            (run.release,),
        ).fetchone()
        if taken_back:
            raise ReleaseTakenBack(
                f"release {run.release} was taken back ({taken_back[0]}): start a new run over {run.interval_from} to"
                f" {run.interval_to} instead of repeating this one"
            )
        opened = conn.execute(
            """
            insert into etl.run (run_id, dag_run_id, pipeline, release, attempt, interval_from, interval_to)
            values (%(run_id)s, %(dag_run_id)s, %(pipeline)s, %(release)s, %(attempt)s, %(interval_from)s, %(interval_to)s)
            on conflict (run_id) do update set
                release = excluded.release,
                attempt = excluded.attempt,
                interval_from = excluded.interval_from,
                interval_to = excluded.interval_to,
                state = 'running',
                finished_at = null,
                error = null
            where run.pipeline = excluded.pipeline and run.dag_run_id = excluded.dag_run_id
            """,
            dataclasses.asdict(run),
        ).rowcount
        if not opened:
            pipeline, dag_run_id = conn.execute(
                "select pipeline, dag_run_id from etl.run where run_id = %s", (run.run_id,)
            ).fetchone()
            raise RunIdTaken(
                f"run {run.run_id} of {run.pipeline} cannot be opened: {dag_run_id} of {pipeline} has this id. Trigger the interval"
                " under another run id"
            )


def record_extract(conn: psycopg.Connection, run: Run, manifest: Any) -> None:
    """Enter a sealed manifest: a mapping in the form of _manifest.json, or the dataclass of jobs.extract.manifest."""
    seen = _mapping(manifest)
    rows = [_number(file.get("rows")) for file in seen["files"]]
    with conn.transaction():
        conn.execute(
            """
            insert into etl.run_source (
                run_id, dataset, attempt, source, format, flow_version, extracted_at, files, row_count, byte_count, manifest
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (run_id, dataset) do update set
                attempt = excluded.attempt,
                source = excluded.source,
                format = excluded.format,
                flow_version = excluded.flow_version,
                extracted_at = excluded.extracted_at,
                files = excluded.files,
                row_count = excluded.row_count,
                byte_count = excluded.byte_count,
                manifest = excluded.manifest
            """,
            (
                run.run_id,
                seen["dataset"],
                int(seen["attempt"]),
                seen["source"],
                seen["format"],
                seen.get("flow_version"),
                seen.get("extracted_at"),
                len(rows),
                None if None in rows else sum(rows),
                sum(_number(file.get("bytes")) or 0 for file in seen["files"]),
                json.dumps(seen, default=str),
            ),
        )


def record_count(conn: psycopg.Connection, run: Run, dataset: str, after: Any, before: Any = None) -> None:
    """Enter what the source counted (`rows`, `how`) after its extraction, and before it when this attempt extracted.

    An attempt that found the dataset sealed adds nothing to counts that are there.
    """
    with conn.transaction():
        conn.execute(
            """
            update etl.run_source set source_rows = %(after)s, source_rows_before = %(before)s, counted_by = %(how)s
            where run_id = %(run_id)s and dataset = %(dataset)s and (source_rows is null or %(before)s::bigint is not null)
            """,
            {
                "run_id": run.run_id,
                "dataset": dataset,
                "after": after.rows,
                "before": before.rows if before else None,
                "how": after.how,
            },
        )


def record_stage(conn: psycopg.Connection, run: Run, stage: Mapping[str, Any]) -> None:
    """Enter a stage's record: {"stage", "datasets": {name: {"rows_in", "rows_out", "rejected": {rule: rows}, "prefix"}}, "seconds"}.

    A dataset's "months" are those that its rows are in (first days). Rows of `left_out_of` that a table leaves out, deleted ones
    say, count as superseded.
    """
    name = stage["stage"]
    with conn.transaction(), conn.cursor() as cursor:
        for table in ("run_reject", "run_stage"):
            cursor.execute(f"delete from etl.{table} where run_id = %s and stage = %s", (run.run_id, name))
        for dataset, counts in stage["datasets"].items():
            cursor.execute(
                "insert into etl.run_stage (run_id, stage, dataset, attempt, rows_in, rows_out, prefix, seconds, months)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s::date[])",
                (
                    run.run_id,
                    name,
                    dataset,
                    stage.get("attempt"),
                    _number(counts.get("rows_in")),
                    int(counts["rows_out"]),
                    counts.get("prefix"),
                    stage.get("seconds"),
                    counts.get("months"),
                ),
            )
            rejected = [(dataset, rule, rows) for rule, rows in (counts.get("rejected") or {}).items()]
            if counts.get("left_out_of"):
                rejected.append((counts["left_out_of"], "superseded", counts["left_out"]))
            for of, rule, rows in rejected:
                cursor.execute(
                    "insert into etl.run_reject (run_id, stage, dataset, rule, row_count) values (%s, %s, %s, %s, %s)",
                    (run.run_id, name, of, rule, int(rows)),
                )


def is_replay(conn: psycopg.Connection, run: Run) -> bool:
    """Whether a run takes up quarantined rows of other runs (jobs.quarantine): its rows are merged with the published ones."""
    return conn.execute(
        "select exists (select from etl.quarantine_replay where replay_run_id = %s)", (run.run_id,)
    ).fetchone()[0]


def finish_run(conn: psycopg.Connection, run: Run, state: str, error: str | None = None) -> None:
    """Close the run with one of STATES; a run that is not in the ledger yet is entered first."""
    if state not in STATES:
        raise ValueError(f"state {state} is none of {', '.join(STATES)}")
    with conn.transaction():
        if conn.execute("select 1 from etl.run where run_id = %s", (run.run_id,)).fetchone() is None:
            start_run(conn, run)
        conn.execute(
            "update etl.run set state = %s, error = %s, finished_at = now() where run_id = %s and pipeline = %s",
            (state, error, run.run_id, run.pipeline),
        )


def close_ended(conn: psycopg.Connection, run: Run, end_of: Callable[[str], str | None]) -> list[str]:
    """Close the other runs of the pipeline that are open here and have ended all the same, killed before they could say so.

    `end_of` returns how Airflow's run of an id ended, None while it has not. Returns the ids of what was closed.
    """
    with conn.transaction():
        others = conn.execute(
            "select run_id, dag_run_id from etl.run where pipeline = %s and state = 'running' and run_id <> %s order by 1",
            (run.pipeline, run.run_id),
        ).fetchall()
    ends = {run_id: end for run_id, dag_run_id in others if (end := end_of(dag_run_id))}
    with conn.transaction():
        for run_id, end in ends.items():
            conn.execute(
                """
                update etl.run as r set
                    state = case when p.published then 'published' else 'failed' end,
                    error = case when not p.published then %(error)s end,
                    finished_at = now()
                from (
                    select exists (select from etl.publication where run_id = %(run_id)s and undone_at is null) as published
                ) as p
                where r.run_id = %(run_id)s and r.state = 'running'
                """,
                {"run_id": run_id, "error": f"ended as {end} in Airflow without a word here; seen by run {run.run_id}"},
            )
    return list(ends)


def _mapping(manifest: Any) -> dict[str, Any]:
    if isinstance(manifest, Mapping):
        return dict(manifest)
    if dataclasses.is_dataclass(manifest):
        return dataclasses.asdict(manifest)
    raise TypeError(f"a manifest is a mapping or a dataclass, not {type(manifest).__name__}")


def _number(value: Any) -> int | None:
    return None if value in (None, "") else int(value)
