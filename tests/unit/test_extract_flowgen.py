"""The committed flow definitions: generated, complete, and without an unhandled relationship."""

import json
import re
from dataclasses import replace

import pytest

from jobs.declaration import load, load_all, names
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
    "MergeContent": {"merged", "original", "failure"},
    "LogAttribute": {"success"},
    "PutS3": {"success", "failure", "exists"},
}
FAULTS = {"failure", "exists", "not.found", "permission.denied", "comms.failure"}


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


def test_bounds_must_match_the_query():
    declaration = load("flights")
    source = replace(declaration.sources["flights"], query="select 1")
    with pytest.raises(ValueError, match="flights must have 2 bounds"):
        build(replace(declaration, sources={"flights": source}))


def test_only_the_listener_of_the_caller_gets_past_the_door(flow):
    door = next(p for p in flow["processors"] if p["name"] == "caller?")["properties"]
    routes = {value for name, value in door.items() if name != "Routing Strategy"}
    assert all(value.startswith("${http.subject.dn:equals(#{request.client})") for value in routes)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [("airlines.csv", "airlines.csv", True), ("airlines.csv", "airlinesxcsv", False), ("f-*.csv", "f-1.csv", True)]
    + [("f-*.csv", "f-../x.csv", False), ("f-*.csv", 'f-"}.csv', False)],
)
def test_requested_files_are_names_of_the_declared_form(pattern, name, matches):
    declaration = load("flights")
    source = replace(declaration.sources["airlines"], files=pattern)
    flow = build(replace(declaration, sources={"airlines": source}))["flowContents"]
    reason = next(p for p in flow["processors"] if p["name"] == "describe request")["properties"]["reason"]
    expression = re.search(r"files:matches\('(.*?)'\)", reason)[1].replace(r"\\", "\\")
    assert bool(re.fullmatch(expression, json.dumps([{"name": name}], separators=(",", ":")))) is matches
