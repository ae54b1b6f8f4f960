"""A run publishes bad data; an alert says so; a person approves; the data are what they were before."""

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.slow
MONTH = ("2013-03-01", "2013-04-01")
BAD = "update dwh.fact_flight set dep_delay_minutes = 999 where run_id = '{run_id}' and dep_delay_minutes is not null"


def until(condition, seconds: float):
    """What the condition returns once it is true; fails when that takes longer."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(3)
    return found


@pytest.fixture
def approve(platform):
    """etl-approve on its host, as an operator has it."""
    host = platform.environment.hosts("rollback_notifier")[0]
    return lambda *arguments: platform.run(host, " ".join(["etl-approve", *map(str, arguments)]))


@pytest.fixture
def bad_run(platform, warehouse, run_flights):
    """(content of the published tables before, the run that spoilt a month of them)."""
    good = run_flights(*MONTH)
    assert good.play.returncode == 0, good.play.failed or good.play.stderr
    before = warehouse.contents()
    again = run_flights(*MONTH, "-e", "again=true")
    assert again.play.returncode == 0, again.play.failed or again.play.stderr
    run_id = again.ledger["run_id"]
    assert warehouse.contents() == before
    port, database = (
        platform.environment.value("platform_dwh_port"),
        platform.environment.value("platform_dwh_database"),
    )
    statement = BAD.format(run_id=run_id)
    host = platform.environment.hosts("postgresql")[0]
    platform.run(host, f'runuser -u postgres -- psql -p {port} -d {database} -v ON_ERROR_STOP=1 -c "{statement}"')
    assert warehouse.contents()["fact_flight"] != before["fact_flight"]
    return before, run_id


def test_an_alert_leads_to_an_approved_undo(platform, warehouse, alertmanager, approve, bad_run):
    before, run_id = bad_run
    spoilt = warehouse.contents()
    # A pipeline of its own: the cool-down is one of rule and pipeline, and this test may run twice within it.
    labels = {"alertname": "PublishedBad", "rollback": "undo", "run_id": run_id, "pipeline": f"test-{time.time_ns()}"}
    alert = {"labels": labels}
    ends = {"endsAt": (datetime.now(UTC) + timedelta(minutes=10)).isoformat()}
    alertmanager.session.post(f"{alertmanager.url}/api/v2/alerts", json=[alert | ends], timeout=30).raise_for_status()
    try:
        incident = until(
            lambda: re.search(rf"^ *(\d+)  waiting .*{re.escape(run_id)}", approve("list"), re.MULTILINE), 180
        )[1]
        shown = approve("show", incident)
        assert "| fact_flight_201303 |" in shown, shown
        assert warehouse.contents() == spoilt, "nothing is taken back before somebody approves"
        digest = re.search(r"--digest (\w+)", shown)[1]
        approve("approve", incident, "--digest", digest, "--by", "tester")
        until(lambda: re.search(rf"^ *{incident}  done ", approve("list"), re.MULTILINE), 180)
    finally:
        over = {"endsAt": datetime.now(UTC).isoformat()}
        alertmanager.session.post(
            f"{alertmanager.url}/api/v2/alerts", json=[alert | over], timeout=30
        ).raise_for_status()
    assert warehouse.contents() == before
    assert warehouse.one("select state from etl.run where run_id = %s", run_id)["state"] == "undone"
    (undo,) = warehouse.rows("select requested_by, reason from etl.undo where run_ids = %s", [run_id])
    assert undo["reason"] == f"incident {incident}, bad-run"
    events = [json.loads(line) for line in approve("audit").splitlines()]
    mine = [event["event"] for event in events if str(event.get("incident")) == incident]
    assert mine == ["opened", "planning", "waiting", "approved", "executing", "done"]


def test_the_runbooks_playbook_takes_a_run_back(platform, warehouse, bad_run):
    before, run_id = bad_run
    spoilt = warehouse.contents()
    planned = platform.playbook("playbooks/undo.yml", "-e", f"run_id={run_id}", "--check")
    assert planned.returncode == 0, planned.failed or planned.stderr
    assert warehouse.contents() == spoilt
    done = platform.playbook("playbooks/undo.yml", "-e", f"run_id={run_id}", "-e", "reason=a test")
    assert done.returncode == 0, done.failed or done.stderr
    assert warehouse.contents() == before
    again = platform.playbook("playbooks/undo.yml", "-e", f"run_id={run_id}")
    assert again.returncode == 0 and not again.changed


def test_the_runbooks_playbook_rewinds_a_prefix(platform, object_store):
    """Objects below a prefix of quarantine are overwritten, deleted and added; the bucket is as it was."""
    bucket, prefix = (
        platform.environment.value("platform_s3_buckets")["quarantine"],
        f"test-of-rewind/{time.time_ns()}/",
    )
    for name in ("kept", "overwritten"):
        object_store.put_object(Bucket=bucket, Key=prefix + name, Body=name.encode())
    time.sleep(1)
    then = datetime.now(UTC).isoformat()
    time.sleep(1)
    for name in ("overwritten", "new"):
        object_store.put_object(Bucket=bucket, Key=prefix + name, Body=b"bad")
    asked = ("-e", f"bucket={bucket}", "-e", f"prefix={prefix}", "-e", f"to={then}")
    assert platform.playbook("playbooks/rewind.yml", *asked, "--check").changed
    done = platform.playbook("playbooks/rewind.yml", *asked)
    assert done.returncode == 0, done.failed or done.stderr
    listed = object_store.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    content = {each["Key"]: object_store.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed}
    assert content == {prefix + name: name.encode() for name in ("kept", "overwritten")}
    assert not platform.playbook("playbooks/rewind.yml", *asked).changed
