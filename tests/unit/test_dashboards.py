"""Grafana's dashboards: the committed JSON is the generator's, parses with the SDK, and leads only to what exists."""

import json
import re
import subprocess

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from roles.grafana.dashboards import generate
from tests.deployed import ROOT
from tests.grafana import DASHBOARDS, View, load, panels, variables

UIDS = {load(path)["uid"] for path in DASHBOARDS}
SOURCES = {"prometheus", "elasticsearch", "warehouse"}
VARIABLES = {
    "level": ["error", "info"],
    "host": ["lake1", "ingest1"],
    "pipeline": "flights",
    "run": "manual__2013-01-01",
}

plugins.register_default_plugins()


def every_panel():
    return [
        pytest.param(load(path), panel, id=f"{path.stem}/{panel['title']}")
        for path in DASHBOARDS
        for panel in panels(load(path))
    ]


def test_the_committed_dashboards_are_what_the_generator_makes():
    assert {path.name: path.read_text() for path in DASHBOARDS} == generate(), "run: python -m roles.grafana.dashboards"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one(path):
    dashboard = load(path)
    parsed = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))

    def known(value, other):
        """Whether the SDK understood all of it: what it parsed says everything that the file says."""
        if isinstance(value, dict):
            return all(item is None or known(item, other.get(key)) for key, item in value.items())
        if isinstance(value, list):
            return len(value) == len(other) and all(map(known, value, other))
        return value == other

    assert known(dashboard, parsed)
    assert dashboard["uid"] and dashboard["title"] and dashboard["description"] and dashboard["refresh"]
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))
    assert dashboard["panels"][0]["type"] == "stat", "the state comes first"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_fill_the_grid_without_overlap(path):
    taken = {}
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24 and (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y), 'the edge')}"
                taken[x, y] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height, "a gap"


@pytest.mark.parametrize(("dashboard", "panel"), every_panel())
def test_a_panel_explains_itself_and_knows_its_source(dashboard, panel):
    assert panel["title"] and panel["description"].endswith((".", "…"))
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] in SOURCES
        assert target["datasource"] == panel["datasource"]
    if panel["type"] in ("stat", "timeseries", "bargauge"):
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize(("dashboard", "panel"), every_panel())
def test_variables_of_a_query_are_the_dashboards(dashboard, panel):
    declared = {each["name"] for each in variables(dashboard)}
    view = View.of(dashboard, **{name: value for name, value in VARIABLES.items() if name in declared})
    for target in panel["targets"]:
        if "rawSql" in target:
            assert "$" not in view.sql(target["rawSql"])
        else:
            view.put_in(target.get("expr") or target["query"], target["datasource"]["uid"])


@pytest.mark.parametrize(("dashboard", "panel"), every_panel())
def test_links_lead_to_dashboards_that_exist(dashboard, panel):
    for url in re.findall(r'"url": "(/d/[^"]*)"', json.dumps(panel)):
        uid = url.removeprefix("/d/").split("?")[0]
        assert uid in UIDS or uid == "runbook-${__value.raw}", url


def test_promql_is_valid(promtool, tmp_path):
    rules = []
    for path in DASHBOARDS:
        dashboard = load(path)
        view = View.of(dashboard, **VARIABLES)
        expressions = [target["expr"] for panel in panels(dashboard) for target in panel["targets"] if "expr" in target]
        rules += [
            {"record": f"panel:{path.stem}:{n}", "expr": view.put_in(expr, "prometheus")}
            for n, expr in enumerate(expressions)
        ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_objectives_that_panels_name_exist():
    named = set(re.findall(r"slo:(\w+)", "".join(path.read_text() for path in DASHBOARDS)))
    assert named <= set(
        yaml.safe_load((ROOT / "roles/prometheus/defaults/main.yml").read_text())["prometheus_objectives"]
    )


def test_what_is_put_into_a_query_cannot_leave_it():
    view = View.of({"time": {"from": "now-1h"}}, name="o'\"x", many=["a.b", "c"])
    assert view.put_in("${name:sqlstring}", "sqlstring") == "'o''\"x'"
    assert view.put_in('{a="$name"}', "prometheus") == '{a="o\'\\"x"}'
    assert view.put_in("$many", "prometheus") == r"(a\\.b|c)"
    assert view.put_in("$many", "elasticsearch") == '("a.b" OR "c")'
