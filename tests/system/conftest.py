"""One deployed platform and as few pipeline runs as possible, shared by all tests of the session."""

from dataclasses import dataclass
from functools import partial

import boto3
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.deployed import Deployed, Play, Service

YEAR = ("2013-01-01", "2014-01-01")
LINEAGE = ("run_id", "release")  # columns that say where a row comes from
PUBLISHED = {
    "fact_flight": ("flight_id", "flight_date"),
    "dim_airline": ("carrier",),
    "dim_airport": ("faa",),
    "dim_plane": ("tailnum",),
    "agg_delay_day": ("flight_date", "carrier", "origin", "dest"),
}


@dataclass(frozen=True)
class Run:
    """A pipeline run: what the playbook said (None when it was there) and what the ledger says (None when it never got that far)."""

    play: Play | None
    ledger: dict | None


class Warehouse:
    """The published warehouse as a reader sees it: etl_read, TLS verified by name."""

    def __init__(self, parameters: dict[str, str]):
        self.parameters = parameters

    def rows(self, query: str, *arguments) -> list[dict]:
        """The rows of a query, as mappings."""
        with psycopg.connect(**self.parameters, row_factory=dict_row) as connection:
            return connection.execute(query, arguments).fetchall()

    def one(self, query: str, *arguments) -> dict:
        """The only row of a query."""
        (row,) = self.rows(query, *arguments)
        return row

    def content(self, table: str, where: str = "true") -> tuple[int, str]:
        """Rows and checksum of a published table, whatever run wrote them."""
        columns = self.rows(
            "select column_name from information_schema.columns"
            " where table_schema = 'dwh' and table_name = %s and column_name <> all(%s) order by ordinal_position",
            table,
            list(LINEAGE),
        )
        names, key = ", ".join(row["column_name"] for row in columns), ", ".join(PUBLISHED[table])
        checksum = f"md5(string_agg(md5(row({names})::text), '' order by {key}))"
        row = self.one(f"select count(*) as rows, {checksum} as md5 from dwh.{table} where {where}")
        return row["rows"], row["md5"]

    def contents(self) -> dict[str, tuple[int, str]]:
        """The content of every published table."""
        return {table: self.content(table) for table in PUBLISHED}


@pytest.fixture(scope="session")
def platform() -> Deployed:
    return Deployed()


@pytest.fixture(scope="session")
def warehouse(platform) -> Warehouse:
    return Warehouse(platform.environment.warehouse())


@pytest.fixture(scope="session")
def object_store(platform):
    """A boto3 client with the rights of Airflow's tasks."""
    value, minio = platform.environment.value, platform.environment.hosts("minio")
    endpoint = value("platform_s3_endpoint")
    if minio:  # by address: the controller need not resolve the platform's names
        endpoint = f"https://{value('ansible_host', minio[0])}:{endpoint.rsplit(':', 1)[1]}"
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=value("platform_s3_region"),
        aws_access_key_id=value("platform_s3_airflow_access_key"),
        aws_secret_access_key=value("platform_s3_airflow_secret_key"),
        verify=str(platform.environment.ca_file),
    )


@pytest.fixture(scope="session")
def prometheus(platform) -> Service:
    return Service(platform, "prometheus", 9090, "admin", "prometheus_admin_password")


@pytest.fixture(scope="session")
def alertmanager(platform) -> Service:
    return Service(platform, "alertmanager", 9093, "admin", "alertmanager_admin_password")


@pytest.fixture(scope="session")
def elasticsearch(platform) -> Service:
    return Service(platform, "elasticsearch", 9200, "etl-reader", "elasticsearch_reader_password")


@pytest.fixture(scope="session")
def run_pipeline(platform, warehouse):
    """Runs a pipeline over [start, end) and returns what came of it."""

    def run(pipeline: str, start: str, end: str, *arguments: str) -> Run:
        asked = ("-e", f"pipeline={pipeline}", "-e", f"from={start}", "-e", f"to={end}")
        play = platform.playbook("playbooks/run_pipeline.yml", *asked, *arguments)
        run_id = play.result("Run the pipeline").get("run_id")
        rows = warehouse.rows("select * from etl.run where run_id = %s", run_id)
        return Run(play, rows[0] if rows else None)

    return run


@pytest.fixture(scope="session")
def run_flights(run_pipeline):
    """Runs the flights pipeline over [start, end) and returns what came of it."""
    return partial(run_pipeline, "flights")


@pytest.fixture(scope="session")
def year(run_flights) -> Run:
    """The run that published the whole of 2013."""
    run = run_flights(*YEAR)
    assert run.play.returncode == 0, run.play.failed or run.play.stderr
    assert run.ledger and run.ledger["state"] == "published", run.ledger
    return run


@pytest.fixture(scope="module")
def published(run_flights, warehouse) -> Run:
    """The platform's last run, which succeeded: one more where other tests broke the one before."""
    last = warehouse.rows("select * from etl.run order by started_at desc limit 1")
    if last and last[0]["state"] == "published":
        return Run(None, last[0])
    run = run_flights("2013-02-01", "2013-03-01", "-e", "again=true")
    assert run.ledger and run.ledger["state"] == "published", run.play.failed or run.play.stderr
    return run
