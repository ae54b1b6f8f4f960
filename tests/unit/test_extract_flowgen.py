"""The committed flow definitions: generated, complete, and without an unhandled relationship."""

import json
import re
from dataclasses import replace
from urllib.parse import quote

import pytest

from jobs.declaration import Page, load, load_all, names
from jobs.extract.nifi.flowgen.__main__ import FLOWS, render
from jobs.extract.nifi.flowgen.extract import build

# Relationships that a processor always has; those made by properties are added in the test.
RELATIONSHIPS = {
    "HandleHttpRequest": {"success"},
    "HandleHttpResponse": {"success", "failure"},
    "EvaluateJsonPath": {"matched", "unmatched", "failure"},
    "RouteOnAttribute": {"unmatched"},
    "UpdateAttribute": {"success"},
    "ReplaceText": {"success", "failure"},
    "ExecuteSQLRecord": {"success", "failure"},
    "SplitJson": {"split", "original", "failure"},
    "FetchSFTP": {"success", "not.found", "permission.denied", "comms.failure"},
    "CryptographicHashContent": {"success", "failure"},
    "FetchFile": {"success", "not.found", "permission.denied", "failure"},
    "InvokeHTTP": {"Original", "Response", "Retry", "No Retry", "Failure"},
    "ExecuteStreamCommand": {"original", "output stream", "nonzero status"},
    "MergeContent": {"merged", "original", "failure"},
    "LogAttribute": {"success"},
    "PutS3": {"success", "failure", "exists"},
}
FAULTS = {"failure", "exists", "not.found", "permission.denied", "comms.failure", "nonzero status"}
FAULTS |= {"Retry", "No Retry", "Failure"}


@pytest.fixture(scope="module")
def flow():
    return build(load("flights"))["flowContents"]


@pytest.mark.parametrize("pipeline", load_all(), ids=names())
def test_the_committed_definition_is_the_generated_one(pipeline):
    committed = (FLOWS / f"{pipeline.pipeline}.json").read_text()
    assert committed == render(pipeline), "run: python -m jobs.extract.nifi.flowgen"


def test_no_definition_without_a_declaration():
    assert sorted(path.stem for path in FLOWS.glob("*.json")) == names()


def test_every_relationship_leads_somewhere(flow):
    for processor in flow["processors"]:
        kind = processor["type"].rpartition(".")[2]
        expected = set(RELATIONSHIPS[kind])
        if kind == "RouteOnAttribute":
            expected |= set(processor["properties"]) - {"Routing Strategy"}
        ends = set(processor["autoTerminatedRelationships"])
        followed = {
            name
            for connection in flow["connections"]
            if connection["source"]["id"] == processor["identifier"]
            for name in connection["selectedRelationships"]
        }
        assert followed | ends == expected, processor["name"]
        assert not followed & ends, processor["name"]


def test_no_fault_is_dropped(flow):
    """Every fault after the 202 reaches the failure record; only these may end: the record's own, and an answer to nobody."""
    dropped = {p["name"]: FAULTS & set(p["autoTerminatedRelationships"]) for p in flow["processors"]}
    assert {name: faults for name, faults in dropped.items() if faults} == {
        "put failure record": {"exists"},
        "answer no": {"failure"},
        "answer files": {"failure"},
    }
    successor = {}
    for connection in flow["connections"]:
        successor.setdefault(connection["source"]["id"], set()).add(connection["destination"]["id"])
    identifiers = {p["name"]: p["identifier"] for p in flow["processors"]}
    for name, identifier in identifiers.items():
        if name.startswith("failed: "):
            assert successor[identifier] == {identifiers["failure record"]}


def test_secrets_are_parameters(flow):
    for component in [*flow["processors"], *flow["controllerServices"]]:
        for name, value in component["properties"].items():
            if re.search("password|secret access", name, re.IGNORECASE):
                assert re.fullmatch(r"#\{[a-z0-9_.]+\}", value), f"{component['name']}: {name}"


def test_every_parameter_that_is_used_is_declared():
    definition = build(load("flights"))
    declared = {p["name"] for p in definition["parameterContexts"]["flights"]["parameters"]}
    used = set(re.findall(r"#\{([^}]+)\}", json.dumps(definition["flowContents"])))
    assert used == declared
    assert {p["name"] for p in definition["parameterContexts"]["flights"]["parameters"] if p["sensitive"]} == {
        "flights_db.password",
        "planes_db.password",
        "weather_api.authorization",
        "s3.secret_key",
        "tls.keystore.password",
        "tls.truststore.password",
    }


def test_identifiers_stay_and_the_version_changes_with_the_declaration():
    declaration = load("flights")
    source = replace(declaration.sources["planes"], query="select tailnum from planes")
    changed = build(replace(declaration, sources=declaration.sources | {"planes": source}))["flowContents"]
    same = build(declaration)["flowContents"]
    assert [p["identifier"] for p in changed["processors"]] == [p["identifier"] for p in same["processors"]]
    assert changed["comments"] != same["comments"]


def test_only_the_listener_of_the_caller_gets_past_the_door(flow):
    door = next(p for p in flow["processors"] if p["name"] == "caller?")["properties"]
    routes = {value for name, value in door.items() if name != "Routing Strategy"}
    assert all(value.startswith("${http.subject.dn:equals(#{request.client})") for value in routes)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [("airlines.csv", "airlines.csv", True), ("airlines.csv", "airlinesxcsv", False), ("f-*.csv", "f-1.csv", True)]
    + [("f-*.csv", "f-../x.csv", False), ("f-*.csv", 'f-"}.csv', False), ("f-%Y-%m.csv", "f-2013-01.csv", True)]
    + [("f-%Y-%m.csv", "f-x-01.csv", False), ("f-?.csv", "f-1.csv", True), ("f-?.csv", "f-12.csv", False)],
)
def test_requested_files_are_names_of_the_declared_form(pattern, name, matches):
    declaration = load("flights")
    source = replace(declaration.sources["airlines"], files=pattern)
    flow = build(replace(declaration, sources={"airlines": source}))["flowContents"]
    reason = next(p for p in flow["processors"] if p["name"] == "describe request")["properties"]["reason"]
    expression = re.search(r"files:matches\('(.*?)'\)", reason)[1].replace(r"\\", "\\")
    for listed in ({"name": name}, {"name": name, "size": 17}):
        assert bool(re.fullmatch(expression, json.dumps([listed], separators=(",", ":")))) is matches


def test_no_query_rounds_what_has_no_precision_of_its_own(flow):
    """NiFi's defaults, 10 and 0, would make 12 of a numeric 12.345."""
    queries = [p["properties"] for p in flow["processors"] if p["type"].endswith(".ExecuteSQLRecord")]
    assert {(q["dbf-default-precision"], q["dbf-default-scale"]) for q in queries} == {("38", "18")}


def test_the_bounds_of_pages_are_moments_in_utc(flow):
    first = next(p for p in flow["processors"] if p["name"] == "weather: first page")["properties"]
    assert first["url"].startswith(
        "#{weather_api.url}/v1/observations?from=${from:toDate('yyyy-MM-dd HH:mm:ss','America/New_York')"
    )
    assert first["url"].endswith("&per_page=5000&page=1")


def test_parameters_are_what_they_say_to_the_api_and_nothing_to_nifi():
    declaration = load("flights")
    parameters = {"q": "state:open & a=b #1 50% ${hostname()} #{s3.secret_key}", "since": "[{from_utc}", "f": "a,b"}
    source = replace(declaration.sources["weather"], parameters=parameters)
    flow = build(replace(declaration, sources={"weather": source}))["flowContents"]
    url = next(p for p in flow["processors"] if p["name"] == "weather: first page")["properties"]["url"]
    said = url.partition("?")[2].split("&")
    assert said[0] == "q=" + quote(parameters["q"], ",:") and "$" not in said[0] and "#" not in said[0]
    assert said[1].startswith("since=%5B${from:toDate(") and said[2] == "f=a,b"


def test_the_token_goes_to_no_page_without_tls():
    declaration = load("flights")
    source = replace(declaration.sources["weather"], page=Page(next="links.next"))
    flow = build(replace(declaration, sources={"weather": source}))["flowContents"]
    routes = next(p for p in flow["processors"] if p["name"] == "weather: which page?")["properties"]
    assert "page.next:startsWith('https://')" in routes["more"]
