"""A rollback against a real ledger: what is gathered, undone, taken down and noted, and that it can be interrupted anywhere."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import io
import json
import tarfile
import threading
from datetime import date
from types import SimpleNamespace

import psycopg
import pytest
from warehouse_kit import flights

from jobs.load import audit, ledger, migrate, publish, staging
from jobs.load import journal as journal_of_publications
from jobs.rollback import journal as journals
from jobs.rollback import manifests, rollback, steps
from jobs.rollback.journal import STEPS, Journal, RollbackError

ONE, TWO = "111111111111", "222222222222"
JAN, FEB = date(2013, 1, 1), date(2013, 2, 1)


def manifest(release, minute, migration, **changes):
    moment = f"2026-01-01T00:{minute:02d}:00+00:00"
    return {
        **{
            "format": 1,
            "release": release,
            "commit": release * 3,
            "serial": 1,
            "state": "good",
            "because": None,
            "reason": None,
        },
        **{
            "environment": "local",
            "deployed_at": moment,
            "since": {"time": moment, "restore_point": {}},
            "artifacts": {},
        },
        **{"flows": {}, "jobs": release, "migration": migration, "terraform": None, "bundle_version": release},
        "owned": {"dags": [], "flows": [], "units": [], "files": []},
    } | changes


def run_of(warehouse, release, run_id, delay):
    """A published run of January by a release."""
    run = dataclasses.replace(warehouse.run(run_id, "2013-01-01", "2013-02-01"), release=release)
    warehouse.prepare(run, flights(JAN, FEB, delay))
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    audit.check(warehouse.conn, warehouse.declaration, run)
    publish.publish(warehouse.conn, warehouse.declaration, run)
    ledger.finish_run(warehouse.conn, run, "published")
    return run


def facts(warehouse):
    return warehouse.rows("select flight_id, dep_delay_minutes from dwh.fact_flight order by 1")


@pytest.fixture
def level(warehouse):
    return warehouse.rows("select max(level) from etl.migration")[0][0]


@pytest.fixture
def kept(level):
    manifests = [manifest(ONE, 1, level), manifest(TWO, 2, level)]
    return SimpleNamespace(manifests=lambda: manifests, bucket="releases")


@pytest.fixture
def owner(warehouse):
    with warehouse.connect("etl_owner", autocommit=False) as conn:
        yield conn


@pytest.fixture(autouse=True)
def lake(warehouse, monkeypatch):
    """The object store, where publications are journaled."""
    monkeypatch.setattr(steps, "object_store", lambda: warehouse.lake)
    monkeypatch.setenv("CURATED_BUCKET", "curated")
    return warehouse.lake


def ask(owner, kept, directory, monkeypatch, data="restore", to=ONE, abandon=False, current=TWO):
    monkeypatch.setattr(manifests, "store", lambda: kept)
    monkeypatch.setenv("DATA_BUCKETS", "")
    arguments = argparse.Namespace(to=to, data=data, force=False, abandon=abandon)
    return rollback.planned(
        owner, directory, arguments, {"current": current, "environment": "local", "commits": [ONE * 3]}
    )


def test_the_newer_runs_are_swapped_back_and_nothing_else(warehouse, lake, owner, kept, tmp_path, monkeypatch):
    run_of(warehouse, ONE, "r1", 5)
    before = facts(warehouse)
    run_of(warehouse, TWO, "r2", 99)
    plan = ask(owner, kept, tmp_path, monkeypatch)
    assert plan["refused"] == [] and (plan["method"], plan["runs"]) == ("undo", ["r2"])
    assert plan["lost"]["rows"] == len(before)
    assert facts(warehouse) != before, "a plan changes nothing"
    rollback.started(owner, tmp_path, plan, "late by 99 minutes")
    journal = Journal.open(tmp_path)
    notes = steps.undo_runs(owner, journal)
    assert facts(warehouse) == before
    assert notes["swapped"] == {"fact_flight_201301": 1}
    assert [(event["run_id"], event["event"]) for event in journal_of_publications.read(lake, "curated")] == [
        ("r2", "undone")
    ]
    assert facts(warehouse) == before


def test_killed_after_the_swap_it_still_knows_what_readers_are_to_see(
    warehouse, lake, owner, kept, tmp_path, monkeypatch
):
    """The object store is away when the swap is to be entered in the journal of publications."""
    run_of(warehouse, ONE, "r1", 5)
    run_of(warehouse, TWO, "r2", 99)
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch), "x")

    def away(*arguments):
        raise OSError("the object store is away")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="away"):
        broken.setattr(journal_of_publications, "enter_all", away)
        steps.undo_runs(owner, Journal.open(tmp_path))
    assert steps.undo_runs(owner, Journal.open(tmp_path)) == {"undone": ["r2"], "swapped": {"fact_flight_201301": 1}}
    assert [(event["run_id"], event["event"]) for event in journal_of_publications.read(lake, "curated")] == [
        ("r2", "undone")
    ]


@pytest.mark.parametrize("planned", [True, False], ids=["with-others", "alone"])
def test_what_was_published_after_the_plan_goes_too(warehouse, lake, owner, kept, tmp_path, monkeypatch, planned):
    run_of(warehouse, ONE, "r1", 5)
    before = facts(warehouse)
    if planned:
        run_of(warehouse, TWO, "r2", 99)
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch), "x")
    run_of(warehouse, TWO, "r3", 98)
    notes = steps.undo_runs(owner, Journal.open(tmp_path))
    assert notes == {"undone": ["r2", "r3"] if planned else ["r3"], "swapped": {"fact_flight_201301": 1}}
    assert facts(warehouse) == before
    assert {event["run_id"] for event in journal_of_publications.read(lake, "curated")} == set(notes["undone"])


def test_there_may_be_nothing_to_swap_back(warehouse, owner, kept, tmp_path, monkeypatch):
    run_of(warehouse, ONE, "r1", 5)
    before = facts(warehouse)
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch), "x")
    assert steps.undo_runs(owner, Journal.open(tmp_path)) == {"undone": []}
    assert facts(warehouse) == before


def test_keeping_data_leaves_the_newer_runs(warehouse, owner, kept, tmp_path, monkeypatch):
    run_of(warehouse, TWO, "r2", 99)
    plan = ask(owner, kept, tmp_path, monkeypatch, data="keep")
    assert plan["method"] is None and plan["kept"] == {"runs": 1, "rows": 62} and not any(plan["lost"].values())


def test_the_schema_goes_down_to_the_targets_level(warehouse, owner, kept, level, tmp_path, monkeypatch):
    directory = tmp_path / "migrations"
    directory.mkdir()
    for path in migrate.DIRECTORY.glob("*.sql"):
        (directory / path.name).write_text(path.read_text())
    (directory / f"{level + 1:04d}_probe.up.sql").write_text("create table dwh.probe (i integer);")
    (directory / f"{level + 1:04d}_probe.down.sql").write_text("-- loses: dwh.probe\ndrop table dwh.probe;")
    migrate.up(owner, directory=directory)
    owner.autocommit = False
    plan = ask(owner, kept, tmp_path, monkeypatch, data="keep")
    assert {"layer": "schema", "what": f"level {level + 1} → {level} (takes back {level + 1:04d}_probe)"} in plan[
        "layers"
    ]
    rollback.started(owner, tmp_path, plan, "x")
    owner.execute("insert into dwh.probe values (1)")
    owner.commit()
    refused = ask(owner, kept, tmp_path / "other", monkeypatch, data="keep")["refused"]
    assert refused == [
        f"the schema cannot go down: taking {level + 1:04d}_probe back would lose 1 rows of dwh.probe;"
        " -e data=restore can take the data back too"
    ]
    owner.execute("delete from dwh.probe")
    owner.commit()
    assert steps.schema(owner, Journal.open(tmp_path))["schema"]["level_after"] == level
    assert warehouse.rows("select to_regclass('dwh.probe')") == [(None,)]


def test_a_rollback_under_way_is_gone_on_with(warehouse, owner, kept, tmp_path, monkeypatch):
    run_of(warehouse, ONE, "r1", 5)
    run_of(warehouse, TWO, "r2", 99)
    plan = ask(owner, kept, tmp_path, monkeypatch)
    first = rollback.started(owner, tmp_path, plan, "x")
    Journal.open(tmp_path).done("hold", paused=["etl_pipeline"])
    steps.undo_runs(owner, Journal.open(tmp_path))  # killed here: done, and not noted
    again = ask(owner, kept, tmp_path, monkeypatch)
    assert again["runs"] == ["r2"], "the plan is the one it began with, though nothing is left to undo"
    assert "goes on after: hold" in again["text"]
    resumed = rollback.started(owner, tmp_path, again, "x")
    assert resumed["id"] == first["id"] and resumed["left"] == list(STEPS[1:])
    with pytest.raises(RollbackError, match="333333333333 was deployed since"):
        ask(owner, kept, tmp_path, monkeypatch, current="333333333333")
    with pytest.raises(RollbackError, match="has not come to its end"):
        ask(owner, kept, tmp_path, monkeypatch, data="keep")
    other = rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch, data="keep", abandon=True), "y")
    assert other["id"] and Journal.open(tmp_path).content["notes"] == {"paused": ["etl_pipeline"]}


def test_the_ledger_shows_manifests_and_rollbacks(warehouse, owner, kept, tmp_path, monkeypatch):
    manifests.enter(owner, kept.manifests())
    bad = manifest(TWO, 2, 3, serial=2, state="bad", because="rollback", reason="lost rows")
    manifests.enter(owner, [bad])
    assert warehouse.rows("select release, serial, state, reason from etl.release order by 1") == [
        (ONE, 1, "good", None),
        (TWO, 2, "bad", "lost rows"),
    ]
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch, data="keep"), "lost rows")
    journal = Journal.open(tmp_path)
    for step in STEPS:
        journal.done(step)
    rollback.enter(owner, journal)
    (row,) = warehouse.rows("select from_release, to_release, state, reason, steps from etl.rollback", user="etl_read")
    assert row[:4] == (TWO, ONE, "done", "lost rows") and list(row[4]) and set(row[4]) == set(STEPS)


def test_code_that_was_taken_back_does_not_run_again(warehouse, owner):
    run = dataclasses.replace(warehouse.run("r2", "2013-01-01", "2013-02-01"), release=TWO)
    ledger.start_run(warehouse.conn, run)
    failed = manifest(TWO, 2, 3, state="bad", because="deployment", reason="no NiFi")
    manifests.enter(owner, [failed])
    ledger.start_run(warehouse.conn, run)
    manifests.enter(owner, [failed | {"serial": 2, "because": "rollback", "reason": "lost rows"}])
    with pytest.raises(ledger.ReleaseTakenBack, match="lost rows.*start a new run over 2013-01-01"):
        ledger.start_run(warehouse.conn, run)
    warehouse.conn.rollback()


def test_readers_cannot_write_rollbacks(warehouse):
    with warehouse.connect("etl_read") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("delete from etl.rollback")


def test_a_step_that_goes_on_alone_is_waited_for(warehouse, owner, kept, tmp_path, monkeypatch):
    """Its controller is gone; started again, the rollback finds the step done and does not do it beside."""
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch), "x")
    begun, go_on, asked = threading.Event(), threading.Event(), argparse.Namespace(verb="step", step="schema")

    def slow(conn, journal):
        begun.set()
        assert go_on.wait(30)
        return {"went": "on"}

    monkeypatch.setitem(rollback.ACTIONS, "schema", slow)
    first = threading.Thread(target=rollback._run, args=(asked, owner, tmp_path))
    first.start()
    assert begun.wait(30)
    with open(tmp_path / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    go_on.set()
    first.join(30)
    assert Journal.open(tmp_path).content["notes"]["went"] == "on"
    assert rollback._run(asked, owner, tmp_path) == {"changed": False}


@pytest.fixture
def in_service(level, kept, tmp_path, monkeypatch):
    """The host as it is when release ONE was deployed again."""
    releases = tmp_path / "releases"
    releases.mkdir()
    (releases / "current").symlink_to(ONE)
    monkeypatch.setenv("RELEASES_DIR", str(releases))
    monkeypatch.setenv("BUNDLE_REPOSITORY", "dags.git")
    monkeypatch.setattr(
        steps.subprocess, "run", lambda command, **_: SimpleNamespace(stdout=json.dumps({"id": ONE}), args=command)
    )
    kept.latest = lambda release: manifest(release, 3, level, deployed_at=journals.now())


@pytest.mark.parametrize(("data", "late"), [("keep", "stays"), ("restore", "is not as planned")])
def test_what_was_committed_late_is_in_the_way_only_where_data_go_back(
    warehouse, owner, kept, tmp_path, monkeypatch, in_service, data, late
):
    run_of(warehouse, ONE, "r1", 5)
    run_of(warehouse, TWO, "r2", 99)
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch, data=data), "x")
    journal = Journal.open(tmp_path)
    journal.done("hold", published=dict(owner.execute(steps.PUBLISHED).fetchall()))
    owner.rollback()
    if data == "restore":
        journal.done("undo", **steps.undo_runs(owner, journal))
    assert steps.verify(owner, journal)["verified"]["partitions"] == 1
    run_of(warehouse, TWO, "r3", 98)
    if late == "stays":
        assert steps.verify(owner, journal)["verified"]["partitions"] == 1
    else:
        with pytest.raises(RollbackError, match="other versions are published than planned of fact_flight_201301"):
            steps.verify(owner, journal)
    warehouse.rows("update etl.partition_version set current = false where current returning 1", user="etl_owner")
    with pytest.raises(RollbackError, match="other versions are published than planned of fact_flight_201301"):
        steps.verify(owner, journal)


def test_the_evidence_says_what_readers_saw(warehouse, owner, kept, tmp_path, monkeypatch):
    """A restore of the warehouse forgets it; put once, it stays as it was."""
    run_of(warehouse, ONE, "r1", 5)
    run_of(warehouse, TWO, "r2", 99)
    for name in ("manual__r1", "manual__r2", "manual__failed_at_once"):
        log = tmp_path / f"logs/dag_id=flights/run_id={name}/task.log"
        log.parent.mkdir(parents=True)
        log.write_text(name)
    begun = [{"dag_run_id": f"manual__{name}", "bundle_version": TWO} for name in ("r2", "failed_at_once")]
    other = {"dag_run_id": "manual__r1", "bundle_version": ONE}
    monkeypatch.setattr(
        steps, "airflow_of_environment", lambda: SimpleNamespace(since=lambda moment: [other, *begun] if moment else [])
    )
    monkeypatch.setenv("AIRFLOW_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("RELEASES_DIR", str(tmp_path / "releases"))
    objects = {}
    kept.put = objects.setdefault
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch), "x")
    journal = Journal.open(tmp_path)
    notes = steps.evidence(owner, journal)
    prefix = f"{TWO}/evidence/{journal.content['id']}"
    assert notes["evidence"] == f"s3://releases/{prefix}/"
    ledger_rows = json.loads(objects[f"{prefix}/ledger.json"])
    assert [run["run_id"] for run in ledger_rows["runs"]] == ["r2"]
    (version,) = ledger_rows["partition_version"]
    assert (version["run_id"], version["partition_name"], version["version"]) == ("r2", "fact_flight_201301", 2)
    assert [each["run_id"] for each in ledger_rows["publication"]] == ["r2"]
    with tarfile.open(fileobj=io.BytesIO(objects[f"{prefix}/logs.tar.gz"])) as archive:
        logs = {name for name in archive.getnames() if name.endswith(".log")}
    assert logs == {f"dag_id=flights/run_id={run['dag_run_id']}/task.log" for run in begun}
    assert json.loads(objects[f"{prefix}/airflow.json"]) == begun


class Airflow:
    """What a rollback sees of Airflow; `calls` are the changing ones."""

    def __init__(self, runs):
        self.runs, self.calls = runs, []

    def active_dags(self):
        return ["etl_pipeline", "orders"]

    def dags(self):
        return ["etl_pipeline"]

    def pause(self, dag_id, paused):
        self.calls.append((dag_id, paused))

    def running(self):
        return self.runs

    def stop(self, run, note):
        self.calls.append((run["dag_run_id"], "stopped"))


@pytest.mark.parametrize(("data", "stopped"), [("keep", {"manual__r2"}), ("restore", {"manual__r1", "manual__r2"})])
def test_runs_of_newer_releases_are_ended_and_all_where_data_go_back(
    warehouse, owner, kept, tmp_path, monkeypatch, data, stopped
):
    for release, run_id in ((ONE, "r1"), (TWO, "r2")):
        run = warehouse.run(run_id, "2013-01-01", "2013-02-01")
        name = ledger.run_id_of("etl_pipeline", run.dag_run_id)
        ledger.start_run(warehouse.conn, dataclasses.replace(run, run_id=name, release=release))
    runs = [
        {"dag_id": "etl_pipeline", "dag_run_id": f"manual__{run_id}", "bundle_version": version}
        for run_id, version in (("r1", ONE), ("r2", TWO))
    ]
    airflow = Airflow(runs)
    monkeypatch.setattr(steps, "airflow_of_environment", lambda: airflow)
    monkeypatch.setattr(steps.time, "sleep", lambda seconds: None)
    rollback.started(owner, tmp_path, ask(owner, kept, tmp_path, monkeypatch, data=data), "x")
    journal = Journal.open(tmp_path)
    notes = steps.hold(owner, journal)
    assert airflow.calls[:2] == [("etl_pipeline", True), ("orders", True)]
    assert {run for run, what in airflow.calls[2:]} == stopped
    states = dict(warehouse.rows("select dag_run_id, state from etl.run"))
    assert {run for run, state in states.items() if state == "failed"} == stopped
    assert len(notes["stopped"]) == len(stopped) and notes["published"] == {}
    journal.done("hold", **notes)
    airflow.calls.clear()
    told = steps.resume(owner, Journal.open(tmp_path))
    assert told == {"undone": [], "stopped": notes["stopped"]}
    assert airflow.calls == [("etl_pipeline", False)], "what the target does not have is not asked for"
