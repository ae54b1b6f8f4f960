"""The DAG of a declared pipeline: extract, transform, load, publish, the same for every one.

A pipeline's file in dags/ is its documentation and one call of `pipeline_dag`; its name is the DAG's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param, chain, dag, get_current_context, task, task_group

from common import platform
from jobs.declaration import Declaration, Source, load
from jobs.extract import manifest, request
from jobs.lineage import events
from jobs.load import audit, journal, ledger, publish, staging

STAGES = ("clean_data", "enrich_data", "aggregate_data")
BOUND = {"type": ["null", "string"], "pattern": rf"^{platform.BOUND.pattern}$"}
MAX_ACTIVE_RUNS = 1  # of a pipeline, however they were triggered: the next one waits in Airflow's queue


def pipeline_dag(pipeline: str, *, dag_id: str, title: str, doc_md: str, **settings: Any) -> DAG:
    """The DAG that runs `jobs/pipelines/<pipeline>.yml`.

    dag_id: the name of the calling file. title: what people read. settings: further arguments of `airflow.sdk.dag`, such
    as schedule, start_date and end_date; without a schedule a run needs the parameters `from` and `to`.
    Raises DeclarationError when the declaration is wrong, which Airflow shows as an import error.
    """
    declaration = load(pipeline)
    steps = Steps(declaration)

    def record_failure(context: dict) -> None:
        """Note in the ledger which task ended the run and why."""
        platform.record_failure(declaration, context)

    @dag(
        **{
            "dag_id": dag_id,
            "dag_display_name": title,
            "description": declaration.description,
            "doc_md": doc_md,
            "schedule": None,
            "catchup": False,
            "is_paused_upon_creation": False,
            "max_active_runs": MAX_ACTIVE_RUNS,
            "dagrun_timeout": timedelta(hours=6),
            "params": {
                "from": Param(
                    None, description="First moment, YYYY-MM-DD [HH:MM:SS], local time of the sources", **BOUND
                ),
                "to": Param(None, description="End of the interval, not part of it", **BOUND),
            },
            "default_args": {
                "owner": declaration.owner,
                "retries": 2,
                "retry_delay": timedelta(seconds=20),
                "retry_exponential_backoff": True,
                "max_retry_delay": timedelta(minutes=5),
                "execution_timeout": timedelta(minutes=15),
                "on_execute_callback": platform.name_release,
                "on_failure_callback": record_failure,
            },
            "owner_links": {declaration.owner: f"mailto:{declaration.alerts}"},
            "tags": ["etl", f"pipeline:{pipeline}"],
            **settings,
        }
    )
    def build() -> None:
        @task_group(group_id="extract", tooltip="NiFi reads the sources and seals raw objects")
        def extract_group() -> None:
            for source in declaration.sources.values():
                steps.extract(source)

        @task_group(group_id="transform", tooltip="Spark cleans, joins and adds up")
        def transform_group() -> None:
            chain(*[steps.spark(stage) for stage in STAGES], steps.record())

        @task_group(group_id="load", tooltip="COPY into staging")
        def load_group() -> None:
            steps.staging()

        @task_group(group_id="publish", tooltip="Audit, then swap in")
        def publish_group() -> None:
            chain(steps.audit(), steps.publish())

        chain(steps.start(), extract_group(), transform_group(), load_group(), publish_group(), steps.finish())

    return build()


def spark_stage(
    stage: str, pipeline: str, *, start: str = "start", arguments: Sequence[str] = ()
) -> SparkSubmitOperator:
    """The task that runs one Spark application of the run's release; `start` is the task that told run_id, from and to."""
    release = platform.RELEASES / platform.release()
    return SparkSubmitOperator(
        task_id=stage,
        conn_id="spark",
        name=f"{pipeline}.{stage}",
        application=str(release / "jobs/transform/spark" / f"{stage}.py"),
        py_files=str(release / "jobs.zip"),
        application_args=[
            *("--pipeline", pipeline),
            *("--run-id", f"{{{{ ti.xcom_pull('{start}')['run_id'] }}}}"),
            *("--attempt", "{{ ti.try_number }}"),
            *("--from", f"{{{{ ti.xcom_pull('{start}')['from'] }}}}"),
            *("--to", f"{{{{ ti.xcom_pull('{start}')['to'] }}}}"),
            *arguments,
        ],
        execution_timeout=timedelta(hours=2),
        doc_md=f"Submits `jobs/transform/spark/{stage}.py` of the run's release; `record` enters its counts.",
    )


class Steps:
    """The tasks of one pipeline's DAG; each method makes one of them."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration

    def current_run(self) -> ledger.Run:
        """The run of the task that is executing."""
        return platform.run_of(self.declaration, get_current_context())

    def start(self) -> Any:
        @task(task_id="start")
        def start() -> dict[str, str]:
            """Open the run in the ledger; returns what the Spark applications are told about it."""
            run = self.current_run()
            platform.require_whole_days(self.declaration, run)
            with platform.warehouse() as connection:
                ledger.start_run(connection, run)
                for other in ledger.close_ended(connection, run, platform.end_of):
                    print(f"run {other} was open in the ledger and has ended: closed")
            return {"run_id": run.run_id, "from": str(run.interval_from), "to": str(run.interval_to)}

        return start()

    def extract(self, source: Source) -> Any:
        # Once more than other tasks, and evenly: NiFi takes a minute or two to start again.
        @task(
            task_id=source.name,
            retries=3,
            retry_delay=timedelta(seconds=50),
            retry_exponential_backoff=0,
            execution_timeout=timedelta(minutes=30),
        )
        def extract_dataset() -> str:
            """Ask NiFi for the dataset and wait for its sealed manifest, whose URL it returns; one that is there already is reused.

            A source that has no days of the run's interval is not asked.
            """
            run = self.current_run()
            bounds = source.overlap(run.interval_from, run.interval_to)
            if bounds is None:
                return manifest.NOT_ASKED
            part = replace(run, interval_from=bounds[0], interval_to=bounds[1])
            s3, buckets = platform.object_store()
            sealed, before = manifest.find_sealed(s3, buckets["raw"], source.connection, source.name, part), None
            if sealed is None:
                with platform.nifi(self.declaration.port) as (session, url):
                    files = platform.landed_files(source, part, session, url)
                    before = platform.source_count(self.declaration, source, part, [file["name"] for file in files])
                    sealed = request.extract(session, url, s3, buckets["raw"], part, source, files)
            names = [file.name for file in sealed.files if file.name]
            delivered = partial(platform.raw_file, s3, sealed)
            after = platform.source_count(self.declaration, source, part, names, delivered)
            with platform.warehouse() as connection:
                ledger.record_extract(connection, run, sealed)
                ledger.record_count(connection, run, source.name, after, before)
                events.store(connection, [events.extracted(run, sealed, platform.object_versions(s3, sealed))])
            return sealed.url

        return extract_dataset()

    def spark(self, stage: str) -> SparkSubmitOperator:
        """The task that runs one Spark application of the run's release."""
        manifests = [
            argument
            for name in self.declaration.sources
            for argument in ("--manifest", f"{name}={{{{ ti.xcom_pull('extract.{name}') }}}}")
        ]
        return spark_stage(stage, self.declaration.pipeline, arguments=manifests if stage == STAGES[0] else ())

    def record(self) -> Any:
        @task(task_id="record")
        def record_stages() -> None:
            """Enter the counts that the Spark stages left beside their output."""
            platform.record_stages(self.current_run(), self.declaration, STAGES)

        return record_stages()

    def staging(self) -> Any:
        @task(task_id="staging", execution_timeout=timedelta(hours=1))
        def load_staging() -> dict[str, int]:
            """COPY the curated rows into the run's staging tables; returns the rows of each."""
            run = self.current_run()
            s3, _ = platform.object_store()
            with platform.warehouse() as connection:
                return staging.load(connection, s3, self.declaration, run, run.attempt)

        return load_staging()

    def audit(self) -> Any:
        @task(task_id="audit")
        def check() -> int:
            """Check the staged rows; a failed audit ends the run here, with nothing published. Returns how many there were."""
            run = self.current_run()

            def results() -> list[audit.Result]:
                audit.require_newest(connection, self.declaration, run)
                return audit.check(connection, self.declaration, run)

            with platform.warehouse() as connection:
                return platform.audited(results)

        return check()

    def publish(self) -> Any:
        @task(task_id="publish")
        def swap() -> list[str]:
            """Swap the run's partitions in and merge its dimensions, in one transaction; returns what was published."""
            run = self.current_run()
            s3, buckets = platform.object_store()
            with platform.warehouse() as connection:
                versions = publish.publish(connection, self.declaration, run)
                events.store(connection, events.published(connection, run, self.declaration, versions))
                # After the commit: a retry finds the run published and enters it then.
                journal.enter(connection, s3, buckets["curated"], run.run_id)
            return [str(version) for version in versions]

        return swap()

    def finish(self) -> Any:
        @task(task_id="finish")
        def finish() -> None:
            """Close the run in the ledger, with the lineage events that Airflow has spooled."""
            platform.close(self.current_run())

        return finish()
