"""Log lines come back from the object store: what Elasticsearch and its disk have lost, and a day beside the one that is there."""

import json
import time

import pytest

from tests.observed import difference, healthy, lines, say, until

URL = "https://$(hostname -f):9200"
CURL = "curl -sSf --config /etc/elasticsearch/retention.curl -H 'Content-Type: application/json'"
REPOSITORY = "/var/lib/elasticsearch-snapshots"
LOST = "etl-logs-2000.01.02"


@pytest.fixture
def store(platform):
    """The host of Elasticsearch, which afterwards has none of the indices that are made here."""
    host = platform.environment.hosts("elasticsearch")[0]
    yield host
    indices = platform.run(host, f'{CURL} "{URL}/_cat/indices/restored-*,{LOST}*?h=index"').split()
    for index in indices:
        platform.run(host, f'{CURL} -X DELETE "{URL}/{index}"')


@pytest.mark.slow
def test_lost_lines_come_back_from_the_object_store(platform, store, elasticsearch):
    until(lambda: healthy(elasticsearch), 60)
    unit = f"etl-kept-{int(time.time())}"
    say(platform, store, unit, 0, 100)
    until(lambda: difference(elasticsearch, unit, 100) == ([], []), 60)
    line = json.dumps({"@timestamp": "2000-01-02T00:00:00Z", "host": store, "unit": unit, "message": "long ago"})
    platform.run(store, f"{CURL} -X POST \"{URL}/{LOST}/_doc?refresh=true\" -d '{line}'")
    platform.run(store, "systemctl start elasticsearch-snapshot.service")

    # The index is gone, and so is what the host keeps of snapshots.
    platform.run(store, f'{CURL} -X DELETE "{URL}/{LOST}" && {CURL} -X DELETE "{URL}/_snapshot/etl-logs"')
    platform.run(store, f"find {REPOSITORY} -mindepth 1 -delete")

    plan = platform.playbook("playbooks/restore_logs.yml", "--check")
    assert plan.returncode == 0, plan.failed or plan.stderr
    assert f": {LOST}\n" in plan.stderr
    assert not lines(elasticsearch, "unit", unit)

    play = platform.playbook("playbooks/restore_logs.yml")
    assert play.returncode == 0, play.failed or play.stderr
    assert [each["message"] for each in lines(elasticsearch, "unit", unit)] == ["long ago"]
    assert difference(elasticsearch, unit, 100) == ([], [])

    day = lines(elasticsearch, "unit", f"{unit}.service")[0]["@timestamp"][:10].replace("-", ".")
    beside = platform.playbook("playbooks/restore_logs.yml", "-e", f"days={day}", "-e", "prefix=restored-")
    assert beside.returncode == 0, beside.failed or beside.stderr
    found = json.loads(
        platform.run(store, f'{CURL} "{URL}/restored-etl-logs-{day}/_search?q=unit:%22{unit}.service%22&size=1000"')
    )
    assert sorted(int(hit["_source"]["message"].split()[1]) for hit in found["hits"]["hits"]) == list(range(100))

    # The repository that was fetched goes on: the next snapshot adds to it.
    kept = platform.run(store, f'{CURL} "{URL}/_cat/snapshots/etl-logs?h=id"').split()
    platform.run(store, "systemctl start elasticsearch-snapshot.service")
    assert set(platform.run(store, f'{CURL} "{URL}/_cat/snapshots/etl-logs?h=id"').split()) > set(kept)


def test_a_day_that_no_snapshot_has_is_refused(platform):
    play = platform.playbook("playbooks/restore_logs.yml", "-e", "days=1999.01.01")
    assert play.returncode != 0
    assert any("asked for was etl-logs-1999.01.01" in each for each in play.failed)
