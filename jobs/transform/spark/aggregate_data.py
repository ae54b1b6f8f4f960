"""Stage aggregate: facts are added up as declared.

spark-submit aggregate_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.declaration import Table, load
from jobs.transform.spark.hooks import hooked
from jobs.transform.spark.session import Stage, arguments, submit


def aggregate(table: Table, facts: DataFrame) -> DataFrame:
    """One row for each value of the table's key: the key, and its other columns over the facts of that key."""
    key = [F.expr(table.columns.get(name, f"`{name}`")).alias(name) for name in table.key]
    values = [F.expr(value).alias(name) for name, value in table.columns.items() if name not in table.key]
    return facts.groupBy(*key).agg(*values)


def merged(facts: DataFrame, published: DataFrame, key: tuple[str, ...]) -> DataFrame:
    """What a replay's days hold once it is published: the published facts, and the released ones whose key is not published."""
    return published.unionByName(facts.join(published.select(*key), list(key), "left_anti"))


def aggregate_all(stage: Stage) -> None:
    """Write the aggregates of the run; that they add up to the facts is audited before they are published."""

    def write(table: Table) -> None:
        facts, rows = stage.given[table.source], stage.read(table.source)
        if stage.run.base:
            published = stage.spark.read.schema(rows.schema).parquet(f"{stage.run.base}/{table.source}")
            rows = merged(rows, published, keys[table.source])
        rows = stage.write(table.name, hooked(stage, table.name, aggregate(table, rows)))
        stage.note(table.name, facts["rows_out"], rows, **({"months": facts["months"]} if "months" in facts else {}))

    publish = load(stage.run.pipeline).publish.values()
    keys = {table.name: table.key for table in publish}
    aggregates = [table for table in publish if table.kind == "aggregate"]
    stage.together(partial(write, table) for table in aggregates)


if __name__ == "__main__":
    submit("aggregate_data", arguments(sys.argv[1:]), aggregate_all, after="enrich_data")
