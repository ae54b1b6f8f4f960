"""The flights pipeline on a deployed platform, held against figures computed from the public data alone."""

import hashlib
import json
import time

import pytest

from jobs.declaration import load
from tests.chaos import DAG, Airflow
from tests.observed import until
from tests.oracle import flights_2013

FEBRUARY = ("2013-02-01", "2013-03-01")
MARCH = ("2013-03-01", "2013-04-01")


@pytest.fixture(scope="module")
def oracle() -> dict:
    return flights_2013.figures()


@pytest.fixture(scope="module")
def facts(year, warehouse) -> dict:
    """The same figures, as published."""
    return warehouse.one("""
        select
            count(*) as rows,
            avg(arr_delay_minutes)::float8 as mean_arr_delay,
            count(*) filter (where cancelled) as cancelled,
            count(*) filter (where diverted) as diverted,
            count(*) filter (where not dest_known) as unknown_dest_rows,
            array_agg(distinct dest order by dest) filter (where not dest_known) as unknown_dest,
            count(*) filter (where tailnum is null) as no_tailnum_rows,
            count(*) filter (where tailnum is not null and not plane_known) as unknown_tailnum_rows,
            count(distinct tailnum) filter (where not plane_known) as unknown_tailnums,
            sum(distance_miles) as distance,
            sum(air_time_minutes) as air_time,
            sum(flight_id) as flight_ids,
            sum(extract(epoch from scheduled_departure))::bigint as departure_epochs,
            count(*) filter (where flight_date < '2013-07-01') as delivered_as_files
        from dwh.fact_flight
    """)


FIGURES = (
    "rows",
    "cancelled",
    "diverted",
    "unknown_dest_rows",
    "unknown_dest",
    "no_tailnum_rows",
    "unknown_tailnum_rows",
    "unknown_tailnums",
    "distance",
    "air_time",
    "flight_ids",
    "departure_epochs",
    "delivered_as_files",
)


@pytest.mark.parametrize("figure", FIGURES)
def test_published_figure_is_the_oracles(facts, oracle, figure):
    assert facts[figure] == oracle[figure]


def test_mean_arrival_delay(facts, oracle):
    assert facts["mean_arr_delay"] == pytest.approx(oracle["mean_arr_delay"], rel=1e-12)


WEATHER = {"temp": "temperature_f", "wind_speed": "wind_mph", "precip": "precipitation_in", "visib": "visibility_miles"}


def test_weather_of_the_hour_of_departure(year, warehouse, oracle):
    columns = ", ".join(f"count({column}) as {name}_rows, avg({column}) as {name}" for name, column in WEATHER.items())
    row = warehouse.one(f"select {columns} from dwh.fact_flight")
    assert {name: row[f"{name}_rows"] for name in WEATHER} == oracle["weather_rows"]
    assert {name: row[name] for name in WEATHER} == pytest.approx(oracle["weather_means"], rel=1e-9)


def test_the_windiest_day_is_that_of_the_aggregates(year, warehouse, oracle):
    row = warehouse.one("""
        select a.flight_date, sum(a.mean_wind_mph * f.observed) / sum(f.observed) as mean
        from dwh.agg_delay_day as a
        inner join (
            select flight_date, carrier, origin, dest, count(wind_mph) as observed from dwh.fact_flight group by 1, 2, 3, 4
        ) as f using (flight_date, carrier, origin, dest)
        where f.observed > 0
        group by a.flight_date order by mean desc limit 1
    """)
    assert row["flight_date"].isoformat() == oracle["windiest_day"]
    assert row["mean"] == pytest.approx(oracle["windiest_day_mean"], rel=1e-9)


def test_rows_by_month(year, warehouse, oracle):
    rows = warehouse.rows("select to_char(flight_date, 'YYYY-MM') as key, count(*) from dwh.fact_flight group by key")
    assert {row["key"]: row["count"] for row in rows} == oracle["by_month"]


def test_rows_and_mean_delay_by_carrier(year, warehouse, oracle):
    rows = warehouse.rows(
        "select carrier, count(*), avg(arr_delay_minutes)::float8 as mean from dwh.fact_flight group by carrier"
    )
    assert {row["carrier"]: row["count"] for row in rows} == oracle["by_carrier"]
    assert {row["carrier"]: row["mean"] for row in rows} == pytest.approx(
        oracle["mean_arr_delay_by_carrier"], rel=1e-12
    )


def test_aggregates_add_up_to_the_same(year, warehouse, oracle):
    row = warehouse.one("""
        select
            sum(flights) as flights,
            sum(cancelled) as cancelled,
            sum(diverted) as diverted,
            sum(mean_arr_delay_minutes * (departed - diverted)) / sum(departed - diverted) as mean
        from dwh.agg_delay_day
    """)
    assert (row["flights"], row["cancelled"], row["diverted"]) == (
        oracle["rows"],
        oracle["cancelled"],
        oracle["diverted"],
    )
    assert row["mean"] == pytest.approx(oracle["mean_arr_delay"], rel=1e-9)


def test_dimensions_hold_the_source_and_the_unknown_members(year, warehouse, oracle):
    airports = warehouse.one("select count(*) filter (where known) as known, count(*) as all from dwh.dim_airport")
    planes = warehouse.one("select count(*) filter (where known) as known, count(*) as all from dwh.dim_plane")
    assert warehouse.one("select count(*) from dwh.dim_airline")["count"] == oracle["airlines"]
    assert airports == {"known": oracle["airports"], "all": oracle["airports"] + len(oracle["unknown_dest"])}
    assert planes == {"known": oracle["planes"], "all": oracle["planes"] + oracle["unknown_tailnums"]}


def test_ledger_counts_the_source_rows(year, warehouse, oracle):
    run_id = year.ledger["run_id"]
    rows = warehouse.rows("select dataset, row_count from etl.run_source where run_id = %s", run_id)
    counted = {row["dataset"]: row["row_count"] for row in rows}
    assert counted == {
        "flights_files": None,  # files are taken as they are; their rows are counted when they are read
        "flights_table": oracle["rows"] - oracle["delivered_as_files"],
        "weather": oracle["observations"],
        "planes": oracle["planes"],
        "airlines": None,
        "airports": None,
    }
    read = warehouse.one(
        "select rows_in from etl.run_stage where run_id = %s and dataset = 'clean_flights_files'", run_id
    )
    assert read["rows_in"] == oracle["delivered_as_files"]
    rejected = warehouse.one("select coalesce(sum(row_count), 0) as rows from etl.run_reject where run_id = %s", run_id)
    assert rejected["rows"] == 0, "the 2013 data break no rule"


def test_raw_objects_are_what_their_sealed_manifests_list(year, warehouse, object_store, platform):
    bucket = platform.environment.value("platform_s3_buckets")["raw"]
    sources = warehouse.rows("select dataset, manifest from etl.run_source where run_id = %s", year.ledger["run_id"])
    for source in sources:
        files = source["manifest"]["files"]
        prefix = files[0]["key"].rpartition("/")[0] + "/"
        listed = object_store.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        assert {item["Key"] for item in listed} == {file["key"] for file in files} | {prefix + "_manifest.json"}
        sealed = json.load(object_store.get_object(Bucket=bucket, Key=prefix + "_manifest.json")["Body"])
        assert [file["sha256"] for file in sealed["files"]] == [file["sha256"] for file in files]
        for file in files:
            content = object_store.get_object(Bucket=bucket, Key=file["key"])["Body"].read()
            assert len(content) == int(file["bytes"])
            assert hashlib.sha256(content).hexdigest() == file["sha256"], file["key"]


@pytest.fixture(scope="module")
def history(platform):
    """The history server's REST API, asked on its own host with that host's client certificate."""
    host = platform.environment.hosts("spark_history")[0]
    name = f"{host}.{platform.environment.value('platform_domain')}"
    credentials = "--cert /etc/spark/tls/spark.crt --key /etc/spark/tls/spark.key"

    def get(path: str):
        url = f"https://{name}:18480/api/v1/{path}"
        return json.loads(platform.run(host, f"curl -sSf {credentials} '{url}'"))

    return get


@pytest.fixture(scope="module")
def applications(year, history) -> dict[str, str]:
    """Ids of the year's Spark applications, by stage."""
    found = {}
    for application in history("applications?status=completed"):
        pipeline, stage, run_id, *_ = application["name"].split()
        if (pipeline, run_id) == ("flights", year.ledger["run_id"]):
            found[stage] = application["id"]
    return found


def test_every_stage_ran_tasks_on_a_worker(applications, history, platform):
    workers = set(platform.environment.hosts("spark_worker"))
    assert set(applications) == {"clean_data", "enrich_data", "aggregate_data"}
    for stage, application in applications.items():
        executors = [e for e in history(f"applications/{application}/allexecutors") if e["id"] != "driver"]
        on_workers = [e for e in executors if e["hostPort"].split(".")[0].split(":")[0] in workers]
        assert sum(e["completedTasks"] for e in on_workers) > 0, f"{stage}: no task ran on {workers}: {executors}"


def test_spark_read_every_source_row(applications, history, oracle):
    stages = history(f"applications/{applications['clean_data']}/stages?status=complete")
    files = oracle["delivered_as_files"]
    assert {files, oracle["rows"] - files} <= {stage["inputRecords"] for stage in stages}


def test_a_rerun_publishes_the_same_content(year, run_flights, warehouse):
    before = warehouse.contents()
    run = run_flights(*FEBRUARY, "-e", "again=true")
    assert run.play.returncode == 0, run.play.failed or run.play.stderr
    assert run.ledger["state"] == "published"
    assert warehouse.contents() == before
    february = warehouse.one("select run_id from etl.v_published where partition_name = 'fact_flight_201302'")
    assert february["run_id"] == run.ledger["run_id"], "the partition is the new run's"


@pytest.mark.slow
def test_a_backfill_in_airflow_publishes_the_same_content(platform, year, warehouse):
    """Two months at once, as the button in Airflow asks for them: their runs go by the DAG's name in the ledger."""
    airflow, before = Airflow(platform), warehouse.contents()
    asked = {
        "dag_id": DAG,
        "from_date": "2013-02-01T05:00:00Z",
        "to_date": "2013-03-01T05:00:00Z",
        "max_active_runs": 2,
    }
    backfill = airflow.post("/api/v2/backfills", asked | {"reprocess_behavior": "completed"})["id"]
    until(lambda: airflow.get(f"/api/v2/backfills/{backfill}")["completed_at"], 1200, every=5)
    runs = warehouse.rows(
        "select state, interval_from::date::text as start, interval_to::date::text as end from etl.run"
        " where starts_with(run_id, 'etl_pipeline.backfill__2013-') order by 2"
    )
    assert runs == [{"state": "published", "start": start, "end": end} for start, end in (FEBRUARY, MARCH)]
    assert warehouse.contents() == before


def test_the_comparison_of_contents_sees_one_row(year, warehouse):
    """The check above can fail: without one of the rows it is another content."""
    assert warehouse.content("fact_flight", "flight_id <> 1") != warehouse.content("fact_flight")


@pytest.fixture
def nifi_stopped(platform):
    """NiFi down for the test, up and taking requests again after it."""
    host = platform.environment.hosts("nifi")[0]
    (airflow,) = platform.environment.hosts("airflow")
    requests = platform.environment.value("platform_address", host), load("flights").port
    platform.run(host, "systemctl stop nifi.service")
    yield
    platform.run(host, "systemctl start nifi.service")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if platform.reaches(airflow, *requests):
            return
        time.sleep(5)
    pytest.fail(f"NiFi takes no requests on {requests} five minutes after its start")


@pytest.mark.slow
def test_without_nifi_the_run_fails_and_nothing_changes(year, run_flights, warehouse, nifi_stopped):
    before = warehouse.contents()
    run = run_flights(*MARCH, "-e", "again=true")
    assert run.play.returncode != 0
    assert "failed in extract." in run.play.failed[0], run.play.failed
    assert run.ledger["state"] == "failed"
    assert "NiFi does not answer at https://" in run.ledger["error"]
    assert warehouse.contents() == before
