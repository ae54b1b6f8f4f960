"""Monthly partitions: which of them an interval replaces, and how a new version of one is built.

A partition that the interval covers only in part is built from the published rows outside the interval and the staged rows
inside it, so nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time

import psycopg
from psycopg import sql

from jobs.load.ledger import Run
from jobs.load.statements import columns, columns_of, staged_name, statement, table


@dataclass(frozen=True)
class Partition:
    """One month [lower, upper) of a table."""

    table: str
    lower: date
    upper: date

    @property
    def name(self) -> str:
        """Table name, underscore, year and month: fact_flight_201301."""
        return f"{self.table}_{self.lower:%Y%m}"


def days(run: Run) -> tuple[date, date]:
    """The run's interval as dates [from, to); raises ValueError unless both ends are midnights, as partitions hold whole days."""
    for moment in (run.interval_from, run.interval_to):
        if moment.time() != time.min:
            raise ValueError(
                f"the interval [{run.interval_from}, {run.interval_to}) must start and end at midnight to be published by day"
            )
    return run.interval_from.date(), run.interval_to.date()


def months(table_name: str, start: date, end: date) -> list[Partition]:
    """The months that [start, end) touches, in order."""
    found, lower = [], start.replace(day=1)
    while lower < end:
        upper = lower.replace(year=lower.year + lower.month // 12, month=lower.month % 12 + 1)
        found.append(Partition(table_name, lower, upper))
        lower = upper
    return found


def build(conn: psycopg.Connection, partition: Partition, column: str, run: Run) -> int | None:
    """Build the new version of a partition, sealed but not attached.

    Returns its id in etl.partition_version, or None when the month has neither published nor staged rows. What an earlier,
    interrupted call left over is dropped.
    """
    start, end = days(run)
    target = table("dwh", partition.table)
    staged = table("staging", staged_name(partition.table, run.run_id))
    bounds = {"key": sql.Identifier(column), "lower": partition.lower, "upper": partition.upper}
    with conn.transaction():
        if not _has_rows(conn, partition, column, staged):
            return None
        version_id, relation = conn.execute(
            "select version_id, relation from etl.build_partition(%s, %s, %s, %s, %s, %s)",
            (partition.table, partition.name, str(partition.lower), str(partition.upper), run.run_id, run.attempt),
        ).fetchone()
        into = {
            "relation": table(*relation.split(".")),
            "columns": columns(columns_of(conn, "dwh", partition.table)),
        }
        if start > partition.lower or end < partition.upper:
            conn.execute(
                statement(
                    "keep_outside_interval", target=target, interval_from=start, interval_to=end, **into, **bounds
                )
            )
        conn.execute(statement("fill_partition", staged=staged, **into, **bounds))
        conn.execute("select etl.seal_partition(%s)", (version_id,))
    return version_id


def _has_rows(conn: psycopg.Connection, partition: Partition, column: str, staged: sql.Identifier) -> bool:
    if conn.execute(
        "select 1 from etl.partition_version where partition_name = %s and current", (partition.name,)
    ).fetchone():
        return True
    query = sql.SQL("select exists (select from {} where {} >= {} and {} < {})").format(
        staged, sql.Identifier(column), partition.lower, sql.Identifier(column), partition.upper
    )
    return conn.execute(query).fetchone()[0]
