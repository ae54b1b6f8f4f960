"""The one screen of playbooks/status.yml, from what Prometheus answers: full, and on the first day."""

from pathlib import Path

import pytest
import yaml
from ansible.template import Templar, trust_as_template
from environment import Environment

ROOT = Path(__file__).resolve().parents[2]
(PLAY,) = yaml.safe_load((ROOT / "playbooks/status.yml").read_text())


def series(value: float, **labels: str) -> dict:
    """One series of an instant query's answer."""
    return {"metric": labels, "value": [0, str(value)]}


ANSWERS = {
    "targets": [series(1, job="minio", host="lake1"), series(0, job="nifi", host="ingest1")],
    "units": [series(1, name="minio.service", host="lake1"), series(0, name="nifi.service", host="ingest1")],
    "alerts": [
        series(1, alertname="PublishedStale", severity="critical", pipeline="flights"),
        series(1, alertname="UnitDown", severity="critical", host="ingest1", name="nifi.service"),
    ],
    "watchdog": [series(1)],
    "runs": [series(1, pipeline="flights", run_id="flights_2013", release="r2", state="published")],
    "started": [series(4000.4, pipeline="flights")],
    "seconds": [series(201.7, pipeline="flights")],
    "read": [series(346000, pipeline="flights"), series(5, pipeline="orders")],
    "rejected": [series(0, pipeline="flights")],
    "audits": [series(42, pipeline="flights")],
    "failed_audits": [series(0, pipeline="flights")],
    "age": [series(93800, table_name="fact_flight", pipeline="flights")],
    "published": [series(336776, table_name="fact_flight")],
    "releases": [series(90000, release="r1", state="bad"), series(5000, release="r2", state="good")],
    "backups": [series(40000, stanza="dwh", type="full"), series(300, stanza="dwh", type="incr")],
    "files": [series(9000, host="ingest1", service="nifi"), series(600, host="compute1", service="airflow")],
    "restorable": [series(400000, stanza="dwh")],
    "logs": [series(7, host="lake1")],
}


@pytest.fixture(scope="module")
def screen():
    """A function that prints answers: the default for a query that is not given is none."""
    environment = Environment(ROOT / "inventories/local/hosts.yml")
    variables = environment._variables.get_vars(host=environment._manager.get_host("observe1"))
    template = f"{{{{ lookup('ansible.builtin.template', '{ROOT}/playbooks/templates/status.txt.j2') }}}}"

    def show(answers: dict) -> str:
        status = {name: answers.get(name, []) for name in PLAY["vars"]["__status_queries"]}
        templar = Templar(loader=environment._loader, variables=variables | {"__status": status})
        return templar.template(trust_as_template(template))

    return show


@pytest.mark.parametrize(
    "expected",
    [
        "alerting works",
        "CRITICAL PublishedStale flights, docs/runbooks/PublishedStale.md",
        "CRITICAL UnitDown ingest1 nifi.service, docs/runbooks/UnitDown.md",
        "1 of 2 units run, 1 of 2 targets answer",
        "STOPPED nifi.service on ingest1",
        "SILENT nifi on ingest1",
        "r2 good, deployed 1h 23m ago (newest)",
        "r1 BAD, deployed 1d 1h ago",
        "flights: flights_2013 PUBLISHED, began 1h 6m ago, took 3m 22s",
        "346,000 rows read, 0 rejected; 42 audits, 0 failed",
        "336,776 rows, published 1d 2h ago",
        "full 11h 6m ago, incr 5m 0s ago; can be restored to any moment of the last 4d 15h",
        "files of 2 services, stored 2h 30m ago or less",
    ],
)
def test_the_screen_says(screen, expected):
    assert expected in screen(ANSWERS)


def test_files_that_were_never_stored_are_told(screen):
    never = series(1.8e9, host="observe1", service="alertmanager")
    assert "files of 3 services, one of them never stored" in screen(ANSWERS | {"files": [*ANSWERS["files"], never]})


def test_the_first_day(screen):
    shown = screen({})
    for expected in (
        "DOES NOT WORK",
        "Alerts     none",
        "Releases   none yet",
        "Last runs  none yet",
        "nothing published",
    ):
        assert expected in shown
    assert len(shown.splitlines()) < 40
