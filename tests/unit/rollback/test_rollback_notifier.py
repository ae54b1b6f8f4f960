"""The rollback notifier's guards, one by one, and an incident's way from the alert to the undo."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from fastapi.testclient import TestClient
from jinja2 import Template

from jobs.rollback.rollback_notifier.airflow import Airflow
from jobs.rollback.rollback_notifier.audit_log import AuditLog
from jobs.rollback.rollback_notifier.notifier import Alert, Answer, Notifier, Refused
from jobs.rollback.rollback_notifier.policy import Secrets, Settings, read
from jobs.rollback.rollback_notifier.service import create_app

ROOT = Path(__file__).resolve().parents[3]
RULES = [
    {"name": "bad-run", "match": {"rollback": "undo"}, "action": "undo", "run": "{run_id}"},
    {"name": "by-itself", "match": {"alertname": "Own"}, "action": "undo", "run": "{run_id}", "approval": "none"},
    {"name": "try", "match": {"alertname": "Try"}, "action": "undo", "run": "{run_id}", "dry_run": True},
    {
        "name": "interval",
        "match": {"alertname": "Month"},
        "action": "undo",
        "pipeline": "{pipeline}",
        "from": "{from}",
        "to": "{to}",
        "cascade": True,
    },
    {
        "name": "release",
        "match": {"rollback": "release"},
        "action": "release",
        "command": "playbooks/rollback.yml -e to={good}",
    },
]
WEBHOOK, APPROVAL, METRICS = "webhook-token-of-the-test", "approval-token-of-the-test", "metrics-password-of-the-test"
SECRETS = Secrets(
    webhook_token=WEBHOOK,
    approval_token_sha256=hashlib.sha256(APPROVAL.encode()).hexdigest(),
    metrics_password=METRICS,
    airflow_password="x",
)


def plan(rows=1000, runs=1, partitions=1):
    return {
        "runs": [{"run_id": f"r{number}"} for number in range(runs)],
        "partitions": [{} for _ in range(partitions)],
        "rows_now": rows,
        "text": "Takes back …",
    }


class Dag:
    """Stands for rollback_dag: what was triggered, what it waits for, what was answered."""

    def __init__(self):
        self.triggered, self.answers, self.plans, self.states, self.broken = {}, {}, plan(), {}, None

    def trigger(self, name, parameters):
        if self.broken:
            raise self.broken
        self.triggered.setdefault(name, parameters)

    def state(self, name):
        found = {"state": self.states.get(name, "running")} | ({"plan": self.plans} if self.plans else {})
        return found | ({"answer": self.answers[name]} if name in self.answers else {})

    def answer(self, name, approve):
        if name in self.answers:
            return False
        self.answers[name] = "Approve" if approve else "Reject"
        return True

    def link(self, name):
        return f"https://airflow/{name}"


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def dag():
    return Dag()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(tmp_path, dag, clock):
    """Start the notifier; started again it is the same one after a restart."""

    def make(**changed):
        given = {
            "rules": RULES,
            "database": tmp_path / "state.db",
            "audit_log": tmp_path / "audit.jsonl",
            "url": "https://localhost",
            "port": 9097,
            "airflow_url": "https://airflow",
            "airflow_user": "notifier",
        }
        given |= {name: tmp_path / name for name in ("certificate", "key", "ca", "secrets", "approval_token")}
        return Notifier(Settings.model_validate(given | changed), dag, clock)

    return make


@pytest.fixture
def notifier(start):
    return start()


def alert(run="r1", number=1, status="firing", **labels):
    labels = {"alertname": "PublishedBad", "rollback": "undo", "run_id": run, "pipeline": "flights"} | labels
    return Alert(status=status, labels=labels, startsAt="2026-11-24T11:00:00Z", fingerprint=f"{run}-{number}")


def events(notifier):
    return [json.loads(line)["event"] for line in notifier.settings.audit_log.read_text().splitlines()]


def waiting(notifier, **labels):
    """An incident that waits for approval; returns it."""
    assert notifier.receive(alert(**labels)) == "opened"
    notifier.step()
    notifier.step()
    found = notifier.incidents()[0]
    assert found["status"] == "waiting", found
    return found


def answer(incident, by="ann"):
    return Answer(by=by, digest=incident["digest"])


def test_from_the_alert_to_the_undo(notifier, dag):
    incident = waiting(notifier)
    (name,) = dag.triggered
    assert dag.triggered[name] == {"runs": ["r1"], "cascade": False, "reason": "incident 1, bad-run"}
    notifier.step()
    assert dag.answers == {}, "nothing goes on without an approval"
    notifier.approve(1, answer(incident))
    notifier.step()
    assert dag.answers == {name: "Approve"} and notifier.incident(1)["status"] == "executing"
    notifier.step()
    assert notifier.incident(1)["status"] == "executing"
    dag.states[name] = "success"
    notifier.step()
    assert notifier.incident(1)["status"] == "done"
    assert events(notifier) == ["opened", "planning", "waiting", "approved", "executing", "done"]
    (approved,) = [line for line in notifier.settings.audit_log.read_text().splitlines() if '"approved"' in line]
    assert json.loads(approved)["by"] == "ann"


def test_an_interval_of_a_pipeline(notifier, dag):
    labels = {"alertname": "Month", "rollback": "", "from": "2013-01-01", "to": "2013-02-01"}
    notifier.receive(alert(**labels))
    notifier.step()
    (given,) = dag.triggered.values()
    assert {name: given[name] for name in ("pipeline", "from", "to", "cascade")} == {
        "pipeline": "flights",
        "from": "2013-01-01",
        "to": "2013-02-01",
        "cascade": True,
    }


def test_what_no_rule_matches_or_is_over_opens_nothing(notifier):
    assert notifier.receive(alert(rollback="")) == "ignored"
    assert notifier.receive(alert(rollback="undone")) == "ignored", "an expression matches a label as a whole"
    assert notifier.receive(alert(status="resolved")) == "resolved"
    assert notifier.incidents() == []


def test_an_alert_without_the_label_that_a_rule_needs(notifier):
    given = alert()
    del given.labels["run_id"]
    assert notifier.receive(given) == "invalid"
    assert notifier.incidents() == [] and events(notifier) == ["invalid"]


def test_labels_cannot_reach_into_python(notifier):
    given = alert(run="{__class__}", good="x")
    assert notifier.receive(given) == "opened"
    assert notifier.incident(1)["target"]["runs"] == ["{__class__}"], "a label is text, never a template"


def test_a_label_is_one_word_of_the_command_that_is_proposed(notifier):
    notifier.receive(alert(rollback="release", good="0123456789ab; rm -r /"))
    assert notifier.incident(1)["target"] == {"command": "playbooks/rollback.yml -e to='0123456789ab; rm -r /'"}


def test_the_same_again_is_one_incident(notifier):
    assert notifier.receive(alert()) == "opened"
    assert notifier.receive(alert()) == "duplicate"
    assert notifier.receive(alert(number=2)) == "duplicate", "another alert about the same run"
    assert [each["seen"] for each in notifier.incidents()] == [3]


def test_after_it_is_closed_the_same_alert_opens_nothing_either(notifier, dag, clock):
    notifier.reject(1, answer(waiting(notifier)))
    clock.now += timedelta(days=1)
    assert notifier.receive(alert()) == "duplicate"


def test_cool_down(notifier, clock):
    notifier.reject(1, answer(waiting(notifier)))
    assert notifier.receive(alert(run="r2")) == "cooling"
    assert notifier.receive(alert(run="r3", pipeline="orders")) == "opened", "of another pipeline"
    clock.now += timedelta(minutes=61)
    assert notifier.receive(alert(run="r2")) == "opened"


@pytest.mark.parametrize(
    ("large", "named"),
    [({"rows": 5_000_001}, "5,000,001 rows"), ({"runs": 4}, "4 runs"), ({"partitions": 13}, "13 partitions")],
)
def test_a_plan_beyond_the_limits_is_refused(notifier, dag, large, named):
    dag.plans = plan(**large)
    notifier.receive(alert())
    notifier.step()
    notifier.step()
    incident = notifier.incident(1)
    assert incident["status"] == "refused" and named in incident["note"]
    assert list(dag.answers.values()) == ["Reject"]


def test_the_limit_is_of_all_within_the_period(notifier, dag, clock):
    dag.plans = plan(rows=3_000_000)
    notifier.approve(1, answer(waiting(notifier)))
    clock.now += timedelta(hours=2)
    notifier.receive(alert(run="r2"))
    notifier.step()
    notifier.step()
    assert notifier.incident(2)["status"] == "refused" and "6,000,000 rows" in notifier.incident(2)["note"]
    clock.now += timedelta(hours=24)
    assert waiting(notifier, run="r3", number=3)["status"] == "waiting"


def test_two_that_wait_are_not_both_approved_beyond_the_limit(notifier, dag):
    dag.plans = plan(rows=3_000_000)
    first, second = waiting(notifier), waiting(notifier, run="r2", pipeline="orders")
    notifier.approve(first["id"], answer(first))
    with pytest.raises(Refused, match="beyond the limits: 6,000,000 rows"):
        notifier.approve(second["id"], answer(second))


def test_a_rule_that_needs_nobody_goes_on_within_the_limits(notifier, dag):
    notifier.receive(alert(alertname="Own", rollback=""))
    for _ in range(3):
        notifier.step()
    assert list(dag.answers.values()) == ["Approve"] and notifier.incident(1)["status"] == "executing"


@pytest.mark.parametrize("everything", [True, False])
def test_dry_run_plans_and_never_approves(start, dag, everything):
    notifier = start(dry_run=everything)
    notifier.receive(alert(alertname="Own" if everything else "Try", rollback=""))
    for _ in range(4):
        notifier.step()
    incident = notifier.incident(1)
    assert incident["status"] == "dry_run" and incident["plan"]["rows_now"] == 1000
    assert list(dag.answers.values()) == ["Reject"]


def test_only_the_plan_that_was_seen_is_approved(notifier, dag):
    incident = waiting(notifier)
    for digest in ("", "0" * 12):
        with pytest.raises(Refused, match="not the plan"):
            notifier.approve(1, Answer(by="ann", digest=digest))
    notifier.approve(1, answer(incident))
    with pytest.raises(Refused, match="is approved: nothing to approve"):
        notifier.approve(1, answer(incident))


def test_nobody_answers(notifier, dag, clock):
    waiting(notifier)
    clock.now += timedelta(hours=13)
    notifier.step()
    assert notifier.incident(1)["status"] == "expired" and list(dag.answers.values()) == ["Reject"]


@pytest.mark.parametrize(("given", "status"), [("Approve", "executing"), ("Reject", "rejected")])
def test_somebody_answers_in_airflow(notifier, dag, given, status):
    waiting(notifier)
    dag.answers[next(iter(dag.triggered))] = given
    notifier.step()
    assert notifier.incident(1)["status"] == status


def test_a_plan_that_is_refused_and_one_with_nothing_to_do(notifier, dag):
    for number, (state, status) in enumerate((("failed", "failed"), ("success", "done")), 1):
        notifier.receive(alert(run=f"r{number}", pipeline=f"p{number}"))
        notifier.step()
        dag.plans = None
        dag.states[list(dag.triggered)[-1]] = state
        notifier.step()
        assert notifier.incident(number)["status"] == status


def test_a_release_is_only_proposed(notifier, dag):
    assert notifier.receive(alert(rollback="release", good="0123456789ab")) == "opened"
    notifier.step()
    incident = notifier.incident(1)
    assert incident["status"] == "proposed" and dag.triggered == {}
    assert incident["target"] == {"command": "playbooks/rollback.yml -e to=0123456789ab"}
    with pytest.raises(Refused):
        notifier.approve(1, answer(incident))
    notifier.reject(1, answer(incident))


def test_airflow_down_is_tried_again(notifier, dag):
    dag.broken = httpx.ConnectError("Airflow is down")
    notifier.receive(alert())
    notifier.step()
    assert notifier.incident(1)["status"] == "new"
    dag.broken = None
    notifier.step()
    assert notifier.incident(1)["status"] == "planning"


def test_what_airflow_does_not_take_is_not_asked_for_ever(notifier, dag, clock):
    request = httpx.Request("POST", "https://airflow")
    answered = httpx.Response(400, text="'nonsense' is not one of the pipelines", request=request)
    dag.broken = httpx.HTTPStatusError("400", request=request, response=answered)
    notifier.receive(alert())
    notifier.step()
    incident = notifier.incident(1)
    assert incident["status"] == "failed" and "is not one of the pipelines" in incident["note"]
    dag.broken = httpx.ConnectError("Airflow is down")
    notifier.receive(alert(run="r2", pipeline="orders"))
    clock.now += timedelta(hours=13)
    notifier.step()
    assert notifier.incident(2)["status"] == "expired"


def test_what_cannot_be_read_of_one_does_not_keep_the_others(notifier, dag, monkeypatch):
    """Nor does it end the thread that moves them on."""
    for number in (1, 2):
        notifier.receive(alert(run=f"r{number}", pipeline=f"p{number}"))
    notifier.step()
    first, state = next(iter(dag.triggered)), dag.state
    monkeypatch.setattr(dag, "state", lambda name: {}["state"] if name == first else state(name))
    notifier.step()
    assert [each["status"] for each in notifier.incidents()] == ["waiting", "planning"]


def test_a_plan_that_airflow_has_not_made_yet_is_waited_for(notifier, dag, clock):
    """rollback_dag is paused while a release or the warehouse goes back."""
    notifier.receive(alert())
    notifier.step()
    dag.plans = None
    clock.now += timedelta(hours=13)
    notifier.step()
    assert notifier.incident(1)["status"] == "planning" and dag.answers == {}
    dag.plans = plan()
    notifier.step()
    assert notifier.incident(1)["status"] == "expired" and list(dag.answers.values()) == ["Reject"]


def answered_meanwhile(dag, monkeypatch, given):
    """Somebody answers in Airflow after the notifier has looked and before it answers itself."""
    answer = dag.answer

    def late(name, approve):
        dag.answers.setdefault(name, given)
        return answer(name, approve)

    monkeypatch.setattr(dag, "answer", late)


@pytest.mark.parametrize(("given", "status"), [("Approve", "executing"), ("Reject", "rejected")])
def test_what_was_approved_and_answered_in_airflow_meanwhile(notifier, dag, monkeypatch, given, status):
    notifier.approve(1, answer(waiting(notifier)))
    answered_meanwhile(dag, monkeypatch, given)
    notifier.step()
    assert notifier.incident(1)["status"] == status


def test_what_is_taken_back_after_all_is_not_called_rejected(notifier, dag, monkeypatch):
    incident = waiting(notifier)
    answered_meanwhile(dag, monkeypatch, "Approve")
    with pytest.raises(Refused, match="was answered in Airflow"):
        notifier.reject(1, answer(incident))
    notifier.step()
    assert notifier.incident(1)["status"] == "executing"
    assert events(notifier)[-1] == "executing"


def test_what_is_beyond_the_limits_and_approved_in_airflow_counts(notifier, dag, monkeypatch):
    dag.plans = plan(rows=5_000_001)
    answered_meanwhile(dag, monkeypatch, "Approve")
    notifier.receive(alert())
    for _ in range(3):
        notifier.step()
    assert notifier.incident(1)["status"] == "executing"


def test_state_survives_a_restart_at_every_step(start, dag):
    start().receive(alert())
    assert start().receive(alert()) == "duplicate"
    start().step()
    start().step()
    incident = start().incident(1)
    start().approve(1, answer(incident))
    start().step()
    dag.states[next(iter(dag.triggered))] = "success"
    start().step()
    assert start().incident(1)["status"] == "done"
    assert AuditLog.check(start().settings.audit_log) == []


def test_killed_between_effect_and_state_it_does_nothing_twice(start, dag, monkeypatch):
    """The run of rollback_dag has the same id when it is triggered once more."""
    notifier = start()
    notifier.receive(alert())
    monkeypatch.setattr(notifier, "_move", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
    notifier.step()
    start().step()
    assert len(dag.triggered) == 1


def test_a_changed_audit_log_is_found(notifier):
    waiting(notifier)
    path = notifier.settings.audit_log
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("r1", "r2"), *lines[1:]]) + "\n")
    assert AuditLog.check(path) == [2]
    path.write_text("\n".join(lines[1:]) + "\n")
    assert AuditLog.check(path) == [1]


def test_a_line_of_the_audit_log_that_a_crash_cut_off(start):
    waiting(start())
    path = start().settings.audit_log
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[0][:20])
    assert AuditLog.check(path) == [len(whole.splitlines()) + 1]
    notifier = start()
    notifier.reject(1, answer(notifier.incident(1)))
    assert path.read_text().startswith(whole) and events(notifier)[-1] == "rejected"
    assert AuditLog.check(path) == []


def test_a_disk_that_is_full_leaves_no_part_of_a_line(notifier, monkeypatch):
    waiting(notifier)
    path = notifier.settings.audit_log
    whole, write = path.read_text(), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda handle, text: write(handle, text[:20]))
        with pytest.raises(OSError, match="No space left"):
            notifier.audit.write("something")
    assert path.read_text() == whole
    notifier.audit.write("something")
    assert AuditLog.check(path) == []


@pytest.fixture
def web(notifier):
    with TestClient(create_app(notifier, SECRETS, every=None)) as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def body(*alerts):
    return {"version": "4", "status": "firing", "alerts": [each.model_dump() for each in alerts]}


@pytest.mark.parametrize(
    "headers", [{}, bearer(""), bearer("wrong"), bearer(APPROVAL), {"Authorization": f"Basic {WEBHOOK}"}]
)
def test_alerts_need_the_webhooks_token(web, headers):
    assert web.post("/alerts", json=body(alert()), headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [{}, bearer(WEBHOOK), bearer("wrong")])
def test_answers_need_the_approvers_token(web, notifier, headers):
    incident = waiting(notifier)
    given = {"by": "ann", "digest": incident["digest"]}
    assert web.get("/incidents", headers=headers).status_code == 401
    assert web.get("/incidents/1", headers=headers).status_code == 401
    assert web.post("/incidents/1/approve", json=given, headers=headers).status_code == 401
    assert notifier.incident(1)["status"] == "waiting"


def test_alerts_over_http(web, notifier):
    answered = web.post("/alerts", json=body(alert(), alert(run="r2", rollback="")), headers=bearer(WEBHOOK))
    assert answered.json() == {"outcomes": ["opened", "ignored"]}
    assert web.post("/alerts", json={"alerts": "x"}, headers=bearer(WEBHOOK)).status_code == 422
    assert web.post("/alerts", content=b"x" * (1 << 20) + b"x", headers=bearer(WEBHOOK)).status_code == 413
    assert web.post("/alerts", content=iter([b"{}"]), headers=bearer(WEBHOOK)).status_code == 413, "of unknown length"


def test_a_large_body_is_not_read(web):
    """Of nobody: it would be in memory before it is known who sends it."""
    read = []

    def parts():
        read.append(1)
        yield b"x" * 10

    for headers in ({}, {"Content-Length": "10000000000"}):
        assert web.post("/alerts", content=parts(), headers=headers).status_code == 413
    assert web.post("/incidents/1/approve", content=parts()).status_code == 413
    assert read == []


def test_approval_over_http(web, notifier):
    incident = waiting(notifier)
    shown = web.get("/incidents/1", headers=bearer(APPROVAL)).json()
    assert shown["digest"] == incident["digest"] and shown["plan"]["text"]
    wrong = web.post("/incidents/1/approve", json={"by": "ann", "digest": "x"}, headers=bearer(APPROVAL))
    assert wrong.status_code == 409 and "not the plan" in wrong.json()["detail"]
    given = {"by": "ann", "digest": shown["digest"]}
    assert web.post("/incidents/1/approve", json=given, headers=bearer(APPROVAL)).json()["status"] == "approved"
    assert web.get("/incidents/9", headers=bearer(APPROVAL)).status_code == 404
    assert web.post("/incidents/1/explode", json=given, headers=bearer(APPROVAL)).status_code == 422


def test_metrics_and_health(web, notifier):
    waiting(notifier)
    assert web.get("/metrics").status_code == 401
    text = web.get("/metrics", auth=("metrics", METRICS)).text
    assert 'etl_rollback_alerts_total{outcome="opened",rule="bad-run"} 1.0' in text
    assert 'etl_rollback_incidents{status="waiting"} 1.0' in text
    assert web.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"name": "x", "match": {"a": "b"}, "action": "undo"}, "rule x"),
        ({"name": "x", "match": {}, "action": "undo", "run": "r"}, "match"),
        ({"name": "x", "match": {"a": "b"}, "action": "release", "run": "r"}, "rule x"),
        ({"name": "x", "match": {"a": "b"}, "action": "undo", "run": "r", "aproval": "none"}, "aproval"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path, wrong, named):
    (tmp_path / "config.yml").write_text(yaml.safe_dump({"rules": [wrong]}))
    with pytest.raises(ValueError, match=f"config.yml.*(?s:.*){named}"):
        read(tmp_path / "config.yml", Settings)


def test_it_runs_from_the_directory_that_the_role_makes(tmp_path):
    """The package alone, named as the role names it, from a directory that it must not import from."""
    package = tmp_path / "lib/rollback_notifier"
    package.mkdir(parents=True)
    for module in (ROOT / "jobs/rollback/rollback_notifier").glob("*.py"):
        shutil.copy(module, package)
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    (tmp_path / "config.yml").write_text("rules: []")
    internal = yaml.safe_load((ROOT / "roles/rollback_notifier/vars/main.yml").read_text())
    given = {"rollback_notifier_python": sys.executable, "__rollback_notifier_code": package.parent}
    command = Template(internal["__rollback_notifier_command"]).render(given)
    checked = subprocess.run(
        [*command.split(), "--config", "config.yml", "check"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 1 and "config.yml" in checked.stderr and "approval_token" in checked.stderr


def test_the_roles_rules_and_limits_are_valid(start):
    defaults = yaml.safe_load((ROOT / "roles/rollback_notifier/defaults/main.yml").read_text())
    given = {name.removeprefix("rollback_notifier_"): value for name, value in defaults.items()}
    notifier = start(rules=given["rules"], limits=given["limits"], cooldown_minutes=given["cooldown_minutes"])
    assert notifier.receive(alert()) == "opened"
    assert notifier.receive(alert(run="r2", rollback="release", release="0123456789ab")) == "opened"
    assert "-e to=0123456789ab" in notifier.incident(2)["target"]["command"]


def test_airflows_api(tmp_path):
    """What is asked of Airflow, and that an expired login is renewed once."""
    asked = []

    def serve(request):
        asked.append((request.method, request.url.path))
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "fresh"})
        if request.headers.get("authorization") != "Bearer fresh":
            return httpx.Response(401)
        if request.url.path.endswith("hitlDetails") and request.method == "GET":
            return httpx.Response(200, json={"chosen_options": ["Approve"]})
        if request.url.path.endswith("return_value"):
            return httpx.Response(200, json={"value": plan()})
        if request.method == "PATCH":
            return httpx.Response(409)
        return httpx.Response(409 if request.method == "POST" else 200, json={"state": "running"})

    airflow = Airflow.__new__(Airflow)
    airflow._url, airflow._login = "https://airflow", {"username": "u", "password": "p"}
    airflow._client = httpx.Client(base_url="https://airflow", transport=httpx.MockTransport(serve))
    airflow.trigger("n", {"runs": ["r"]})
    assert airflow.state("n") == {"state": "running", "plan": plan(), "answer": "Approve"}
    assert airflow.answer("n", True) is False, "it is answered already"
    runs = "/api/v2/dags/rollback_dag/dagRuns"
    assert asked == [
        ("POST", runs),
        ("POST", "/auth/token"),
        ("POST", runs),
        ("GET", f"{runs}/n"),
        ("GET", f"{runs}/n/taskInstances/approve/-1/hitlDetails"),
        ("GET", f"{runs}/n/taskInstances/plan/xcomEntries/return_value"),
        ("PATCH", f"{runs}/n/taskInstances/approve/-1/hitlDetails"),
    ]
