"""Stage enrich: cleaned rows become facts and dimensions; what facts refer to and no source knows, an unknown member.

spark-submit enrich_data.py --pipeline flights --run-id R --attempt 1 --from … --to …
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

# The code and declarations of the release that this file belongs to, whatever else is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs.declaration import load
from jobs.transform.spark.session import Stage, arguments, submit

FACT = (
    "cast(id as bigint) as flight_id",
    "to_date(sched_dep) as flight_date",
    "to_utc_timestamp(sched_dep, '{zone}') as scheduled_departure",
    "carrier",
    "cast(flight as int) as flight_number",
    "tailnum",
    "origin",
    "dest",
    "cast(dep_delay as int) as dep_delay_minutes",
    "cast(arr_delay as int) as arr_delay_minutes",
    "cast(air_time as int) as air_time_minutes",
    "cast(distance as int) as distance_miles",
    "dep_time is null as cancelled",
    "dep_time is not null and arr_delay is null as diverted",
)
AIRPORT = ("faa", "name", "lat", "lon", "alt as alt_ft", "tz as tz_offset_hours", "dst", "tzone")
PLANE = (
    "tailnum",
    "cast(year as int) as year",
    "type",
    "manufacturer",
    "model",
    "cast(engines as int) as engines",
    "cast(seats as int) as seats",
    "cast(speed as int) as speed",
    "engine",
)


def enrich(
    flights: DataFrame, planes: DataFrame, airlines: DataFrame, airports: DataFrame, zone: str
) -> dict[str, DataFrame]:
    """Make fact_flight, dim_airline, dim_airport and dim_plane from the cleaned sources.

    flights.sched_dep is the wall clock of `zone`; scheduled_departure is that instant (UTC). Delays and air time are
    minutes, distances miles, altitudes feet. A flight keeps its row whatever its plane or airport: plane_known and
    dest_known tell whether the source has them, and the dimensions get a row with known = false for those it has not.
    """
    facts = flights.selectExpr(*[column.format(zone=zone) for column in FACT])
    known_planes = F.broadcast(planes.select("tailnum", F.lit(True).alias("plane_known")))
    known_airports = F.broadcast(airports.select(F.col("faa").alias("dest"), F.lit(True).alias("dest_known")))
    fact_flight = facts.join(known_planes, "tailnum", "left").join(known_airports, "dest", "left")
    return {
        "fact_flight": fact_flight.select(
            *facts.columns,
            F.coalesce("plane_known", F.lit(False)).alias("plane_known"),
            F.coalesce("dest_known", F.lit(False)).alias("dest_known"),
        ),
        "dim_airline": airlines.select("carrier", "name"),
        "dim_airport": _with_unknown(airports.selectExpr(*AIRPORT), "faa", flights, ["origin", "dest"]),
        "dim_plane": _with_unknown(planes.selectExpr(*PLANE), "tailnum", flights, ["tailnum"]),
    }


def _with_unknown(members: DataFrame, key: str, facts: DataFrame, references: list[str]) -> DataFrame:
    """Return members with known = true, and a row with known = false for each other value the facts refer to."""
    used = facts.select(F.explode(F.array(*references)).alias(key)).where(F.col(key).isNotNull()).distinct()
    unknown = used.join(F.broadcast(members.select(key)), key, "left_anti")
    known = members.withColumn("known", F.lit(True))
    return known.unionByName(unknown.withColumn("known", F.lit(False)), allowMissingColumns=True)


def enrich_all(stage: Stage) -> None:
    """Write the facts and dimensions of the run; only dimensions of which facts may know more than the source grow."""
    zone = load(stage.run.pipeline).timezone
    tables = enrich(*[stage.read(f"clean_{name}") for name in ("flights", "planes", "airlines", "airports")], zone=zone)
    made_of = {"fact_flight": "flights", "dim_airline": "airlines", "dim_airport": "airports", "dim_plane": "planes"}

    def write(name: str) -> None:
        rows_in, rows_out = stage.given[f"clean_{made_of[name]}"]["rows_out"], stage.write(name, tables[name])
        added = rows_out - rows_in if name in ("dim_airport", "dim_plane") else 0
        stage.account(name, rows_in, rows_out, added=added)

    stage.together(partial(write, name) for name in made_of)


if __name__ == "__main__":
    submit("enrich_data", arguments(sys.argv[1:]), enrich_all, after="clean_data")
