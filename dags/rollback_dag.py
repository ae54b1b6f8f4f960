"""
### Take published runs back

Undoes what one or more runs, an interval of a pipeline, or every release newer than one published: former partitions, dimension
rows and aggregates are published again, in one transaction. Nothing is computed; how large the tables are does not matter.

| task | what happens | where to look |
|---|---|---|
| plan | what would be taken back, what readers would see, what else stands on it; a refusal fails here | its log, the approval |
| ask | goes on without asking when `execute` is set | |
| approve | waits for somebody to read the plan and approve it (12 hours) | *Required Actions* |
| undo | the swap; refused when the plan has come to name other runs meanwhile | `etl.undo`, `etl.v_published`, `etl.v_stale` |

Give **one** of: `runs`; `pipeline` with `from` and `to` (the runs that readers see in it); `newer_than`, a release. Runs that published
later on top make the plan refuse, unless `cascade` takes them back too. Undone already: nothing happens, again and again.
The same on a command line: `python -m jobs.rollback.undo`.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])

from airflow.providers.standard.operators.hitl import ApprovalOperator  # noqa: E402
from airflow.sdk import Param, chain, dag, get_current_context, task  # noqa: E402
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException  # noqa: E402
from common import platform  # noqa: E402

from jobs import declaration  # noqa: E402
from jobs.load import journal  # noqa: E402
from jobs.load.publish import PublishLocked, PublishRefused  # noqa: E402
from jobs.rollback import undo as undoing  # noqa: E402

OWNER, ALERTS = "data-engineering", "data-engineering@etl.internal"
MOMENT = {"type": ["null", "string"], "pattern": rf"^{platform.BOUND.pattern}$"}
TEXT = {"type": ["null", "string"], "maxLength": 200}


def selection(params: dict[str, Any]) -> undoing.Selection:
    """What the run's parameters select; AirflowFailException says what is wrong with them."""
    moment = {name: value and datetime.fromisoformat(value) for name, value in params.items() if name in ("from", "to")}
    try:
        return undoing.Selection(
            run_ids=tuple(params["runs"] or ()),
            pipeline=params["pipeline"],
            interval_from=moment["from"],
            interval_to=moment["to"],
            newer_than=params["newer_than"],
        )
    except ValueError as error:
        raise AirflowFailException(str(error)) from None


@task(task_id="plan", retries=1)
def plan() -> dict[str, Any]:
    """Say what would be taken back and what readers would see; returns the plan. A refusal fails, with its reasons."""
    context = get_current_context()
    with platform.warehouse() as connection:
        try:
            made = undoing.plan(connection, selection(context["params"]), cascade=context["params"]["cascade"])
        except LookupError as error:
            raise AirflowFailException(str(error)) from None
    document = made.as_dict()
    document["text"] = undoing.text(document)
    print(document["text"])
    if made.refusals:
        raise AirflowFailException("; ".join(f"run {each['run_id']}: {each['reason']}" for each in made.refusals))
    if not made.executable:
        raise AirflowSkipException("nothing to take back")
    return document


@task.branch(task_id="ask", retries=1)
def ask() -> str:
    """Whether somebody has to approve the plan: not when the run was triggered with `execute`."""
    return "undo" if get_current_context()["params"]["execute"] else "approve"


@task(task_id="undo", retries=2, trigger_rule="none_failed_min_one_success")
def undo() -> dict[str, Any]:
    """Take the planned runs back; repeated, it finds them undone. Returns the versions that readers see now."""
    context = get_current_context()
    params, plan = context["params"], context["ti"].xcom_pull(task_ids="plan")
    planned = [run["run_id"] for run in plan["runs"]]
    answer = context["ti"].xcom_pull(task_ids="approve") or {}
    approved_by = (answer.get("responded_by_user") or {}).get("name")
    by = approved_by or context["dag_run"].triggering_user_name or "airflow"
    with platform.warehouse() as connection:
        try:
            done = undoing.execute(
                connection,
                undoing.Selection(
                    run_ids=tuple(planned)
                ),  # an interval would name the runs before them, once they are undone
                cascade=params["cascade"],
                by=by,
                reason=params["reason"] or context["dag_run"].run_id,
                expected=planned,
            )
        except PublishLocked:
            raise  # readers or another run have the tables: worth another try
        except PublishRefused as error:
            raise AirflowFailException(str(error)) from None
        s3, buckets = platform.object_store()
        journal.enter_all(connection, s3, buckets["curated"], planned)
    return {"undone": done["undone"], "runs": planned, "by": by}


@dag(
    dag_id="rollback_dag",
    dag_display_name="Take published runs back",
    description="Undo of runs, of an interval of a pipeline, or of newer releases, with its plan to approve",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=16,  # one that waits for approval keeps no other from being planned
    dagrun_timeout=timedelta(hours=14),
    params={
        "runs": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            description="Ids of runs, one a line, as etl.v_run lists them",
        ),
        "pipeline": Param(None, type=["null", "string"], enum=[None, *declaration.names()]),
        "from": Param(
            None, description="Start of the pipeline's interval, YYYY-MM-DD [HH:MM:SS], its local time", **MOMENT
        ),
        "to": Param(None, description="End of the interval, not part of it", **MOMENT),
        "newer_than": Param(None, description="A release: all that newer ones published", **TEXT),
        "cascade": Param(False, type="boolean", description="Take back what was published on top of it too"),
        "execute": Param(False, type="boolean", description="Do it without asking for approval"),
        "reason": Param(None, description="Kept in etl.undo", **TEXT),
    },
    default_args={
        "owner": OWNER,
        "retry_delay": timedelta(seconds=20),
        "execution_timeout": timedelta(minutes=15),
    },
    owner_links={OWNER: f"mailto:{ALERTS}"},
    tags=["etl", "rollback"],
)
def rollback_dag():
    """Plan, approval, undo."""
    approve = ApprovalOperator(
        task_id="approve",
        subject="Take back: {{ ti.xcom_pull('plan')['runs'] | map(attribute='run_id') | join(', ') }}",
        body="{{ ti.xcom_pull('plan')['text'] }}",
        response_timeout=timedelta(hours=12),
        retries=0,
        doc_md="Waits until somebody approves or rejects the plan; rejected, nothing is taken back.",
    )
    asked, done = ask(), undo()
    chain(plan(), asked, approve, done)
    chain(asked, done)


DAG = rollback_dag()
