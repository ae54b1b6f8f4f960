"""Stage aggregate: delays by day, carrier and route.

spark-submit aggregate_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.transform.spark.session import Stage, StageError, arguments, submit

KEY = ["flight_date", "carrier", "origin", "dest"]


def aggregate(facts: DataFrame) -> DataFrame:
    """Add fact_flight up to agg_delay_day: counts of flights, mean delays in minutes over those that have one."""
    return facts.groupBy(*KEY).agg(
        F.count(F.lit(1)).cast("int").alias("flights"),
        F.count_if(~F.col("cancelled")).cast("int").alias("departed"),
        F.count_if("cancelled").cast("int").alias("cancelled"),
        F.count_if("diverted").cast("int").alias("diverted"),
        F.avg("dep_delay_minutes").alias("mean_dep_delay_minutes"),
        F.avg("arr_delay_minutes").alias("mean_arr_delay_minutes"),
    )


def aggregate_all(stage: Stage) -> None:
    """Write agg_delay_day. Raises StageError unless its flights add up to the facts."""
    rows = aggregate(stage.read("fact_flight"))
    rows_in, rows_out = stage.given["fact_flight"]["rows_out"], stage.write("agg_delay_day", rows)
    with stage.doing("agg_delay_day, add up what was written"):
        written = stage.spark.read.schema(rows.schema).parquet(stage.prefix("agg_delay_day"))
        flights = written.agg(F.coalesce(F.sum("flights"), F.lit(0)).alias("flights")).first()["flights"]
    if flights != rows_in:
        raise StageError(f"agg_delay_day adds up to {flights} flights, fact_flight has {rows_in}")
    stage.note("agg_delay_day", rows_in, rows_out)


if __name__ == "__main__":
    submit("aggregate_data", arguments(sys.argv[1:]), aggregate_all, after="enrich_data")
