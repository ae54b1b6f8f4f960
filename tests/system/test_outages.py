"""Outages of what observes: no line is lost, none doubled (counted), alerts fire and resolve.

ETL_OUTAGE_SECONDS shortens the outage of Elasticsearch for a try; the suite takes five minutes.
"""

import json
import os
import time

import pytest

from tests.observed import difference, firing, healthy, lines, say, seen, until, value

pytestmark = pytest.mark.slow
OUTAGE = int(os.environ.get("ETL_OUTAGE_SECONDS", "300"))
PER_SECOND = 20
SPOOL = "/var/spool/rsyslog"


@pytest.fixture(autouse=True)
def calm(alertmanager):
    """What an outage makes fire has gone in the end."""
    before = seen(alertmanager)
    yield
    until(lambda: seen(alertmanager) <= before, 420)


def complete(elasticsearch, unit: str, count: int) -> None:
    """Wait until all lines are there, and a little longer, which would show lines sent twice."""
    until(lambda: not difference(elasticsearch, unit, count)[0], 180, every=3)
    time.sleep(10)
    assert difference(elasticsearch, unit, count) == ([], [])


def test_the_count_sees_what_is_lost_and_what_is_doubled(platform, elasticsearch):
    host, store = platform.environment.hosts("minio")[0], platform.environment.hosts("elasticsearch")[0]
    unit = f"etl-planted-{int(time.time())}"
    say(platform, host, unit, 0, 100)
    complete(elasticsearch, unit, 100)
    found = elasticsearch.get("/etl-logs-*/_search", q=f'unit:"{unit}.service"', size=2)["hits"]["hits"]
    index, lost, doubled = found[0]["_index"], *(int(hit["_source"]["message"].split()[1]) for hit in found)
    again = json.dumps(found[1]["_source"])
    curl = "curl -sSf -o /dev/null --config /etc/elasticsearch/retention.curl -H 'Content-Type: application/json'"
    url = f"https://$(hostname -f):9200/{index}/_doc"
    platform.run(store, f'{curl} -X DELETE "{url}/{found[0]["_id"]}?refresh=true"')
    platform.run(store, f"{curl} -X POST \"{url}?refresh=true\" -d '{again}'")
    assert difference(elasticsearch, unit, 100) == ([lost], [doubled])


def test_an_outage_of_elasticsearch_under_load(platform, run_flights, alertmanager, elasticsearch):
    """Two hosts write all the while, a pipeline runs, a shipper is killed; Elasticsearch is away for OUTAGE seconds."""
    speakers = [platform.environment.hosts(group)[0] for group in ("minio", "airflow")]
    store = platform.environment.hosts("elasticsearch")[0]
    unit, count = f"etl-outage-{int(time.time())}", (OUTAGE + 60) * PER_SECOND
    assert count < 10000, "more than a search returns"
    for host in speakers:
        say(platform, host, f"{unit}-{host}", 0, count, per_second=PER_SECOND)
    platform.run(store, "systemctl stop elasticsearch.service")
    try:
        start = time.monotonic()
        run = run_flights("2013-03-01", "2013-04-01", "-e", "again=true")
        platform.run(speakers[0], "systemctl kill --signal KILL rsyslog.service")
        until(lambda: ("LogsWaiting", speakers[0]) in firing(alertmanager), 240)
        time.sleep(max(0.0, OUTAGE - (time.monotonic() - start)))
    finally:
        platform.run(store, "systemctl start elasticsearch.service")
    until(lambda: healthy(elasticsearch), 300)
    for host in speakers:
        complete(elasticsearch, f"{unit}-{host}", count)
    assert run.ledger["state"] == "published"
    run_id = run.ledger["run_id"]
    pattern = f"/var/log/airflow/dag_id=*/run_id={run_id}/task_id=*/attempt=*.log"
    written = int(platform.run(speakers[1], f"cat {pattern} | wc -l"))
    until(lambda: len(lines(elasticsearch, "run_id", run_id)) >= written, 120)
    assert len(lines(elasticsearch, "run_id", run_id)) == written


def test_the_disk_of_the_queue_is_full(platform, elasticsearch):
    """The queue may take 2 MB, and lines go on for longer than a minute: they wait in the journal."""
    host, store = platform.environment.hosts("minio")[0], platform.environment.hosts("elasticsearch")[0]
    unit, count = f"etl-full-{int(time.time())}", 9000
    platform.run(
        host,
        'cp -a /etc/rsyslog.conf /var/tmp/ && sed -Ei \'s/(queue.maxDiskSpace)="[^"]*"/\\1="2m"/\' /etc/rsyslog.conf && '
        "grep -q 'maxDiskSpace=\"2m\"' /etc/rsyslog.conf && systemctl restart rsyslog",
    )
    try:
        say(platform, host, unit, 0, 100)
        platform.run(store, "systemctl stop elasticsearch.service")
        say(platform, host, unit, 100, count - 100)
        until(lambda: spooled(platform, host) > 2_000_000, 60)
        time.sleep(75)  # what waits to enter the queue must not be thrown away when it has waited long
        assert spooled(platform, host) < 4_000_000
        platform.run(store, "systemctl start elasticsearch.service")
        until(lambda: healthy(elasticsearch), 300)
        complete(elasticsearch, unit, count)
    finally:
        platform.run(store, "systemctl start elasticsearch.service")
        platform.run(host, "mv /var/tmp/rsyslog.conf /etc/rsyslog.conf && systemctl restart rsyslog")


@pytest.mark.parametrize("elasticsearch_is", ["up", "away"])
def test_the_file_system_of_the_queue_is_full(platform, elasticsearch, elasticsearch_is):
    """Something else fills the disk under the shipper, who loses what it reads meanwhile: the journal has it, and it comes from there."""
    host, store = platform.environment.hosts("minio")[0], platform.environment.hosts("elasticsearch")[0]
    unit, count = f"etl-nospace-{int(time.time())}", 3000
    move = f"systemctl stop rsyslog syslog.socket && cp -a {SPOOL} /var/tmp/spool && {{}} && cp -a /var/tmp/spool/. {SPOOL}/ && "
    move += "rm -r /var/tmp/spool && systemctl start syslog.socket rsyslog"
    until(lambda: healthy(elasticsearch), 300)
    platform.run(host, move.format(f"mount -t tmpfs -o size=64m,mode=0700 tmpfs {SPOOL}"))
    try:
        say(platform, host, unit, 0, 100)
        complete(elasticsearch, unit, 100)
        now = int(platform.run(host, "date +%s"))
        until(lambda: arrived(platform, host) > now, 120)
        if elasticsearch_is == "away":
            platform.run(store, "systemctl stop elasticsearch.service")
        say(platform, host, unit, 100, 100)
        platform.run(
            host,
            f"dd if=/dev/zero of={SPOOL}/ballast bs=4k status=none || [ $(stat -c %s {SPOOL}/ballast) -gt 1000000 ]",
        )
        say(platform, host, unit, 200, count - 300)
        platform.run(host, "test -e /run/rsyslog/lost")  # without that the test would show nothing
        platform.run(host, f"rm {SPOOL}/ballast")
        say(platform, host, unit, count - 100, 100)
        platform.run(store, "systemctl start elasticsearch.service")
        until(lambda: healthy(elasticsearch), 300)
        complete(elasticsearch, unit, count)
    finally:
        platform.run(store, "systemctl start elasticsearch.service")
        platform.run(
            host, f"rm -f {SPOOL}/ballast && {move.format(f'umount {SPOOL} && find {SPOOL} -mindepth 1 -delete')}"
        )


def arrived(platform, host: str) -> int:
    """When the shipper last noted the places of all that had arrived, in seconds since 1970; 0: never."""
    return int(platform.run(host, f"cd {SPOOL} && if [ -e arrived.tar ]; then stat -c %Y arrived.tar; else echo 0; fi"))


def spooled(platform, host: str) -> int:
    """Bytes that the shipper's queue takes on disk."""
    return int(platform.run(host, f"du --bytes --summarize {SPOOL} | cut -f 1"))


def test_prometheus_is_restarted_while_an_alert_fires(platform, prometheus, alertmanager):
    """Killed, not stopped: what it had measured is still there, the alert goes on and resolves."""
    host, watcher = platform.environment.hosts("node_exporter")[0], platform.environment.hosts("prometheus")[0]
    platform.run(host, "systemctl stop prometheus-node-exporter.service")
    try:
        until(lambda: ("TargetDown", host) in firing(alertmanager), 90)
        query = f"count_over_time(up[10m] @ {time.time() - 60})"
        before = value(prometheus, query)
        platform.run(watcher, "systemctl kill --signal KILL prometheus.service")
        until(lambda: ready(prometheus), 120)
        assert value(prometheus, query) == before
        until(lambda: ("TargetDown", host) in fired(prometheus), 120)
        assert ("TargetDown", host) in firing(alertmanager)
    finally:
        platform.run(host, "systemctl start prometheus-node-exporter.service")
    until(lambda: ("TargetDown", host) not in firing(alertmanager), 120)


def fired(prometheus) -> list[tuple[str, str]]:
    """Name and host of what the running Prometheus itself holds as firing; its samples tell of the one before it for five minutes."""
    alerts = prometheus.get("/api/v1/alerts")["data"]["alerts"]
    return [
        (each["labels"]["alertname"], each["labels"].get("host", "")) for each in alerts if each["state"] == "firing"
    ]


def ready(prometheus) -> bool:
    """Whether Prometheus has read its log of samples and answers."""
    try:
        return prometheus.session.get(prometheus.url + "/-/ready", timeout=10).ok
    except OSError:
        return False
