"""The warehouse goes back to an earlier moment by backup and log, and loses no published row."""

import shlex
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.deployed import ROOT
from tests.observed import until

RESTORE = "playbooks/restore_warehouse.yml"
FILES = "playbooks/restore_files.yml"
LEDGER = """
    select
        r.run_id, r.state, r.interval_from, r.interval_to, r.release,
        (select count(*) from etl.run_source as s where s.run_id = r.run_id) as sources,
        (select sum(s.rows_out) from etl.run_stage as s where s.run_id = r.run_id) as stage_rows,
        (select count(*) from etl.audit_result as a where a.run_id = r.run_id and a.passed) as audits
    from etl.run as r where exists (select from etl.publication as p where p.run_id = r.run_id) order by r.run_id
"""
# Without the run's last task, of which Airflow tells when the journal is written.
LINEAGE = (
    "select distinct job_name from etl.lineage_event where run_id = %s and right(job_name, 7) <> '.finish' order by 1"
)
LAST = "select * from etl.publication where undone_at is null order by publication_id desc limit 1"


def superuser(platform, statement: str) -> str:
    """What a statement gives the warehouse's superuser, who enters by the host's own socket alone."""
    command = shlex.join(["runuser", "-u", "postgres", "--", "psql", "-p", "5432", "-Atc", statement, "dwh"])
    return platform.run(platform.environment.hosts("pgbackrest")[0], command).strip()


def timeline(platform) -> int:
    return int(superuser(platform, "select timeline_id from pg_control_checkpoint()"))


def test_back_to_before_the_last_publication_and_published_again(platform, warehouse, year):
    """Short: what the last run published is lost with the restore, and comes back from s3://curated."""
    last, before, ledger, line = warehouse.one(LAST), warehouse.contents(), warehouse.rows(LEDGER), timeline(platform)
    lineage = warehouse.rows(LINEAGE, last["run_id"])
    moment = (last["published_at"] - timedelta(milliseconds=10)).isoformat()

    planned = platform.playbook(RESTORE, "--check", "-e", f"to={moment}")
    assert planned.returncode == 0, planned.failed
    assert planned.changed == {}
    assert [run["run_id"] for run in planned.result("Plan the restore")["lost"]] == [last["run_id"]]
    assert warehouse.contents() == before

    superuser(platform, "drop table dwh.agg_delay_day")
    done = platform.playbook(RESTORE, "-e", f"to={moment}")
    assert done.returncode == 0, done.failed or done.stderr
    assert warehouse.contents() == before
    assert warehouse.rows(LEDGER) == ledger
    assert warehouse.rows(LINEAGE, last["run_id"]) == lineage
    assert timeline(platform) > line
    noted = warehouse.one("select * from etl.restore order by finished_at desc limit 1")
    assert (noted["cluster"], noted["target"], noted["timeline"]) == ("dwh", moment, timeline(platform))
    assert [run["run_id"] for run in noted["republished"]["publish"]] == [last["run_id"]]


@pytest.mark.slow
def test_to_a_named_point_and_a_run_stays_away(platform, warehouse, year, run_flights):
    before = warehouse.contents()
    point = f"test-{int(time.time())}"
    assert platform.playbook("playbooks/restore_point.yml", "-e", f"point={point}").returncode == 0
    bad = run_flights("2013-02-01", "2013-03-01", "-e", "again=true").ledger["run_id"]
    superuser(platform, f"update dwh.fact_flight set distance_miles = 1 where run_id = '{bad}'")
    assert warehouse.contents() != before
    done = platform.playbook(RESTORE, "-e", f"to=name:{point}", "-e", f"leave_out={bad}")
    assert done.returncode == 0, done.failed
    assert warehouse.contents() == before
    assert warehouse.rows("select 1 from etl.run where run_id = %s", bad) == []
    # Nor does any later restore bring it back.
    assert platform.playbook(RESTORE, "-e", "to=latest").returncode == 0
    assert warehouse.contents() == before


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_it_completes(platform, warehouse, year):
    before, place = warehouse.contents(), platform.environment.hosts("pgbackrest")[0]
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(platform.environment.inventory), RESTORE]
    process = subprocess.Popen(
        [*command, "-e", "to=latest"], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    while "restore.conf" not in platform.run(place, "ls /etc/postgresql/17/dwh/conf.d"):
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused = platform.playbook(RESTORE, "-e", "to=2026-01-01T00:00:00Z")
    assert "did not come to its end" in refused.failed[0]
    done = platform.playbook(RESTORE, "-e", "to=latest")
    assert done.returncode == 0, done.failed
    assert warehouse.contents() == before


@pytest.mark.slow
def test_a_lost_disk(platform, warehouse, year):
    before, place = warehouse.contents(), platform.environment.hosts("pgbackrest")[0]
    platform.run(place, "systemctl kill -s KILL postgresql@17-dwh; sleep 1; rm -rf /var/lib/postgresql/17/dwh")
    done = platform.playbook(RESTORE, "-e", "to=latest")
    assert done.returncode == 0, done.failed
    assert warehouse.contents() == before


@pytest.mark.slow
def test_the_metadata_go_back_without_the_warehouse(platform, warehouse, year):
    before, ledger = warehouse.contents(), warehouse.rows(LEDGER)
    done = platform.playbook(RESTORE, "-e", "to=latest", "-e", "cluster=meta")
    assert done.returncode == 0, done.failed
    assert (warehouse.contents(), warehouse.rows(LEDGER)) == (before, ledger)


@pytest.mark.slow
def test_the_files_of_a_service_come_back(platform, warehouse, year, run_flights):
    """NiFi has lost its flow, its users and its state: they come from the archive, and a run goes through them."""
    before, place = warehouse.contents(), platform.environment.hosts("nifi")[0]
    assert platform.playbook("playbooks/backup.yml").returncode == 0
    listed = platform.playbook(FILES, "--check", "-e", "service=nifi")
    assert listed.returncode == 0, listed.failed or listed.stderr
    platform.run(
        place, "systemctl kill -s KILL nifi && rm -rf /var/lib/nifi/flow /var/lib/nifi/auth /var/lib/nifi/state"
    )
    done = platform.playbook(FILES, "-e", "service=nifi")
    assert done.returncode == 0, done.failed or done.stderr
    assert run_flights("2013-02-01", "2013-03-01", "-e", "again=true").ledger["state"] == "published"
    assert warehouse.contents() == before


@pytest.mark.slow
def test_silences_come_back(platform, alertmanager):
    """A silence that somebody took away is there again, as it was when the files were packed."""
    watcher = platform.environment.hosts("alertmanager")[0]
    now = datetime.now(UTC)
    silence = alertmanager.post(
        "/api/v2/silences",
        {
            "matchers": [{"name": "alertname", "value": "NoSuchAlert", "isRegex": False}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=2)).isoformat(),
            "createdBy": "test_restore",
            "comment": "kept by a backup",
        },
    )["silenceID"]

    def state() -> str:
        return alertmanager.get(f"/api/v2/silence/{silence}")["status"]["state"]

    platform.run(watcher, "systemctl restart prometheus-alertmanager")  # it writes silences when it stops
    until(lambda: answers(state) == "active", 60)
    assert platform.playbook("playbooks/backup.yml").returncode == 0
    alertmanager.delete(f"/api/v2/silence/{silence}")
    assert state() == "expired"
    done = platform.playbook(FILES, "-e", "service=alertmanager")
    assert done.returncode == 0, done.failed or done.stderr
    assert state() == "active"
    alertmanager.delete(f"/api/v2/silence/{silence}")


def answers(ask) -> str | None:
    """What a service says, None while it is starting."""
    try:
        return ask()
    except OSError:  # what requests raises is one
        return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("playbook", "asked", "answer"),
    [
        (RESTORE, ("to=latest",), "latest"),
        ("playbooks/undo.yml", ("pipeline=flights", "from=2013-01-01", "to=2014-01-01"), "undo"),
        ("playbooks/rewind.yml", ("bucket=raw", f"to={datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"), "raw"),
    ],
)
def test_a_protected_environment_asks(platform, warehouse, year, playbook, asked, answer):
    before = warehouse.contents()
    play = platform.playbook(playbook, *(word for each in (*asked, "platform_protected=true") for word in ("-e", each)))
    assert play.returncode != 0 and f"agree with -e confirmed={answer}" in " ".join(play.failed[0].split())
    assert play.changed == {}
    assert warehouse.contents() == before


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("2001-01-01T00:00:00Z", "reach back to"),
        ("name:nowhere", "there is no restore point nowhere"),
        ("lsn:FFFFFFFF/0", "ends before"),
        ("tomorrow", "none of: latest"),
    ],
)
def test_what_cannot_be_had_is_refused(platform, to, why):
    play = platform.playbook(RESTORE, "--check", "-e", f"to={to}")
    assert play.returncode != 0
    assert why in play.failed[0]
