"""Log lines become the documents of tests/golden/log_lines.yml, by whichever shipper the hosts have; Kibana's searches find some."""

import json
import shlex
import time

import pytest
import yaml

from tests.deployed import ROOT

GOLDEN = yaml.safe_load((ROOT / "tests/golden/log_lines.yml").read_text())
SAVED = [json.loads(line) for line in (ROOT / "roles/kibana/files/saved_objects.ndjson").read_text().splitlines()]
ASKED = [each for each in SAVED if each["type"] in ("search", "visualization")]


def documents(elasticsearch, query: str, count: int) -> list[dict]:
    """The hits of a query, once there are as many as expected; fewer fail."""
    deadline = time.monotonic() + 60
    while True:
        hits = elasticsearch.get("/etl-logs-*/_search", q=query, size=1000, sort="@timestamp:asc")["hits"]["hits"]
        if len(hits) >= count or time.monotonic() > deadline:
            assert len(hits) == count, [hit["_source"]["message"] for hit in hits]
            return hits
        time.sleep(1)


@pytest.fixture(scope="module")
def said(platform, elasticsearch):
    """The documents of all golden lines, by kind and name of the case."""
    mark = f"golden-{int(time.time())}"
    shipper = next(role for role in ("logstash", "log_shipper") if platform.environment.hosts(role))
    host, airflow = platform.environment.hosts(shipper)[-1], platform.environment.hosts("airflow")[0]
    script = [
        f"systemd-run --quiet --wait --collect --unit etl-{mark}-{number} printf '%s\\n' {shlex.quote(line(case, mark))}"
        for number, case in enumerate(GOLDEN["journal"])
    ]
    platform.run(host, " && ".join(script))

    directory = f"/var/log/airflow/dag_id=golden/run_id=manual__{mark}/task_id=load.staging"
    text = "\n".join(line(case, mark) for case in GOLDEN["task"])
    platform.run(airflow, f"mkdir -p {directory} && printf '%s\\n' {shlex.quote(text)} > {directory}/attempt=1.log")
    try:
        lines = documents(elasticsearch, f'unit:etl-{mark}-* AND host:"{host}"', len(GOLDEN["journal"]))
        tasks = documents(elasticsearch, f'run_id:"golden.manual__{mark}" AND host:"{airflow}"', len(GOLDEN["task"]))
    finally:
        platform.run(airflow, "rm -r /var/log/airflow/dag_id=golden")
    found = {("journal", int(hit["_source"]["unit"].split("-")[-1].split(".")[0])): hit for hit in lines}
    for number, case in enumerate(GOLDEN["task"]):
        (found["task", number],) = [hit for hit in tasks if hit["_source"]["message"] == case["document"]["message"]]
    return mark, found


def line(case: dict, mark: str) -> str:
    """What is written: the case's line, with an event id that only this run of the tests has."""
    return case["line"].replace("golden-EVENT", mark)


@pytest.mark.parametrize(("kind", "number"), [(k, n) for k in GOLDEN for n in range(len(GOLDEN[k]))])
def test_a_line_becomes_its_document(said, kind, number):
    mark, found = said
    case, hit = GOLDEN[kind][number], found[kind, number]
    document = {name: value for name, value in hit["_source"].items() if name not in ("@timestamp", "host", "unit")}
    expected = case["document"] | (
        {"run_id": f"golden.manual__{mark}", "task": "load.staging"} if kind == "task" else {}
    )
    assert document == expected, case["name"]
    assert hit["_source"]["unit"].startswith("airflow-task" if kind == "task" else f"etl-{mark}")
    if "id" in case:
        assert hit["_id"] == mark
    if "timestamp" in case:
        assert hit["_source"]["@timestamp"] == case["timestamp"]


def test_equal_lines_of_one_moment_stay_as_many_as_they_were(platform, elasticsearch):
    unit = f"etl-golden-equal-{int(time.time())}"
    host = platform.environment.hosts("elasticsearch")[0]
    platform.run(host, f"systemd-run --quiet --wait --collect --unit {unit} printf 'same\\nsame\\nsame\\n'")
    documents(elasticsearch, f'unit:"{unit}.service"', 3)


@pytest.mark.parametrize("saved", ASKED, ids=lambda saved: saved["id"])
@pytest.mark.usefixtures("year", "said")
def test_a_search_of_kibana_finds_lines(elasticsearch, saved):
    source = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
    text = source["query"]["query"]
    query = {"query_string": {"query": text, "analyze_wildcard": True}} if text else {"match_all": {}}
    asked = {"size": 1, "query": {"bool": {"filter": [query, *source["filter"]]}}}
    if saved["type"] == "visualization":
        inner = asked
        for agg in json.loads(saved["attributes"]["visState"])["aggs"][1:]:
            params = agg["params"]
            made = {"field": params["field"]}
            made |= {"size": params["size"]} if agg["type"] == "terms" else {"fixed_interval": "1h"}
            inner["aggs"] = {agg["id"]: {agg["type"]: made}}
            inner = inner["aggs"][agg["id"]]
    answer = elasticsearch.post("/etl-logs-*/_search", asked)
    assert answer["hits"]["hits"]
    for found in answer.get("aggregations", {}).values():
        assert found["buckets"]
