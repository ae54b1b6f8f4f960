"""Monthly partitions: which of them a run replaces, and how a new version of one is built.

A partition that the interval covers only in part is built from the published rows outside the interval and the staged rows
inside it, so nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time
from typing import Any

import psycopg
from psycopg import sql

from jobs.load.ledger import Run, is_replay
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


def spans(conn: psycopg.Connection, published: Any, run: Run) -> list[tuple[date, date]]:
    """What of a table the run replaces, as [from, to) in order: its interval, or every month that its rows are in.

    The months are those that the stage which made the rows has recorded: one of which no row is left is among them. Raises
    LookupError when it has recorded none.
    """
    if is_replay(conn, run):
        return _merged(conn, published, run)
    if not published.whole_months:
        return [days(run)]
    recorded = conn.execute(
        "select months from etl.run_stage where run_id = %s and dataset = %s and months is not null order by recorded_at desc limit 1",
        (run.run_id, published.name),
    ).fetchone()
    if recorded is None:
        raise LookupError(
            f"run {run.run_id} has not recorded which months the rows of {published.name} are in: transform it again"
        )
    found: list[tuple[date, date]] = []
    for first in sorted(recorded[0]):
        (month,) = months(published.name, first, first.replace(day=2))
        if found and found[-1][1] == month.lower:
            found[-1] = (found[-1][0], month.upper)
        else:
            found.append((month.lower, month.upper))
    return found


def _merged(conn: psycopg.Connection, published: Any, run: Run) -> list[tuple[date, date]]:
    """What a replay replaces: in every month the days from its first row to its last, staged together with those published."""
    day = sql.Identifier(published.partition_column or published.interval)
    query = sql.SQL(
        "select min({day}), max({day}) + 1 from {staged} group by date_trunc('month', {day}) order by 1"
    ).format(day=day, staged=table("staging", staged_name(published.name, run.run_id)))
    return [(first, last) for first, last in conn.execute(query).fetchall()]


def inside(column: str, ranges: list[tuple[date, date]], relation: str | None = None) -> sql.Composable:
    """The condition that a day column is in one of the ranges [from, to); false when there are none."""
    name = sql.Identifier(relation, column) if relation else sql.Identifier(column)
    parts = [sql.SQL("({0} >= {1} and {0} < {2})").format(name, start, end) for start, end in ranges]
    return sql.SQL("({})").format(sql.SQL(" or ").join(parts)) if parts else sql.SQL("false")


def build(
    conn: psycopg.Connection, partition: Partition, column: str, run: Run, replaced: tuple[date, date]
) -> int | None:
    """Build the new version of a partition, sealed but not attached; published rows outside of the days `replaced` stay.

    Returns its id in etl.partition_version, or None when the month has neither published nor staged rows. What an earlier,
    interrupted call left over is dropped.
    """
    start, end = replaced
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
