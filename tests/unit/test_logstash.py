"""logstash.conf makes the documents of tests/golden/log_lines.yml, which the other shipper is held to on real hosts."""

import re

import pytest
import yaml
from test_templates import renderings

from tests.deployed import ROOT
from tests.logstash import Dropped, Parser, apply

GOLDEN = yaml.safe_load((ROOT / "tests/golden/log_lines.yml").read_text())
TEMPLATE = yaml.safe_load((ROOT / "roles/elasticsearch/vars/main.yml").read_text())["__elasticsearch_template"]


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    (text,) = renderings("logstash/templates/logstash.conf.j2", tmp_path_factory.mktemp("inventory"))
    return Parser(text).sections()


def journal(line: str, unit: str = "etl-golden.service") -> dict:
    """A journal entry as journalctl shows it; systemd takes the priority off a line of a service."""
    found = re.match(r"<(\d)>(.*)", line, re.DOTALL)
    priority, said = found.groups() if found else ("6", line)
    entry = {"MESSAGE": said, "PRIORITY": priority, "_SYSTEMD_UNIT": unit, "__CURSOR": f"s={line}"}
    return entry | {"__REALTIME_TIMESTAMP": "1767322445678901", "_HOSTNAME": "x", "tags": ["journal"]}


def task(line: str) -> dict:
    return {
        "message": line,
        "path": "/var/log/airflow/dag_id=d/run_id=manual__2013-01-01T00:00:00+00:00/task_id=load.staging/attempt=1.log",
        "tags": ["task"],
    }


@pytest.mark.parametrize("case", GOLDEN["journal"], ids=lambda case: case["name"])
def test_a_line_of_the_journal_becomes_its_document(sections, case):
    event = journal(case["line"])
    apply(event, sections["filter"])
    metadata = event.pop("@metadata")
    assert event.pop("unit") == "etl-golden.service"
    assert event.pop("@timestamp") and event.pop("host")
    assert event == case["document"]
    assert metadata["id"] == case.get("id", metadata["id"])


@pytest.mark.parametrize("case", GOLDEN["task"], ids=lambda case: case["name"])
def test_a_line_of_a_task_becomes_its_document(sections, case):
    event = task(case["line"])
    apply(event, sections["filter"])
    assert event.pop("@metadata")["id"]
    assert event.pop("unit") == "airflow-task"
    assert event.pop("host")
    assert event.pop("@timestamp", None) == case.get("timestamp")
    assert event == case["document"] | {"run_id": "d.manual__2013-01-01T00_00_00_00_00", "task": "load.staging"}


@pytest.mark.parametrize("unit", ["session-3.scope", "user@1000.service", "logstash.service"])
def test_sessions_and_itself_are_left_out(sections, unit):
    with pytest.raises(Dropped):
        apply(journal("said", unit), sections["filter"])


def test_two_lines_have_two_ids_and_one_line_has_one(sections):
    ids = []
    for line in ("one", "two", "one"):
        event = journal(line)
        apply(event, sections["filter"])
        ids.append(event["@metadata"]["id"])
    assert ids[0] == ids[2] != ids[1]


def test_documents_have_no_field_that_the_index_does_not_know(sections):
    (kept,) = [step[2]["whitelist_names"] for step in sections["filter"] if step[1] == "prune"]
    assert {name.strip("^$") for name in kept} <= set(TEMPLATE["template"]["mappings"]["properties"])


def test_nothing_is_doubled_or_sent_in_the_clear(sections):
    ((_, name, output),) = sections["output"]
    assert (name, output["action"], output["document_id"]) == ("elasticsearch", "create", "%{[@metadata][id]}")
    assert output["ssl_verification_mode"] == "full" and output["hosts"][0].startswith("https://")
    assert output["password"] == "${ETL_SHIPPER_PASSWORD}"
