"""What an operator sees: every target, exactly one alert on a healthy platform, and an alert when something stops."""

import shlex
import time
from collections.abc import Callable

import pytest
import requests
import yaml

from tests.deployed import ROOT


@pytest.fixture(scope="module")
def published(run_flights):
    """The platform's last run, which succeeded whatever other tests broke before."""
    run = run_flights("2013-02-01", "2013-03-01", "-e", "again=true")
    assert run.ledger and run.ledger["state"] == "published", run.play.failed or run.play.stderr
    return run


def until(what: Callable[[], object], seconds: float) -> float:
    """Wait until `what` returns something true; return the seconds it took, or fail with its last value."""
    start = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - start < seconds, f"not so after {seconds} s: {found}"
        time.sleep(1)
    return time.monotonic() - start


def firing(alertmanager) -> list[tuple[str, str]]:
    """Name and host of every alert that Alertmanager holds as firing."""
    labels = [alert["labels"] for alert in alertmanager.get("/api/v2/alerts", active="true", inhibited="true")]
    return sorted((each["alertname"], each.get("host", "")) for each in labels)


def value(prometheus, query: str) -> list[float]:
    """The values that a PromQL query returns."""
    return [float(each["value"][1]) for each in prometheus.get("/api/v1/query", query=query)["data"]["result"]]


def settled(prometheus, alertmanager) -> bool:
    """Whether nothing but Watchdog fires and nothing is about to."""
    alerts = prometheus.get("/api/v1/alerts")["data"]["alerts"]
    return [each["labels"]["alertname"] for each in alerts] == ["Watchdog"] and firing(alertmanager) == [
        ("Watchdog", "")
    ]


def refused(platform, target: dict) -> bool:
    """Whether a target tells nothing to somebody without password, token or certificate."""
    address = platform.environment.value("ansible_host", target["labels"]["host"])
    port_and_path = target["scrapeUrl"].split(":", 2)[2]
    try:
        answer = requests.get(f"https://{address}:{port_and_path}", verify=platform.environment.ca_file, timeout=30)
    except requests.exceptions.SSLError as error:
        return "CERTIFICATE_REQUIRED" in str(error)
    return answer.status_code in (401, 403)


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


@pytest.mark.usefixtures("published")
def test_a_stopped_exporter_is_told_within_a_minute_and_resolves(platform, prometheus, alertmanager):
    until(lambda: settled(prometheus, alertmanager), 240)
    host = platform.environment.hosts("node_exporter")[0]
    platform.run(host, "systemctl stop prometheus-node-exporter.service")
    try:
        # A scrape, 30 s of patience and an evaluation; a busy machine adds a little.
        told = until(lambda: ("TargetDown", host) in firing(alertmanager), 90)
        assert ("HostDown", host) not in firing(alertmanager)
    finally:
        platform.run(host, "systemctl start prometheus-node-exporter.service")
    resolved = until(lambda: settled(prometheus, alertmanager), 120)
    print(f"TargetDown after {told:.0f} s, resolved after {resolved:.0f} s")


def lines(elasticsearch, field: str, content: str) -> list[dict]:
    """The log lines whose field has exactly this content, oldest first."""
    query = f'{field}:"{content}"'
    hits = elasticsearch.get("/etl-logs-*/_search", q=query, size=10000, sort="@timestamp:asc")["hits"]["hits"]
    return [hit["_source"] for hit in hits]


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


def healthy(elasticsearch) -> bool:
    """Whether Elasticsearch answers and every index can be searched."""
    try:
        return elasticsearch.get("/_cluster/health")["status"] in ("yellow", "green")
    except (requests.exceptions.ConnectionError, requests.exceptions.HTTPError):
        return False


def say(platform, host: str, unit: str, first: int, count: int) -> None:
    """Let a service write numbered lines into the journal."""
    script = f"i={first}; while [ $i -lt {first + count} ]; do echo line $i; i=$((i+1)); done"
    platform.run(host, f"systemd-run --wait --collect --unit {unit} sh -c {shlex.quote(script)}")


@pytest.mark.slow
@pytest.mark.usefixtures("published")
def test_an_outage_of_elasticsearch_loses_and_doubles_nothing(platform, prometheus, alertmanager, elasticsearch):
    until(lambda: settled(prometheus, alertmanager), 240)
    host, store = platform.environment.hosts("minio")[0], platform.environment.hosts("elasticsearch")[0]
    unit = f"etl-outage-{int(time.time())}"
    say(platform, host, unit, 0, 500)
    platform.run(store, "systemctl stop elasticsearch.service")
    try:
        say(platform, host, unit, 500, 2000)
        time.sleep(5)  # so that they are in the queue, and what is killed is not still reading the journal
        platform.run(host, "systemctl kill --signal KILL rsyslog.service")
        until(lambda: platform.run(host, "systemctl is-active rsyslog.service || echo no").strip() == "active", 30)
        say(platform, host, unit, 2500, 1000)
        until(lambda: ("LogsWaiting", host) in firing(alertmanager), 240)
    finally:
        platform.run(store, "systemctl start elasticsearch.service")
    until(lambda: healthy(elasticsearch), 300)
    until(lambda: len(lines(elasticsearch, "unit", f"{unit}.service")) >= 3500, 120)
    time.sleep(10)  # would show lines sent twice
    assert sorted(int(line["message"].split()[1]) for line in lines(elasticsearch, "unit", f"{unit}.service")) == [
        *range(3500)
    ]
    until(lambda: settled(prometheus, alertmanager), 240)
