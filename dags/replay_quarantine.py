"""
### Release quarantined rows

Takes up rows that runs of a pipeline have put into quarantine, after a rule or the code was mended: they are cleaned by today's rules,
joined with what those runs had extracted, merged with what is published, audited and swapped in. NiFi has no part in it.

| task | what happens | where to look |
|---|---|---|
| select | what is open, counted where it lies | `etl.v_quarantine`, `etl.quarantine_replay` |
| clean_data, enrich_data | as in every run; what breaks a rule again is quarantined again, by this run | `etl.run_reject` |
| base | the published rows of the same days are kept to merge with | |
| aggregate_data, record, staging, audit, publish | as in every run | `etl.v_balance`, `etl.v_published` |

Parameters: the **pipeline**, the interval `from` and `to` that covers the runs in question, and, to take only a part, `run_id` or `rule`.
Once published, the entries count as released; undone, they are open again. `playbooks/replay_quarantine.yml` shows what it would take
up and starts it.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])

from airflow.sdk import Param, chain, dag, get_current_context, task  # noqa: E402
from common import platform  # noqa: E402
from common.pipeline import BOUND, STAGES, spark_stage  # noqa: E402

from jobs import declaration, quarantine  # noqa: E402
from jobs.lineage import events  # noqa: E402
from jobs.load import audit, journal, ledger, publish, staging  # noqa: E402

OWNER, ALERTS = "data-engineering", "data-engineering@etl.internal"
TEXT = {"type": ["null", "string"], "maxLength": 250}


def declared() -> declaration.Declaration:
    """The declaration of the pipeline whose rows are released."""
    return declaration.load(get_current_context()["params"]["pipeline"])


def current_run() -> ledger.Run:
    """The run of the task that is executing."""
    return platform.run_of(declared(), get_current_context())


def record_failure(context: dict) -> None:
    """Note in the ledger which task ended the run and why."""
    platform.record_failure(declaration.load(context["params"]["pipeline"]), context)


@task(task_id="select")
def select() -> dict[str, str]:
    """Open the run and take the entries up; returns what the Spark applications are told."""
    run, params = current_run(), get_current_context()["params"]
    s3, buckets = platform.object_store()
    with platform.warehouse() as connection:
        entries = quarantine.open_entries(connection, run.pipeline, params["run_id"], params["rule"])
        ledger.start_run(connection, run)
        url = quarantine.take_up(connection, s3, buckets["quarantine"], declared(), run, entries)
        document = json.loads(s3.get_object(Bucket=buckets["quarantine"], Key=url.split("/", 3)[3])["Body"].read())
        events.store(connection, [events.taken_up(run, url, document)])
    return {"run_id": run.run_id, "from": str(run.interval_from), "to": str(run.interval_to), "replay": url}


@task(task_id="base")
def base() -> str:
    """Keep the published rows of the days that the released ones are in; returns the URL under which they are."""
    run = current_run()
    s3, buckets = platform.object_store()
    written = platform.stage_record(s3, buckets["curated"], run, "enrich_data")["datasets"]
    with platform.warehouse() as connection:
        return quarantine.snapshot(connection, s3, buckets["quarantine"], declared(), run, written)


@task(task_id="record")
def record() -> None:
    """Enter the counts that the Spark stages left beside their output."""
    platform.record_stages(current_run(), declared(), STAGES)


@task(task_id="staging", execution_timeout=timedelta(hours=1))
def load_staging() -> dict[str, int]:
    """COPY the curated rows into the run's staging tables and merge them with the published ones; returns the rows of each."""
    run = current_run()
    s3, _ = platform.object_store()
    with platform.warehouse() as connection:
        rows = staging.load(connection, s3, declared(), run, run.attempt)
        quarantine.merge(connection, declared(), run)
    return rows


@task(task_id="audit")
def check() -> int:
    """Check the staged rows; a failed audit ends the run here, with nothing published. Returns how many there were."""
    with platform.warehouse() as connection:
        return platform.audited(lambda: audit.check(connection, declared(), current_run()))


@task(task_id="publish")
def swap() -> list[str]:
    """Swap the merged partitions in, in one transaction; returns what was published."""
    run = current_run()
    s3, buckets = platform.object_store()
    with platform.warehouse() as connection:
        versions = publish.publish(connection, declared(), run)
        events.store(connection, events.published(connection, run, declared(), versions))
        # After the commit: a retry finds the run published and enters it then.
        journal.enter(connection, s3, buckets["curated"], run.run_id)
    return [str(version) for version in versions]


@task(task_id="finish")
def finish() -> None:
    """Close the run in the ledger, with the lineage events that Airflow has spooled."""
    platform.close(current_run())


@dag(
    dag_id="replay_quarantine",
    dag_display_name="Release quarantined rows",
    description="Rows in quarantine are cleaned by today's rules and merged with what is published.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    params={
        "pipeline": Param("flights", enum=declaration.names(), description="Whose rows"),
        "from": Param(None, description="First moment of the runs in question, YYYY-MM-DD [HH:MM:SS]", **BOUND),
        "to": Param(None, description="End of the last of them", **BOUND),
        "run_id": Param(None, description="Only what this run has rejected", **TEXT),
        "rule": Param(None, description="Only what broke this rule", **TEXT),
    },
    default_args={
        "owner": OWNER,
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "execution_timeout": timedelta(minutes=15),
        "on_failure_callback": record_failure,
    },
    owner_links={OWNER: f"mailto:{ALERTS}"},
    tags=["etl", "quarantine"],
)
def replay_quarantine():
    """Quarantined rows on their way to the published tables."""
    more = {
        "clean_data": ["--replay", "{{ ti.xcom_pull('select')['replay'] }}"],
        "aggregate_data": ["--base", "{{ ti.xcom_pull('base') }}"],
    }
    clean, enrich, aggregate = (
        spark_stage(stage, "{{ params.pipeline }}", start="select", arguments=more.get(stage, ())) for stage in STAGES
    )
    chain(select(), clean, enrich, base(), aggregate, record(), load_staging(), check(), swap(), finish())


DAG = replay_quarantine()
