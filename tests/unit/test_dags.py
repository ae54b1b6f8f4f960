"""The pipelines' DAGs: importable, owned, bounded, documented, in the right order; one for every declaration."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import declaration
from jobs.load.ledger import NAMED_BY_AIRFLOW

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

ROOT = Path(__file__).resolve().parents[2]
FILES = {"flights": "etl_pipeline"}  # where the file has another name than the pipeline
STAGES = ("clean_data", "enrich_data", "aggregate_data")


def load_dag_module(name: str):
    """Import a DAG file as Airflow does: by path, with nothing of it on sys.path."""
    spec = importlib.util.spec_from_file_location(f"unusual_prefix_{name}", ROOT / f"dags/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=declaration.names())
def declared(request):
    """Each declared pipeline."""
    return declaration.load(request.param)


@pytest.fixture(scope="module")
def dag(declared):
    """Its DAG."""
    return load_dag_module(FILES.get(declared.pipeline, declared.pipeline)).DAG


@pytest.fixture(scope="module")
def platform():
    """dags/common/platform.py, as DAG files see it."""
    sys.path[:0] = [str(ROOT / "dags")]
    from common import platform

    return platform


FLIGHTS = declaration.load("flights")


def context(params=None, interval=(None, None), run_id="manual__2013-01-01T00:00:00+00:00"):
    """As much of a task's context as a run is made of."""
    start, end = interval
    dag_run = SimpleNamespace(dag_id="etl_pipeline", run_id=run_id, data_interval_start=start, data_interval_end=end)
    return {"dag_run": dag_run, "params": params or {}, "ti": SimpleNamespace(try_number=2)}


def test_every_dag_file_is_a_pipelines():
    files = {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert {FILES.get(name, name) for name in declaration.names()} <= files


def test_dag_is_named_after_its_file_and_documented(declared, dag):
    assert dag.dag_id == FILES.get(declared.pipeline, declared.pipeline)
    assert dag.description == declared.description
    assert len(dag.doc_md) > 300, "the page in Airflow says what is read, what is published and what the interval means"
    assert f"pipeline:{declared.pipeline}" in dag.tags


def test_airflow_finds_a_dag_in_the_file(dag):
    """Airflow reads only files that have both words in them."""
    text = (ROOT / f"dags/{dag.dag_id}.py").read_text().lower()
    assert "airflow" in text and "dag" in text


def test_one_run_at_a_time_and_no_catch_up(dag):
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.dagrun_timeout <= timedelta(hours=12)


def test_the_owner_can_be_reached(declared, dag):
    assert dag.owner_links == {declared.owner: f"mailto:{declared.alerts}"}


def test_every_task_has_owner_retries_limit_and_docs(declared, dag):
    for task in dag.tasks:
        assert task.owner == declared.owner, task.task_id
        assert task.retries >= 1, f"{task.task_id} is not retried"
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=2), task.task_id
        assert task.doc_md, f"{task.task_id} has no documentation"
        assert task.on_execute_callback, f"{task.task_id}'s log lines would not name the release"
        assert task.on_failure_callback, f"{task.task_id} would fail unnoticed by the ledger"


def test_tasks_and_their_order(declared, dag):
    order = [task.task_id for task in dag.topological_sort()]
    sources = {f"extract.{name}" for name in declared.sources}
    assert order[0] == "start"
    assert set(order[1 : len(sources) + 1]) == sources
    assert order[len(sources) + 1 :] == [
        *(f"transform.{stage}" for stage in STAGES),
        "transform.record",
        "load.staging",
        "publish.audit",
        "publish.publish",
        "finish",
    ]
    for source in sources:
        assert dag.get_task(source).upstream_task_ids == {"start"}
    assert dag.get_task("transform.clean_data").upstream_task_ids == sources


def test_a_directory_is_counted_as_it_was_delivered(platform):
    airports, content = FLIGHTS.sources["airports"], b'[{"faa": "EWR"}, {"faa": "JFK"}]'
    s3 = SimpleNamespace(
        get_object=lambda Bucket, Key: {"Body": io.BytesIO({("raw", "k/part-0"): content}[Bucket, Key])}
    )
    sealed = SimpleNamespace(bucket="raw", files=[SimpleNamespace(name="airports.json", key="k/part-0")])
    before = platform.source_count(FLIGHTS, airports, None, ["airports.json"])
    after = platform.source_count(FLIGHTS, airports, None, ["airports.json"], partial(platform.raw_file, s3, sealed))
    assert (before.rows, after.rows) == (None, 2)
    assert after.how == "records of airports.json in dropbox, as delivered"


def test_how_airflow_says_that_a_run_ended(platform, monkeypatch):
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import DagRunStateResult, ErrorResponse

    def state(dag_id, run_id):
        if run_id == "replay":
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))
        assert dag_id == "etl_pipeline"
        return DagRunStateResult(state=run_id).state

    ti = SimpleNamespace(dag_id="etl_pipeline", get_dagrun_state=state)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti}, raising=False)
    found = {run_id: platform.end_of(run_id) for run_id in ("success", "failed", "running", "queued", "replay")}
    assert found == {"success": "success", "failed": "failed", "running": None, "queued": None, "replay": None}
    assert f"{found['failed']}" == "failed", "text, as the ledger has it"


def test_a_failed_audit_ends_the_run_and_one_that_died_does_not(platform):
    from airflow.sdk.exceptions import AirflowFailException

    from jobs.load.audit import AuditFailed, Result

    results = [Result("flights", "balance", False, "2 rows", "1 row")]

    def failed():
        raise AuditFailed(results)

    def lost():
        raise ConnectionError("the server closed the connection")

    assert platform.audited(lambda: results) == 1
    with pytest.raises(
        AirflowFailException, match="1 of 1 audits failed: balance of flights: expected 2 rows, found 1 row"
    ):
        platform.audited(failed)
    with pytest.raises(ConnectionError):
        platform.audited(lost)


def test_a_run_is_audited_once_no_other_has_overtaken_it(platform, monkeypatch):
    from common import pipeline

    module, done = load_dag_module("orders"), []
    monkeypatch.setattr(pipeline.Steps, "current_run", lambda self: "run")
    monkeypatch.setattr(pipeline.platform, "warehouse", lambda: nullcontext("warehouse"))
    for name in ("require_newest", "check"):
        monkeypatch.setattr(pipeline.audit, name, lambda *given, name=name: done.append((name, given[2])) or [])
    assert module.DAG.get_task("publish.audit").python_callable() == 0
    assert done == [("require_newest", "run"), ("check", "run")]


def test_spark_applications_are_those_of_the_release(declared, dag):
    for name in STAGES:
        task = dag.get_task(f"transform.{name}")
        assert task.application == f"/opt/etl/releases/unreleased/jobs/transform/spark/{name}.py"
        assert task.py_files == "/opt/etl/releases/unreleased/jobs.zip"
        assert (ROOT / f"jobs/transform/spark/{name}.py").exists()
    arguments = dag.get_task("transform.clean_data").application_args
    assert arguments.count("--manifest") == len(declared.sources)
    assert "{{ ti.try_number }}" in arguments


def test_no_secret_in_any_argument(dag):
    for task in dag.tasks:
        text = str(getattr(task, "application_args", "")) + str(getattr(task, "conf", ""))
        assert "password" not in text and "secret" not in text


def test_run_from_parameters(platform):
    run = platform.run_of(FLIGHTS, context({"from": "2013-01-01", "to": "2013-02-01 06:30:00"}))
    assert run.run_id == "etl_pipeline.manual__2013-01-01T00_00_00_00_00"
    assert (run.interval_from, run.interval_to) == (datetime(2013, 1, 1), datetime(2013, 2, 1, 6, 30))
    assert run.attempt == 2
    assert run.release == "unreleased"


def test_run_from_the_schedule_is_in_the_sources_local_time(platform):
    interval = (datetime(2013, 6, 1, 4, tzinfo=UTC), datetime(2013, 7, 1, 4, tzinfo=UTC))
    run = platform.run_of(FLIGHTS, context(interval=interval))
    assert (run.interval_from, run.interval_to) == (datetime(2013, 6, 1), datetime(2013, 7, 1))


def test_an_interval_of_parts_of_days_is_refused_before_anything_is_extracted(platform, monkeypatch):
    """Where tables are replaced by day; whole months are chosen by changes of any moment."""
    from common import pipeline

    asked = context({"from": "2013-01-01", "to": "2013-02-01 06:30:00"})
    monkeypatch.setattr(pipeline, "get_current_context", lambda: asked)
    flights, orders = (load_dag_module(name).DAG.get_task("start") for name in ("etl_pipeline", "orders"))
    monkeypatch.setattr(pipeline.platform, "warehouse", lambda: pytest.fail("it has begun", pytrace=False))
    with pytest.raises(ValueError, match="must start and end at midnight"):
        flights.python_callable()
    with pytest.raises(pytest.fail.Exception, match="it has begun"):
        orders.python_callable()


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "`from` and `to`"),
        ({"from": "2013-01-01"}, "`to`"),
        ({"to": "2013-01-01"}, "`from`"),
        ({"from": "2013-01-01", "to": "tomorrow"}, "'tomorrow'"),
        ({"from": "2013-01-01'; drop", "to": "2013-02-01"}, "`from`"),
        ({"from": "2013-02-01", "to": "2013-01-01"}, "before"),
    ],
)
def test_an_interval_that_is_none_is_refused(platform, params, named):
    with pytest.raises(ValueError, match=named):
        platform.run_of(FLIGHTS, context(params))


def test_the_release_is_that_of_the_bundle_version(platform, tmp_path):
    (tmp_path / "RELEASE").write_text('{"id": "0123456789ab", "commit": "0123456789abcdef", "created": "now"}')
    assert platform.release(tmp_path) == "0123456789ab"


class Bucket:
    """As much of an S3 client as reading a stage's record takes."""

    def __init__(self, objects: dict[str, bytes]):
        self.objects = objects

    def get_paginator(self, _):
        return self

    def paginate(self, Bucket, Prefix):
        keys = [key for key in self.objects if key.startswith(Prefix)]
        return [{"Contents": [{"Key": key}]} for key in keys] or [{}]

    def get_object(self, Bucket, Key):
        return {"Body": SimpleNamespace(read=lambda: self.objects[Key])}


def test_the_latest_record_of_a_stage_counts(platform):
    run = SimpleNamespace(run_id="r")
    records = {f"_stages/r/{n}/clean_data.json": f'{{"attempt": {n}}}'.encode() for n in (2, 9, 10)}
    s3 = Bucket(records | {"_stages/r/11/enrich_data.json": b"{}", "_stages/r2/12/clean_data.json": b"{}"})
    assert platform.stage_record(s3, "curated", run, "clean_data") == {"attempt": 10}
    with pytest.raises(FileNotFoundError, match="aggregate"):
        platform.stage_record(s3, "curated", run, "aggregate_data")


def test_versions_come_from_the_object_store(platform):
    heads = {"a": {"VersionId": "1"}, "b": {}}
    s3 = SimpleNamespace(head_object=lambda Bucket, Key: heads[Key])
    sealed = SimpleNamespace(bucket="raw", key="a", files=[SimpleNamespace(key="b")])
    assert platform.object_versions(s3, sealed) == {"a": "1"}


def test_quarantine_is_released_by_the_tasks_of_every_run(platform):
    dag = load_dag_module("replay_quarantine").DAG
    assert [task.task_id for task in dag.topological_sort()] == [
        "select",
        "clean_data",
        "enrich_data",
        "base",
        "aggregate_data",
        "record",
        "staging",
        "audit",
        "publish",
        "finish",
    ]
    for task in dag.tasks:
        assert task.doc_md and task.on_failure_callback and task.owner == "data-engineering", task.task_id
    assert "--replay" in dag.get_task("clean_data").application_args
    assert "--base" in dag.get_task("aggregate_data").application_args
    assert dag.get_task("enrich_data").application_args[:2] == ["--pipeline", "{{ params.pipeline }}"]


def test_a_release_of_quarantined_rows_enters_the_journal_once_it_is_published(platform, monkeypatch):
    module, done = load_dag_module("replay_quarantine"), []
    monkeypatch.setattr(module, "current_run", lambda: SimpleNamespace(run_id="replay1"))
    monkeypatch.setattr(module, "declared", lambda: None)
    monkeypatch.setattr(module.platform, "warehouse", lambda: nullcontext("warehouse"))
    monkeypatch.setattr(module.platform, "object_store", lambda: ("lake", {"curated": "curated"}))
    monkeypatch.setattr(module.publish, "publish", lambda *given: done.append("published") or ["v1"])
    monkeypatch.setattr(module.events, "published", lambda *given: [])
    monkeypatch.setattr(module.events, "store", lambda *given: None)
    monkeypatch.setattr(module.journal, "enter", lambda *given: done.append(given))
    assert module.DAG.get_task("publish").python_callable() == ["v1"]
    assert done == ["published", ("warehouse", "lake", "curated", "replay1")]


def test_ledger_and_log_shippers_know_what_airflow_names_itself():
    from airflow.utils.types import DagRunType

    assert all(NAMED_BY_AIRFLOW.match(kind.generate_run_id(suffix="x")) for kind in DagRunType)
    for template in ("log_shipper/templates/rsyslog.conf.j2", "logstash/templates/logstash.conf.j2"):
        assert f"^{NAMED_BY_AIRFLOW.pattern}" in (ROOT / "roles" / template).read_text(), template
