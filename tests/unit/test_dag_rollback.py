"""The DAG that takes runs back: plan, approval, undo, and what each parameter selects."""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import ParamValidationError
from test_dags import load_dag_module

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

GIVEN = {
    "runs": [],
    "pipeline": None,
    "from": None,
    "to": None,
    "newer_than": None,
    "cascade": False,
    "execute": False,
    "reason": None,
}


@pytest.fixture(scope="module")
def module():
    return load_dag_module("rollback_dag")


@pytest.fixture(scope="module")
def dag(module):
    return module.DAG


def test_it_is_named_owned_documented_and_bounded(dag):
    assert dag.dag_id == "rollback_dag" and len(dag.doc_md) > 300
    assert dag.schedule is None and dag.catchup is False and dag.max_active_runs > 1, "a waiting one blocks none"
    assert dag.owner_links == {"data-engineering": "mailto:data-engineering@etl.internal"}
    for task in dag.tasks:
        assert task.owner == "data-engineering" and task.doc_md, task.task_id
        assert task.execution_timeout == timedelta(minutes=15)
    assert dag.dagrun_timeout > dag.get_task("approve").response_timeout


def test_only_what_may_be_repeated_is(dag):
    assert {task.task_id: task.retries for task in dag.tasks} == {"plan": 1, "ask": 1, "approve": 0, "undo": 2}


def test_tasks_and_their_order(dag):
    assert [task.task_id for task in dag.topological_sort()] == ["plan", "ask", "approve", "undo"]
    assert dag.get_task("undo").upstream_task_ids == {"ask", "approve"}
    assert dag.get_task("undo").trigger_rule == "none_failed_min_one_success"


def test_the_plan_is_what_people_approve(dag):
    approve = dag.get_task("approve")
    assert "xcom_pull('plan')['text']" in approve.body and "body" in approve.template_fields
    assert approve.options == ["Approve", "Reject"] and not approve.defaults, "silence is no approval"


def test_the_parameters_have_defaults_that_select_nothing(dag):
    dag.params.validate()
    assert {name: dag.params[name] for name in dag.params} == GIVEN


@pytest.mark.parametrize(
    ("name", "wrong"), [("from", "tomorrow"), ("pipeline", "none"), ("runs", "r1"), ("execute", "yes")]
)
def test_the_parameters_are_checked_before_a_run_begins(dag, name, wrong):
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(wrong)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"runs": ["orders.manual__1", "january"]}, {"run_ids": ("orders.manual__1", "january")}),
        (
            {"pipeline": "flights", "from": "2013-01-01", "to": "2013-02-01 06:00:00"},
            {"pipeline": "flights", "interval_from": datetime(2013, 1, 1), "interval_to": datetime(2013, 2, 1, 6)},
        ),
        ({"newer_than": "0123456789ab"}, {"newer_than": "0123456789ab"}),
    ],
)
def test_what_the_parameters_select(module, params, expected):
    assert module.selection(GIVEN | params) == module.undoing.Selection(**expected)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"pipeline": "flights"},
        {"runs": ["r"], "newer_than": "x"},
        {"pipeline": "flights", "from": "2013-02-01", "to": "2013-01-01"},
    ],
)
def test_parameters_that_select_nothing_or_too_much(module, params):
    with pytest.raises(module.AirflowFailException):
        module.selection(GIVEN | params)


class Ledger:
    """Stands for jobs.rollback.undo: what was planned and what was executed."""

    def __init__(self, plan, error=None):
        self.made, self.error, self.executed = plan, error, []

    def plan(self, connection, selection, *, cascade):
        return self.made

    def execute(self, connection, selection, **how):
        self.executed.append((selection, how))
        if self.error:
            raise self.error
        return {"undone": []}


@pytest.fixture
def act(module, monkeypatch):
    """Runs a task's function over a planned undo; returns what it returned and what was executed."""

    def run(name, *, planned=("r1",), refusals=(), answer=None, error=None, **params):
        plan = module.undoing.Plan({}, runs=[_run(each) for each in planned], refusals=list(refusals))
        ledger, entered = Ledger(plan, error), []
        document = plan.as_dict()
        pulled = {"plan": document, "approve": answer}
        context = {
            "params": GIVEN | {"runs": ["r1"]} | params,
            "ti": SimpleNamespace(xcom_pull=lambda task_ids: pulled[task_ids]),
            "dag_run": SimpleNamespace(run_id="manual__x", triggering_user_name="ann"),
        }
        monkeypatch.setattr(module, "get_current_context", lambda: context)
        monkeypatch.setattr(module.platform, "warehouse", lambda: nullcontext(object()))
        monkeypatch.setattr(module.platform, "object_store", lambda: (None, {"curated": "curated"}))
        monkeypatch.setattr(module.journal, "enter", lambda c, s3, bucket, run_id: entered.append(run_id))
        monkeypatch.setattr(module.undoing, "plan", ledger.plan)
        monkeypatch.setattr(module.undoing, "execute", ledger.execute)
        return module.DAG.get_task(name).python_callable(), ledger.executed, entered

    return run


def _run(run_id):
    return {
        "run_id": run_id,
        "release": "x",
        "interval_from": "a",
        "interval_to": "b",
        "published_at": "c",
        "chosen": True,
    }


def test_a_plan_comes_with_its_text(act):
    document, executed, _ = act("plan")
    assert "| r1 |" in document["text"] and not executed


def test_a_refusal_fails_with_its_reason_and_nothing_to_do_is_skipped(module, act):
    with pytest.raises(module.AirflowFailException, match="run r1: because"):
        act("plan", refusals=[{"run_id": "r1", "reason": "because"}])
    with pytest.raises(module.AirflowSkipException):
        act("plan", planned=())


def test_it_asks_unless_it_is_told_not_to(act):
    assert act("ask")[0] == "approve"
    assert act("ask", execute=True)[0] == "undo"


def test_what_was_approved_is_what_is_undone_and_by_whom(act):
    result, executed, entered = act("undo", answer={"responded_by_user": {"id": "2", "name": "bob"}}, reason="bad")
    (_, how) = executed[0]
    assert (how["expected"], how["by"], how["reason"]) == (["r1"], "bob", "bad")
    assert (result["by"], entered) == ("bob", ["r1"])
    assert act("undo", answer=None)[0]["by"] == "ann"


def test_repeated_an_interval_does_not_take_back_the_runs_before(module, act):
    """Once what was approved is undone, readers see others in the interval."""
    _, ((selection, how),), entered = act(
        "undo", planned=("r3", "r2"), **{"runs": [], "pipeline": "flights", "from": "2013-01-01", "to": "2013-02-01"}
    )
    assert selection == module.undoing.Selection(run_ids=("r3", "r2"))
    assert how["expected"] == entered == ["r3", "r2"]


def test_a_refusal_is_not_repeated_and_a_lock_is(module, act):
    with pytest.raises(module.AirflowFailException, match="plan again"):
        act("undo", error=module.PublishRefused("plan again"))
    with pytest.raises(module.PublishLocked):
        act("undo", error=module.PublishLocked("locked"))
