"""
### Flights from New York

Reads flights (PostgreSQL), planes (MariaDB), airlines and airports (files over SFTP) of one interval and publishes
`dwh.fact_flight` by month, the dimensions and the delay aggregates. The declaration is `jobs/pipelines/flights.yml`.

| group | what happens | where to look |
|---|---|---|
| extract | NiFi puts each dataset to `s3://raw` and seals it with a manifest | NiFi, `etl.run_source` |
| transform | Spark cleans, joins, adds up; rejected rows go to `s3://quarantine` | history server, `etl.run_reject` |
| load | COPY into `staging` | `etl.run_stage` |
| publish | audits, then one transaction swaps the partitions in | `etl.audit_result`, `etl.v_published` |

**Backfill**: trigger with `from` and `to`, any length (a year is one run). **Retry**: a sealed dataset is not read
again; a transform writes under a new attempt. **A failed audit publishes nothing**: the old data stay as they are.
The whole run uses the release it began with.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "dags")]

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator  # noqa: E402
from airflow.sdk import CronDataIntervalTimetable, Param, chain, dag, get_current_context, task, task_group  # noqa: E402
from common import platform  # noqa: E402

from jobs.declaration import Source, load  # noqa: E402
from jobs.extract import manifest, request  # noqa: E402
from jobs.load import audit, ledger, publish, staging  # noqa: E402

DECLARATION = load("flights")
RELEASE = platform.RELEASES / platform.release()
STAGES = ("clean_data", "enrich_data", "aggregate_data")
BOUND = {"type": ["null", "string"], "pattern": rf"^{platform.BOUND.pattern}$"}


def current_run() -> ledger.Run:
    """The run of the task that is executing."""
    return platform.run_of(DECLARATION, get_current_context())


def record_failure(context: dict) -> None:
    """Note in the ledger which task ended the run and why."""
    run = platform.run_of(DECLARATION, context)
    with platform.warehouse() as connection:
        ledger.finish_run(connection, run, "failed", error=f"{context['ti'].task_id}: {context.get('exception')}")


@task(task_id="start")
def start() -> dict[str, str]:
    """Open the run in the ledger; returns what the Spark applications are told about it."""
    run = current_run()
    with platform.warehouse() as connection:
        ledger.start_run(connection, run)
    return {"run_id": run.run_id, "from": str(run.interval_from), "to": str(run.interval_to)}


def extract(source: Source):
    """The task that has NiFi extract one dataset; it returns the URL of the sealed manifest."""

    @task(task_id=source.name, execution_timeout=timedelta(minutes=30))
    def extract_dataset() -> str:
        """Ask NiFi for the dataset and wait for its sealed manifest; one that is there already is reused."""
        run = current_run()
        s3, buckets = platform.object_store()
        sealed = manifest.find_sealed(s3, buckets["raw"], source.connection, source.name, run)
        if sealed is None:
            files = platform.landed_files(source.connection, source.files) if source.kind == "sftp" else []
            with platform.nifi(DECLARATION.port) as (session, url):
                sealed = request.extract(session, url, s3, buckets["raw"], run, source, files)
        with platform.warehouse() as connection:
            ledger.record_extract(connection, run, sealed)
        return sealed.url

    return extract_dataset()


def spark(script: str, *arguments: str) -> SparkSubmitOperator:
    """The task that runs one Spark application of the run's release."""
    return SparkSubmitOperator(
        task_id=script,
        conn_id="spark",
        name=f"{DECLARATION.pipeline}.{script}",
        application=str(RELEASE / "jobs/transform/spark" / f"{script}.py"),
        py_files=str(RELEASE / "jobs.zip"),
        application_args=[
            *("--pipeline", DECLARATION.pipeline),
            *("--run-id", "{{ ti.xcom_pull('start')['run_id'] }}"),
            *("--attempt", "{{ ti.try_number }}"),
            *("--from", "{{ ti.xcom_pull('start')['from'] }}"),
            *("--to", "{{ ti.xcom_pull('start')['to'] }}"),
            *arguments,
        ],
        execution_timeout=timedelta(hours=2),
        doc_md=f"Submits `jobs/transform/spark/{script}.py` of the run's release; `record` enters its counts.",
    )


@task(task_id="record")
def record_stages() -> None:
    """Enter the counts that the Spark stages left beside their output."""
    run = current_run()
    s3, buckets = platform.object_store()
    with platform.warehouse() as connection:
        for stage in STAGES:
            ledger.record_stage(connection, run, platform.stage_record(s3, buckets["curated"], run, stage))


@task(task_id="staging", execution_timeout=timedelta(hours=1))
def load_staging() -> dict[str, int]:
    """COPY the curated rows into the run's staging tables; returns the rows of each."""
    run = current_run()
    s3, _ = platform.object_store()
    with platform.warehouse() as connection:
        return staging.load(connection, s3, DECLARATION, run, run.attempt)


@task(task_id="audit", retries=0)
def check() -> int:
    """Check the staged rows; a failed audit ends the run here, with nothing published. Returns how many there were."""
    with platform.warehouse() as connection:
        return len(audit.check(connection, DECLARATION, current_run()))


@task(task_id="publish")
def swap() -> list[str]:
    """Swap the run's partitions in and merge its dimensions, in one transaction; returns what was published."""
    with platform.warehouse() as connection:
        return [str(partition) for partition in publish.publish(connection, DECLARATION, current_run())]


@task(task_id="finish")
def finish() -> None:
    """Close the run in the ledger."""
    with platform.warehouse() as connection:
        ledger.finish_run(connection, current_run(), "published")


@dag(
    dag_id="etl_pipeline",
    dag_display_name="Flights from New York",
    description=DECLARATION.description,
    doc_md=__doc__,
    # The data end with 2013: the schedule is there for an example, and makes no run of its own any more.
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone=DECLARATION.timezone),
    start_date=datetime(2013, 1, 1, tzinfo=ZoneInfo(DECLARATION.timezone)),
    end_date=datetime(2013, 12, 31, tzinfo=ZoneInfo(DECLARATION.timezone)),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    params={
        "from": Param(None, description="First moment, YYYY-MM-DD [HH:MM:SS], local time of the sources", **BOUND),
        "to": Param(None, description="End of the interval, not part of it", **BOUND),
    },
    default_args={
        "owner": DECLARATION.owner,
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(minutes=15),
        "on_failure_callback": record_failure,
    },
    owner_links={DECLARATION.owner: f"mailto:{DECLARATION.alerts}"},
    tags=["etl", f"pipeline:{DECLARATION.pipeline}"],
)
def etl_pipeline():
    """The pipeline from the sources to the published tables."""

    @task_group(group_id="extract", tooltip="NiFi reads the sources and seals raw objects")
    def extract_group() -> list[str]:
        return [extract(source) for source in DECLARATION.sources.values()]

    @task_group(group_id="transform", tooltip="Spark cleans, joins and adds up")
    def transform_group() -> None:
        manifests = [
            argument
            for name in DECLARATION.sources
            for argument in ("--manifest", f"{name}={{{{ ti.xcom_pull('extract.{name}') }}}}")
        ]
        clean, enrich, aggregate = spark("clean_data", *manifests), spark("enrich_data"), spark("aggregate_data")
        chain(clean, enrich, aggregate, record_stages())

    @task_group(group_id="load", tooltip="COPY into staging")
    def load_group() -> None:
        load_staging()

    @task_group(group_id="publish", tooltip="Audit, then swap in")
    def publish_group() -> None:
        chain(check(), swap())

    chain(start(), extract_group(), transform_group(), load_group(), publish_group(), finish())


DAG = etl_pipeline()
