"""The ledger on a deployed platform: every row accounted for, every partition traceable, quarantine released, nothing needed removed."""

import re
import shutil
import subprocess
from collections import Counter

import pytest

from tests.deployed import ROOT, Play
from tests.oracle import flights_2013

JANUARY = ("2013-01-01", "2013-02-01")
CARRIER = "HA"  # few of its flights in a month


@pytest.fixture(scope="module")
def oracle() -> dict:
    return flights_2013.figures()


def test_every_source_is_in_balance_with_its_own_count(year, warehouse, oracle):
    rows = warehouse.rows("select * from etl.v_balance where run_id = %s", year.ledger["run_id"])
    assert {row["dataset"] for row in rows} >= {"planes", "airlines", "airports"}
    assert all(row["counted_at_source"] for row in rows)
    for row in rows:
        assert row["balanced"] and row["difference"] == 0, row
        assert row["extracted"] == row["published"] + row["quarantined"] + row["superseded"]
    by_table = Counter()
    for row in rows:
        by_table[row["published_in"]] += row["extracted"]
    assert (by_table["fact_flight"], by_table["dim_plane"]) == (oracle["rows"], oracle["planes"])
    assert (by_table["dim_airline"], by_table["dim_airport"]) == (oracle["airlines"], oracle["airports"])


@pytest.fixture(scope="module")
def lineage(year, platform) -> Play:
    """What the playbook says of a partition, once it has loaded the events that wait."""
    play = platform.playbook("playbooks/lineage.yml", "-e", "table=dwh.fact_flight", "-e", "partition=201307")
    assert play.returncode == 0, play.failed
    return play


def test_a_partition_leads_to_objects_that_are_there_in_that_version(lineage, platform, object_store):
    play = lineage
    assert "fact_flight_201307 version" in play.stderr
    assert "what stands on it" in play.stderr and "dwh.agg_delay_day" in play.stderr
    assert "flow version" in play.stderr
    bucket = platform.environment.value("platform_s3_buckets")["raw"]
    (prefix,) = set(re.findall(rf"s3://{bucket}/(flights_db/\S+?)  ", play.stderr)[:1])
    name, version = re.search(r"(part-\S+) version (\S+),", play.stderr.partition(prefix)[2]).groups()
    head = object_store.head_object(Bucket=bucket, Key=f"{prefix}/{name}")
    assert head["VersionId"] == version


def test_airflow_tells_of_its_tasks(year, lineage, warehouse):
    rows = warehouse.rows(
        "select distinct job_name from etl.lineage_event where job_namespace = 'airflow' and run_id = %s",
        year.ledger["run_id"],
    )
    assert {"etl_pipeline.start", "etl_pipeline.publish.publish"} <= {row["job_name"] for row in rows}


def test_retention_says_what_would_go_and_touches_nothing_that_is_needed(year, platform, warehouse):
    play = platform.playbook("playbooks/retention.yml", "-e", "pipeline=flights")
    assert play.returncode == 0, play.failed
    assert "dry run" in play.stderr
    assert year.ledger["run_id"] not in play.stderr
    assert not play.changed


def test_of_an_empty_quarantine_nothing_is_released(year, platform):
    play = platform.playbook(
        "playbooks/replay_quarantine.yml", "-e", "pipeline=flights", "-e", f"run_id={year.ledger['run_id']}", "--check"
    )
    assert play.returncode == 0, play.failed
    assert "nothing to do" in play.stderr


@pytest.fixture
def release(platform, tmp_path):
    """Deploys the checkout with another rule for flights; the checkout as it is when the test has ended."""

    def deploy(*changes: tuple[str, str]) -> None:
        checkout = tmp_path / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, checkout], check=True)
        path = checkout / "jobs/pipelines/flights.yml"
        text = path.read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path.write_text(text)
        identity = ("-c", "user.name=test", "-c", "user.email=test@etl.internal")
        subprocess.run(["git", "-C", checkout, *identity, "commit", "-aqm", "test: a rule too strict"], check=True)
        play = platform.playbook(
            "playbooks/release.yml", "--tags", "etl_release", "-e", f"etl_release_checkout={checkout}"
        )
        assert play.returncode == 0, play.failed
        shutil.rmtree(checkout)

    yield deploy
    play = platform.playbook("playbooks/release.yml", "--tags", "etl_release")
    assert play.returncode == 0, play.failed


@pytest.mark.slow
def test_rows_that_a_wrong_rule_rejected_are_released_after_the_fix(year, platform, warehouse, run_flights, release):
    """A rule too strict is released, a month run, the rule mended, the rows released: the content is that before."""
    before = warehouse.contents()
    month = "flight_date >= '2013-01-01' and flight_date < '2013-02-01'"
    rows = warehouse.one(f"select count(*) from dwh.fact_flight where {month} and carrier = '{CARRIER}'")["count"]
    assert rows > 0
    release(
        (
            "reject_if: carrier is null, reason: A flight",
            f"reject_if: carrier is null or carrier = '{CARRIER}', reason: A flight",
        )
    )
    run = run_flights(*JANUARY, "-e", "again=true")
    assert run.ledger["state"] == "published", run.play.failed
    balance = (
        "select quarantined, released, balanced from etl.v_balance where run_id = %s and published_in = 'fact_flight'"
    )
    assert warehouse.one(balance, run.ledger["run_id"]) == {"quarantined": rows, "released": 0, "balanced": True}
    assert warehouse.contents() != before

    assert platform.playbook("playbooks/release.yml", "--tags", "etl_release").returncode == 0
    replay = ("playbooks/replay_quarantine.yml", "-e", "pipeline=flights", "-e", f"run_id={run.ledger['run_id']}")
    assert f"{rows} rows of flights are in quarantine" in platform.playbook(*replay, "--check").stderr
    play = platform.playbook(*replay)
    assert play.returncode == 0, play.failed or play.stderr
    assert warehouse.contents() == before, "the same rows as if the rule had never been"
    assert warehouse.one(balance, run.ledger["run_id"]) == {"quarantined": rows, "released": rows, "balanced": True}
    assert "nothing to do" in platform.playbook(*replay).stderr
    assert warehouse.contents() == before
