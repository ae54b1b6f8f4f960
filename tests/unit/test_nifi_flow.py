"""The module nifi_flow: what it finds to change, and in which order it changes it, with a NiFi that is a dictionary."""

import copy
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


nifi = load("ansible/plugins/module_utils/nifi.py", "ansible.module_utils.nifi")
nifi_flow = load("ansible/plugins/modules/nifi_flow.py", "nifi_flow")


def processor(name, **properties):
    descriptors = {key: {"name": key, "dynamic": key.startswith("own.")} for key in properties}
    return {
        "identifier": f"id of {name}",
        "name": name,
        "type": "Some",
        "properties": properties,
        "propertyDescriptors": descriptors,
        "position": {"x": 0, "y": 0},
        "autoTerminatedRelationships": [],
    }


def connection(source, target, *relationships):
    return {
        "identifier": "any",
        "source": {"id": f"id of {source}"},
        "destination": {"id": f"id of {target}"},
        "selectedRelationships": list(relationships),
        "flowFileExpiration": "0 sec",
    }


def contents(*processors, connections=()):
    return {
        "name": "flights",
        "comments": "version 1",
        "parameterContextName": "flights",
        "processors": list(processors),
        "controllerServices": [],
        "connections": list(connections),
    }


WANTED = contents(
    processor("query", **{"Max Rows": "5"}),
    processor("put", Key="k"),
    connections=[connection("query", "put", "success")],
)


def deployed(**changes):
    """What NiFi made of WANTED: other identifiers and positions, and the defaults of properties."""
    present = copy.deepcopy(WANTED)
    for part in present["processors"]:
        part["identifier"] = part["identifier"].replace("id", "instance")
        part["position"] = {"x": 5, "y": 5}
        part["properties"]["Default"] = "d"
        part["propertyDescriptors"]["Default"] = {"name": "Default", "dynamic": False}
    for part in present["connections"]:
        for end in ("source", "destination"):
            part[end]["id"] = part[end]["id"].replace("id", "instance")
    return present | changes


def test_what_was_deployed_is_what_was_wanted():
    assert nifi.compare(deployed(), WANTED) == ({}, {})


def test_a_changed_property_is_told_by_names():
    present = deployed()
    present["processors"][0]["properties"]["Max Rows"] = "9"
    before, after = nifi.compare(present, WANTED)
    assert nifi.text(before) == "processor 'query': property 'Max Rows' = \"9\"\n"
    assert nifi.text(after) == "processor 'query': property 'Max Rows' = \"5\"\n"


def test_an_added_property_of_somebodys_own_is_found():
    present = deployed()
    present["processors"][1]["properties"]["own.attribute"] = "x"
    present["processors"][1]["propertyDescriptors"]["own.attribute"] = {"name": "own.attribute", "dynamic": True}
    before, after = nifi.compare(present, WANTED)
    assert (before, after) == ({"processor 'put'": {"property 'own.attribute'": "x"}}, {"processor 'put'": {}})


def test_missing_and_foreign_components_are_found():
    present = deployed()
    present["processors"][1]["name"] = "other"
    before, after = nifi.compare(present, WANTED)
    assert before["processor 'other'"] == after["processor 'put'"] == "present"
    assert "connection 'query' -> 'other' (success)" in before


def test_a_mark_tells_the_value_without_showing_it():
    mark = nifi.mark("secret")
    assert "secret" not in mark
    assert nifi.mark("secret") != mark
    assert nifi.marked(mark, "secret")
    assert not nifi.marked(mark, "another")
    assert not nifi.marked("", "secret")
    assert not nifi.marked(None, "secret")


class Server:
    """As much of NiFi as a deployment sees; `calls` are the changing ones."""

    def __init__(self):
        self.calls = []
        self.group = None
        self.values = {}
        self.state = "STOPPED"
        self.errors = []
        self.queued = 0
        self.policy = {"id": "p", "component": {"users": [{"id": "u"}], "resource": "/any"}}

    def get(self, path, **query):
        part = {"name": "query", "state": self.state, "validationErrors": self.errors, "validationStatus": "VALID"}
        status = {"aggregateSnapshot": {"runStatus": "Stopped", "activeThreadCount": 0}}
        source = {"id": "q", "revision": {"version": 2}, "component": part, "status": status}
        answers = {
            "/flow/process-groups/root": {"processGroupFlow": {"id": "root"}},
            "/flow/current-user": {"identity": "admin"},
            "/tenants/users": {"users": [{"id": "u", "component": {"identity": "admin"}}]},
            "/process-groups/root/process-groups": {
                "processGroups": [{"id": "g", "component": {"name": "flights"}}] if self.group else []
            },
            "/process-groups/g/download": {"flowContents": self.group},
            "/process-groups/g": {"revision": {"version": 7}},
            "/process-groups/g/processors": {
                "processors": [source, source | {"id": "p", "component": part | {"name": "put"}}]
            },
            "/process-groups/g/connections": {"connections": [{"component": {"destination": {"id": "p"}}}]},
            "/flow/process-groups/g/status": {
                "processGroupStatus": {"aggregateSnapshot": {"flowFilesQueued": self.queued}}
            },
            "/flow/process-groups/g/controller-services": {"controllerServices": []},
            "/flow/parameter-contexts": {
                "parameterContexts": [{"id": "c", "component": {"name": "flights"}}] if self.values else []
            },
            "/parameter-contexts/c": {
                "id": "c",
                "revision": {"version": 1},
                "component": {"parameters": [{"parameter": value} for value in self.values.values()]},
            },
        }
        return self.policy if path.startswith("/policies/") else answers[path]

    def call(self, method, path, body=None, **query):
        self.calls.append(f"{method} {path}")
        if path == "/parameter-contexts":
            self._set(body)
        elif path.endswith("/import"):
            self.group = deployed()
            return {"id": "g"}
        elif path.endswith("/empty-all-connections-requests"):
            self.queued = 0
            return {"dropRequest": {"id": "d", "finished": True}}
        elif method == "DELETE" and path == "/process-groups/g":
            assert not self.queued, "NiFi refuses to remove a group with queued FlowFiles"
            self.group = None
        elif method == "DELETE" and path == "/parameter-contexts/c":
            self.values = {}
        elif path.startswith("/flow/") and body.get("state") in ("RUNNING", "STOPPED"):
            self.state = body["state"]
        return {}

    def request(self, path, body, seconds):
        self.calls.append(f"REQUEST {path}")
        if "update-requests" in path:
            self._set(body)
        else:
            self.group = deployed()

    def _set(self, body):
        for entry in body["component"]["parameters"]:
            value = dict(entry["parameter"])
            if "value" not in value:
                del self.values[value["name"]]
            else:
                if value["sensitive"]:
                    value["value"] = "********"
                self.values[value["name"]] = value


def deploy(server, check=False, port="9443", secret="geheim", timeout=0.1, state="present"):
    declared = [{"name": "port", "sensitive": False}, {"name": "key", "sensitive": True}]
    definition = {"flowContents": WANTED, "parameterContexts": {"flights": {"parameters": declared}}}
    params = {
        "definition": definition,
        "parameters": {"port": port, "unused": "x"},
        "secrets": {"key": secret},
        "timeout": timeout,
        "drain": 0,
        "state": state,
        "name": "flights",
    }
    server.calls.clear()
    deployment = nifi_flow.Deployment(SimpleNamespace(params=params, check_mode=check), server)
    deployment.run()
    return deployment


def test_a_first_deployment_imports_starts_and_is_then_at_rest():
    server = Server()
    assert deploy(server).actions == ["set 2 parameters", "import the flow", "start the flow"]
    assert server.values["key"]["value"] == "********"
    assert deploy(server).actions == []
    assert server.calls == []


def test_check_mode_foretells_and_changes_nothing():
    server = Server()
    assert deploy(server, check=True).actions == ["set 2 parameters", "import the flow"]
    assert server.calls == []


def test_a_change_by_hand_is_undone_with_the_flow_stopped():
    server = Server()
    deploy(server)
    server.group["processors"][0]["properties"]["Max Rows"] = "9"
    assert deploy(server, check=True).actions == ["upgrade the flow"]
    assert deploy(server).actions == ["upgrade the flow", "start the flow"]
    assert server.calls == [
        "PUT /processors/q/run-status",
        "PUT /flow/process-groups/g",
        "PUT /flow/process-groups/g/controller-services",
        "REQUEST /process-groups/g/replace-requests",
        "PUT /flow/process-groups/g/controller-services",
        "PUT /flow/process-groups/g",
    ]


def test_what_an_old_flow_left_queued_does_not_reach_the_new_one():
    server = Server()
    deploy(server)
    server.group["processors"][0]["properties"]["Max Rows"] = "9"
    server.queued = 3
    assert deploy(server).actions == ["upgrade the flow", "drop 3 queued FlowFiles", "start the flow"]
    drop = server.calls.index("POST /process-groups/g/empty-all-connections-requests")
    assert drop < server.calls.index("REQUEST /process-groups/g/replace-requests")


def test_a_removed_flow_takes_its_parameters_along():
    server = Server()
    deploy(server)
    server.queued = 2
    assert deploy(server, check=True, state="absent").actions == ["remove the flow", "remove its parameters"]
    assert server.calls == []
    assert deploy(server, state="absent").actions == [
        "remove the flow",
        "drop 2 queued FlowFiles",
        "remove its parameters",
    ]
    assert server.group is None and not server.values
    assert deploy(server, state="absent").actions == []


def test_digests_tell_a_change_and_give_nothing_away():
    server = Server()
    first, again = deploy(server).digests(), deploy(server).digests()
    assert first == again and set(first) == {"port", "key"}
    assert "geheim" not in str(first) and "9443" not in first["port"]
    other = deploy(server, port="9444", secret="another").digests()
    assert other["port"] != first["port"] and other["key"] != first["key"]


def test_a_rotated_secret_is_set_and_not_shown():
    server = Server()
    deploy(server)
    deployment = deploy(server, secret="another")
    assert deployment.actions == ["set 1 parameters"]
    assert "another" not in nifi.text(deployment.after).replace("another sensitive value", "")


def test_parameters_nobody_names_go_with_an_upgrade():
    server = Server()
    deploy(server)
    server.values["old"] = {"name": "old", "sensitive": False, "value": "1"}
    assert deploy(server).actions == []
    server.group["processors"][0]["properties"]["Max Rows"] = "9"
    deploy(server)
    assert "old" not in server.values


def test_a_parameter_without_a_value_is_named():
    with pytest.raises(nifi.NifiError, match="flow 'flights' needs values for its parameters key"):
        deploy(Server(), secret="")


def test_an_invalid_component_is_named_with_its_property():
    server = Server()
    server.errors = ["'Endpoint URL' is invalid because Endpoint URL is required"]
    with pytest.raises(nifi.NifiError, match="processor 'query' is invalid: 'Endpoint URL' is invalid because"):
        deploy(server)


def test_missing_rights_are_given_first():
    server = Server()
    server.policy = {"id": "p", "component": {"users": [], "resource": "/other"}}
    actions = deploy(server, check=True).actions
    assert actions[:2] == ["allow read of flow", "allow read of controller"]
