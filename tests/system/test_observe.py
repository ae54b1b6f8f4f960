"""What an operator sees: every target, exactly one alert on a healthy platform, a run's log, one screen."""

import time

import pytest
import yaml

from tests.causes import GATE, alerts_of, caused
from tests.deployed import ROOT
from tests.observed import firing, lines, seen, settled, until, value


def refused(platform, target: dict) -> bool:
    """Whether a target tells nothing to somebody on Prometheus's host without password, token or certificate."""
    host = platform.host(platform.environment.hosts("prometheus")[0])
    answer = host.run(
        "curl --silent --show-error --output /dev/null --write-out '%%{http_code}' --max-time 30 --cacert %s %s",
        platform.environment.value("platform_ca_file"),
        target["scrapeUrl"],
    )
    return answer.stdout in ("401", "403") or "certificate required" in answer.stderr


def test_every_exported_metric_is_scraped(platform, prometheus):
    until(lambda: not value(prometheus, "up == 0"), 120)
    targets = prometheus.get("/api/v1/targets", state="active")["data"]["activeTargets"]
    scraped = {each["labels"].get("role") for each in targets if each["labels"]["job"] != "probe"}
    for path in ROOT.glob("roles/*/meta/exports.yml"):
        role = path.parents[1].name
        if yaml.safe_load(path.read_text())["metrics"] and platform.environment.hosts(role):
            assert role in scraped, f"{role} exports metrics that nobody reads"


def test_nobody_reads_metrics_without_credentials(platform, prometheus):
    targets = prometheus.get("/api/v1/targets", state="active")["data"]["activeTargets"]
    # The lab opens Spark's pages to people (spark_ui_client_auth).
    asked = [each for each in targets if each["labels"]["job"] != "probe" and each["labels"]["role"] != "spark"]
    assert len(asked) >= 10
    assert not [each["scrapeUrl"] for each in asked if not refused(platform, each)]


@pytest.mark.usefixtures("published")
def test_the_ledger_is_seen(prometheus, warehouse):
    run = warehouse.one("select * from etl.v_run where pipeline = 'flights' order by started_at desc limit 1")
    labels = f'{{pipeline="flights", run_id="{run["run_id"]}", release="{run["release"]}", state="{run["state"]}"}}'
    until(lambda: value(prometheus, f"etl_last_run_info{labels}"), 60)
    assert value(prometheus, 'etl_run_extracted_rows{pipeline="flights"}') == [run["rows_extracted"]]
    assert value(prometheus, 'etl_run_audits_failed{pipeline="flights"}') == [run["audits_failed"]]
    published = warehouse.one(
        "select sum(row_count) as rows from etl.v_published where table_name like '%%fact_flight'"
    )
    assert sum(value(prometheus, 'etl_published_rows{table_name=~".*fact_flight"}')) == published["rows"]


@pytest.mark.usefixtures("published")
def test_a_healthy_platform_fires_exactly_watchdog(prometheus, alertmanager):
    until(lambda: settled(prometheus, alertmanager), 240)
    assert firing(alertmanager) == [("Watchdog", "")]


def test_operators_read_alerts_on_the_host(platform):
    assert "Watchdog" in platform.run(platform.environment.hosts("alertmanager")[0], "amtool alert query")


@pytest.mark.usefixtures("published")
def test_alerts_fire_within_a_minute_and_resolve(platform, prometheus, alertmanager):
    until(lambda: settled(prometheus, alertmanager), 240)
    with caused(platform, *GATE):
        # A scrape, 30 s of patience and an evaluation; a busy machine adds a little.
        told = until(lambda: seen(alertmanager) >= set(alerts_of(GATE)), 90)
        assert "HostDown" not in seen(alertmanager)
    resolved = until(lambda: settled(prometheus, alertmanager), 120)
    print(f"told after {told:.0f} s, resolved after {resolved:.0f} s")


def test_the_log_of_a_run_is_whole_and_in_order(platform, published, elasticsearch):
    run_id, host = published.ledger["run_id"], platform.environment.hosts("airflow")[0]
    pattern = f"/var/log/airflow/dag_id=*/run_id={run_id}/task_id=*/attempt=*.log"
    written = int(platform.run(host, f"cat {pattern} | wc -l"))
    until(lambda: len(lines(elasticsearch, "run_id", run_id)) >= written, 60)
    found = lines(elasticsearch, "run_id", run_id)
    assert len(found) == written
    times = [line["@timestamp"] for line in found]
    assert times == sorted(times)
    assert {line["host"] for line in found} == {host}
    assert {"start", "publish.publish"} <= {line["task"] for line in found}
    play = platform.playbook("playbooks/logs.yml", "-e", f"run_id={run_id}")
    assert play.returncode == 0, play.failed
    assert f"{written} of {written} lines of {run_id}" in play.stderr


def test_every_host_ships_what_its_services_say(platform, elasticsearch):
    for host in platform.hosts:
        unit = f"etl-said-{int(time.time())}"
        platform.run(host, f"systemd-run --wait --collect --unit {unit} echo from {host}")
        until(lambda unit=unit: lines(elasticsearch, "unit", f"{unit}.service"), 30)
        (line,) = lines(elasticsearch, "unit", f"{unit}.service")
        assert (line["host"], line["message"], line["level"]) == (host, f"from {host}", "info")


def test_status_is_one_screen(platform, published):
    play = platform.playbook("playbooks/status.yml")
    assert play.returncode == 0, play.failed
    assert published.ledger["run_id"] in play.stderr
    assert "alerting works" in play.stderr
