"""What a run did, from the ledger and the published tables, for a person to read.

    python -m jobs.load.summary RUN_ID [< tasks.json]

Connects as etl_read with libpq's own means (PGHOST, PGUSER, PGPASSWORD, PGSSLMODE, ...). Standard input may hold
Airflow's tasks of the run ([{"task_id", "seconds"}]); they add how long each took. What only one pipeline can say of its
figures is jobs/pipelines/<pipeline>.summary.sql: the first line is the title, %(start)s and %(end)s the run's interval.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from jobs.declaration import PIPELINES, load
from jobs.validation import BUILT_IN

SOURCES = "select dataset, source, files, row_count, byte_count from etl.run_source where run_id = %s order by dataset"
BALANCE = """
    select dataset, extracted, published, quarantined, superseded, difference from etl.v_balance where run_id = %s order by dataset
"""
STAGES = """
    select stage, dataset, rows_in, rows_out from etl.run_stage where run_id = %s
    order by min(recorded_at) over (partition by stage), stage, dataset
"""
REJECTS = "select dataset, rule, row_count from etl.run_reject where run_id = %s order by dataset, rule"
AUDITS = "select count(*) filter (where passed), count(*) from etl.audit_result where run_id = %s"
PUBLISHED = """
    select table_name, partition_name, row_count, version from etl.v_published where run_id = %s
    order by table_name, partition_name
"""


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain text table: text to the left, numbers to the right with thousands separators, None as a dash."""
    rows = list(rows)
    cells = [list(heads)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    right = [
        any(isinstance(row[column], int | float) or hasattr(row[column], "as_tuple") for row in rows)
        for column in range(len(heads))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    if not rows:
        return f"{title}: none"
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if not isinstance(value, str) else value


def summary(conn: psycopg.Connection, run_id: str, tasks: list[dict[str, Any]]) -> str:
    """The text about one run; LookupError when the ledger has no such run."""
    run = conn.execute(
        "select pipeline, state, interval_from, interval_to, release, duration from etl.v_run where run_id = %s",
        (run_id,),
    ).fetchone()
    if run is None:
        raise LookupError(f"the ledger has no run {run_id}")
    pipeline, state, start, end, release, duration = run
    reasons = {rule.name: rule.reason for source in load(pipeline).sources.values() for rule in source.rules} | BUILT_IN
    passed, audits = conn.execute(AUDITS, (run_id,)).fetchone()
    rows = {name: conn.execute(query, (run_id,)).fetchall() for name, query in _QUERIES.items()}
    parts = [
        f"Pipeline {pipeline}, {start} to {end}: {state}"
        + (f" in {duration.total_seconds():.0f} s" if duration else ""),
        f"Run {run_id}, release {release}, {passed} of {audits} audits passed",
        table("Extracted from the sources", ("dataset", "source", "files", "rows", "bytes"), rows["sources"]),
        table(
            "Balance: extracted, by the source's own count = published + quarantined + superseded",
            ("dataset", "extracted", "published", "quarantined", "superseded", "difference"),
            rows["balance"],
        ),
        table("Rows by stage", ("stage", "dataset", "rows in", "rows out"), rows["stages"]),
        table(
            "Rejected rows (s3://quarantine)",
            ("dataset", "rule", "rows", "reason"),
            [(*row, reasons.get(row[1], "")) for row in rows["rejects"]],
        ),
        table("Published", ("table", "partition", "rows", "version"), rows["published"]),
    ]
    figures = PIPELINES / f"{pipeline}.summary.sql"
    if figures.exists():
        title, _, query = figures.read_text().partition("\n")
        found = conn.execute(query, {"start": start, "end": end})
        parts.append(table(title.lstrip("- "), [column.name for column in found.description], found.fetchall()))
    if tasks:
        parts.append(
            table(
                "Time", ("task", "seconds"), [(task["task_id"], task["seconds"]) for task in tasks if task["seconds"]]
            )
        )
    return "\n\n".join(parts)


_QUERIES = {"sources": SOURCES, "balance": BALANCE, "stages": STAGES, "rejects": REJECTS, "published": PUBLISHED}


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    given = "" if sys.stdin.isatty() else sys.stdin.read()
    with psycopg.connect("", autocommit=True) as conn:
        print(summary(conn, argv[0], json.loads(given) if given.strip() else []))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
