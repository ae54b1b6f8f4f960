"""Stage enrich: cleaned rows become facts and dimensions as declared; what facts refer to and no source knows, an unknown member.

spark-submit enrich_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.declaration import Source, Table, load
from jobs.transform.spark.hooks import hooked
from jobs.transform.spark.session import Stage, StageError, arguments, submit
from jobs.validation import KNOWN


def join(table: Table, cleaned: Callable[[str], DataFrame]) -> DataFrame:
    """The rows of the table's source with each join as a record under its name, null where nothing matches.

    `cleaned` returns a source's cleaned rows by its name.
    """
    rows = cleaned(table.source).alias(table.source)
    for alias, declared in table.joins.items():
        rows = rows.join(cleaned(declared.source).select(F.struct("*").alias(alias)), F.expr(declared.match), "left")
    return rows


def shape(table: Table, joined: DataFrame, cleaned: Callable[[str], DataFrame]) -> DataFrame:
    """The declared columns of the rows that are published, and the unknown members of a dimension that has them."""
    rows = joined.where(table.where) if table.where else joined
    rows = rows.select(*[F.expr(value).alias(name) for name, value in table.columns.items()])
    return _with_unknown(rows, table, cleaned) if table.unknown else rows


def _with_unknown(members: DataFrame, table: Table, cleaned: Callable[[str], DataFrame]) -> DataFrame:
    """Members with known = true, and a row with known = false for each other value that the declared columns have."""
    (key,) = table.key
    kind = members.schema[key].dataType
    used = None
    for source, column in table.unknown:
        values = cleaned(source).select(F.col(column).cast(kind).alias(key))
        used = values if used is None else used.unionAll(values)
    unknown = used.where(F.col(key).isNotNull()).distinct().join(members.select(key), key, "left_anti")
    known = members.withColumn(KNOWN, F.lit(True))
    return known.unionByName(unknown.withColumn(KNOWN, F.lit(False)), allowMissingColumns=True)


def require_single(table: Table, source: Source, cleaned: Callable[[str], DataFrame]) -> None:
    """Raise StageError for the first join of which more than one row fits a row of the table's source; it names both."""
    for number, (alias, declared) in enumerate(table.joins.items(), 1):
        first = replace(table, joins=dict(list(table.joins.items())[:number]))
        twice = join(first, cleaned).groupBy(*source.key).count().where("count > 1")
        if row := twice.first():
            which = ", ".join(f"{name} {row[name]}" for name in source.key)
            raise StageError(
                f"{table.name}: {row['count']} rows of {declared.source} fit the row of {source.dataset} with {which}, and at most"
                f" one may (joins: {alias}: {declared.match}); so it is for {twice.count()} rows"
            )


def months(table: Table, joined: DataFrame) -> list[str]:
    """First days of the months that the rows are in, those too that are not published; ISO dates, sorted."""
    first = F.trunc(F.expr(table.columns[table.partition_column]), "month")
    return sorted(str(row[0]) for row in joined.select(first).distinct().collect() if row[0] is not None)


def enrich_all(stage: Stage) -> None:
    """Write the facts and dimensions of the run; only dimensions of which facts may know more than the source grow."""
    declaration = load(stage.run.pipeline)
    sources = {source.dataset: source for source in declaration.sources.values()}

    def cleaned(source: str) -> DataFrame:
        return stage.read(f"clean_{source}")

    def write(table: Table) -> None:
        joined = join(table, cleaned)
        rows_in = stage.given[f"clean_{table.source}"]["rows_out"]
        if stage.given[f"clean_{table.source}"].get("reference"):
            # A replay brings no rows of this source: at most members that only the replayed rows name.
            rows = shape(table, joined, cleaned)
            rows = rows.where(f"not {KNOWN}") if table.unknown else rows.limit(0)
            stage.note(table.name, rows_in, stage.write(table.name, hooked(stage, table.name, rows)))
            return
        rows_out = stage.write(table.name, hooked(stage, table.name, shape(table, joined, cleaned)))
        more = {}
        if table.where:
            with stage.doing(f"{table.name}, count what is not published"):
                more["left_out"] = joined.where(~F.coalesce(F.expr(table.where), F.lit(False))).count()
            # What the ledger says of a source goes by the first of the tables that it fills.
            if table == next(other for other in declaration.publish.values() if other.source == table.source):
                more["left_out_of"] = f"clean_{table.source}"
        if table.joins and rows_out + more.get("left_out", 0) > rows_in:
            require_single(table, sources[table.source], cleaned)
        if table.unknown:
            more["added"] = rows_out - rows_in + more.get("left_out", 0)
        if table.partition_column and table.whole_months:
            with stage.doing(f"{table.name}, look which months the rows are in"):
                more["months"] = months(table, joined)
        stage.account(table.name, rows_in, rows_out, **more)

    stage.together(partial(write, table) for table in declaration.publish.values() if table.kind != "aggregate")


if __name__ == "__main__":
    submit("enrich_data", arguments(sys.argv[1:]), enrich_all, after="clean_data")
