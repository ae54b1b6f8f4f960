"""Kibana's saved objects: whole, and about fields that a log line has."""

import json
import re

import pytest
import yaml

from tests.deployed import ROOT

SAVED = [json.loads(line) for line in (ROOT / "roles/kibana/files/saved_objects.ndjson").read_text().splitlines()]
TEMPLATE = yaml.safe_load((ROOT / "roles/elasticsearch/vars/main.yml").read_text())["__elasticsearch_template"]
FIELDS = TEMPLATE["template"]["mappings"]["properties"]
BY_KEY = {(each["type"], each["id"]): each for each in SAVED}


def test_the_data_view_is_of_the_log_indices():
    view = BY_KEY["index-pattern", "etl-logs"]["attributes"]
    assert [view["title"]] == TEMPLATE["index_patterns"]
    assert FIELDS[view["timeFieldName"]]["type"] == "date_nanos"


def test_there_are_searches_and_a_dashboard_and_no_object_twice():
    kinds = [each["type"] for each in SAVED]
    assert kinds.count("search") >= 3 and kinds.count("dashboard") == 1
    assert len(BY_KEY) == len(SAVED)


@pytest.mark.parametrize("saved", SAVED, ids=lambda saved: f"{saved['type']}/{saved['id']}")
def test_references_lead_to_objects_that_come_with_it(saved):
    names = {reference["name"] for reference in saved["references"]}
    assert all((reference["type"], reference["id"]) in BY_KEY for reference in saved["references"])
    source = json.loads(saved["attributes"].get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    assert source.get("indexRefName") is None or source["indexRefName"] in names
    for panel in json.loads(saved["attributes"].get("panelsJSON", "[]")):
        assert f"{panel['panelIndex']}:{panel['panelRefName']}" in names
        place = panel["gridData"]
        assert place["x"] + place["w"] <= 48 and place["i"] == panel["panelIndex"]


@pytest.mark.parametrize(
    "saved", [each for each in SAVED if each["type"] in ("search", "visualization")], ids=lambda s: s["id"]
)
def test_fields_are_those_of_a_log_line(saved):
    query = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]
    assert query["language"] == "lucene"
    named = set(re.findall(r"([\w@.]+):", query["query"])) - {"_exists_"} | set(
        re.findall(r"_exists_:([\w@.]+)", query["query"])
    )
    named |= set(saved["attributes"].get("columns", []))
    named |= {
        agg["params"]["field"]
        for agg in json.loads(saved["attributes"].get("visState", '{"aggs": []}'))["aggs"]
        if agg["params"]
    }
    assert named <= set(FIELDS), f"unknown: {named - set(FIELDS)}"
