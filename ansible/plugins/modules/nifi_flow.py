#!/usr/bin/python
"""Ansible module: one process group of NiFi is what its definition says, with these parameters, and it runs."""

from __future__ import annotations

import hashlib
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.nifi import CONNECTION, Api, NifiError, compare, mark, marked, text

DOCUMENTATION = r"""
module: nifi_flow
short_description: Deploy a flow definition to NiFi
description:
  - Imports a flow definition, or upgrades the process group of its name in place, gives its parameter context values, enables its
    services and starts its processors.
  - What is deployed is compared component by component, so a change made by hand is found and undone.
  - Before a flow is changed or removed its sources stop and what is under way may come to its end. What is still queued then is dropped,
    since another flow could not finish it; a request without an end is repeated by whoever asked.
  - NiFi never shows a sensitive value; a salted mark in the parameter's description tells whether it is the wanted one.
  - The caller's own identity gets the policies that this needs.
extends_documentation_fragment: nifi
options:
  state: {description: Whether the flow is to be there., type: str, choices: [present, absent], default: present}
  definition: {description: "The flow definition, for O(state=present).", type: dict}
  name: {description: "Name of the flow, for O(state=absent).", type: str}
  parameters:
    description: Values of parameters by name. Those that the definition does not name are left aside.
    type: dict
    default: {}
  secrets: {description: The same for sensitive parameters., type: dict, default: {}}
  timeout: {description: Seconds that NiFi has for each step., type: int, default: 120}
  drain: {description: Seconds that what is under way has to come to its end before a change., type: int, default: 30}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Deploy the flow of the flights
  nifi_flow:
    url: https://ingest1.etl.internal:8443/nifi-api
    ca_file: /usr/local/share/ca-certificates/etl-cloud-ca.crt
    client_cert: /etc/nifi/admin/nifi-admin.crt
    client_key: /etc/nifi/admin/nifi-admin.key
    definition: "{{ lookup('ansible.builtin.file', 'flights.json') | from_json }}"
    parameters: {request.port: "9443"}
    secrets: {s3.secret_key: "{{ platform_s3_nifi_secret_key }}"}
"""

RETURN = r"""
name: {description: Name of the process group., returned: success, type: str}
id: {description: Its identifier; absent in a check of a first import., returned: success, type: str}
actions: {description: "What was (or would be) done, in order.", returned: success, type: list, elements: str}
parameters:
  description: A digest of each value by parameter; of a sensitive one its salted mark.
  returned: when the flow is there
  type: dict
"""

# (action, resource) that deploying needs; {root} is the root process group.
POLICIES = (
    ("read", "flow"),
    ("read", "controller"),
    ("write", "controller"),
    ("read", "parameter-contexts"),
    ("write", "parameter-contexts"),
    ("write", "restricted-components"),
    ("read", "system"),
    ("read", "provenance"),
    ("read", "process-groups/{root}"),
    ("write", "process-groups/{root}"),
    ("write", "operation/process-groups/{root}"),
    ("read", "data/process-groups/{root}"),
    ("write", "data/process-groups/{root}"),
    ("read", "provenance-data/process-groups/{root}"),
)


class Deployment:
    """The wanted state of one flow, and the steps to it."""

    def __init__(self, module, api):
        self.module, self.api = module, api
        self.check, self.timeout = module.check_mode, module.params["timeout"]
        self.actions, self.before, self.after = [], {}, {}
        self.root = api.get("/flow/process-groups/root")["processGroupFlow"]["id"]
        self.group = None
        self.definition = module.params["definition"]
        if module.params["state"] == "absent":
            self.name = self.context_name = module.params["name"]
            return
        self.contents = self.definition["flowContents"]
        self.name = self.contents["name"]
        self.context_name = self.contents["parameterContextName"]
        self.values = self._values()

    def _values(self):
        """{name: (value, sensitive)} of the parameters that the definition names."""
        declared = self.definition["parameterContexts"][self.context_name]["parameters"]
        wanted = {entry["name"]: entry["sensitive"] for entry in declared}
        given = {False: self.module.params["parameters"], True: self.module.params["secrets"]}
        missing = sorted(name for name, sensitive in wanted.items() if not given[sensitive].get(name))
        if missing:
            raise NifiError(f"flow '{self.name}' needs values for its parameters {', '.join(missing)}")
        return {name: (str(given[sensitive][name]), sensitive) for name, sensitive in wanted.items()}

    def note(self, action, before=None, after=None):
        """Record a step; True when it is to be taken, not only foretold."""
        self.actions.append(action)
        self.before.update(before or {})
        self.after.update(after or {})
        return not self.check

    # Policies

    def policies(self):
        """Give our own identity what deploying needs; the first administrator of a new NiFi may only give rights."""
        identity = self.api.get("/flow/current-user")["identity"]
        users = self.api.get("/tenants/users")["users"]
        user = next((u for u in users if u["component"]["identity"] == identity), None)
        if user is None:
            raise NifiError(f"NiFi knows no user '{identity}'")
        for action, pattern in POLICIES:
            resource = pattern.format(root=self.root)
            try:
                policy = self.api.get(f"/policies/{action}/{resource}")
            except NifiError as error:
                if error.status != 404:
                    raise
                policy = None
            members = [member["id"] for member in policy["component"]["users"]] if policy else []
            if user["id"] in members:
                continue
            if not self.note(f"allow {action} of {pattern}", after={f"policy '{action} {pattern}'": identity}):
                continue
            own = policy is not None and policy["component"]["resource"].strip("/") == resource
            component = {
                "action": action,
                "resource": f"/{resource}",
                "users": [{"id": i} for i in [*members, user["id"]]],
            }
            if own:
                component |= {"id": policy["id"], "userGroups": policy["component"]["userGroups"]}
                body = {"id": policy["id"], "revision": policy["revision"], "component": component}
                self.api.call("PUT", f"/policies/{policy['id']}", body)
            else:
                self.api.call("POST", "/policies", {"revision": {"version": 0}, "component": component})

    # Parameters

    def context(self):
        """The parameter context, or None."""
        found = self.api.get("/flow/parameter-contexts")["parameterContexts"]
        found = [entry for entry in found if entry["component"]["name"] == self.context_name]
        return self.api.get(f"/parameter-contexts/{found[0]['id']}") if found else None

    def parameters(self, context, prune):
        """Give the context its values. Its parameters that nobody names any more go when `prune` says so."""
        present = (
            {p["parameter"]["name"]: p["parameter"] for p in context["component"]["parameters"]} if context else {}
        )
        updates, before, after = [], {}, {}
        for name, (value, sensitive) in self.values.items():
            old = present.get(name)
            if sensitive and old and marked(old.get("description"), value):
                continue
            if not sensitive and old and old.get("value") == value:
                continue
            label = f"parameter '{name}'"
            if old:
                before[label] = "(sensitive)" if sensitive else old.get("value")
            after[label] = "(another sensitive value)" if sensitive else value
            description = mark(value) if sensitive else ""
            updates.append({"name": name, "value": value, "sensitive": sensitive, "description": description})
        for name in sorted(set(present) - set(self.values)) if prune else ():
            before[f"parameter '{name}'"] = "present"
            updates.append({"name": name})
        if not updates or not self.note(f"set {len(updates)} parameters", before, after):
            return
        component = {"name": self.context_name, "parameters": [{"parameter": update} for update in updates]}
        if context is None:
            self.api.call("POST", "/parameter-contexts", {"revision": {"version": 0}, "component": component})
            return
        component["id"] = context["id"]
        body = {"id": context["id"], "revision": context["revision"], "component": component}
        self.api.request(f"/parameter-contexts/{context['id']}/update-requests", body, self.timeout)

    # Flow

    def deployed(self):
        """The process group of our name, or None."""
        try:
            groups = self.api.get(f"/process-groups/{self.root}/process-groups")["processGroups"]
        except NifiError as error:
            if error.status == 403 and self.check:
                return None
            raise
        return next((group for group in groups if group["component"]["name"] == self.name), None)

    def import_group(self):
        """Make the process group."""
        _, after = compare({"processors": [], "controllerServices": [], "connections": []}, self.contents)
        if not self.note("import the flow", after={name: "present" for name in after}):
            return
        body = {
            "groupId": self.root,
            "groupName": self.name,
            "positionDTO": {"x": 0, "y": 0},
            "revisionDTO": {"version": 0},
            "flowSnapshot": self.definition,
        }
        self.group = self.api.call("POST", f"/process-groups/{self.root}/process-groups/import", body)["id"]

    def upgrade(self):
        """Make the process group what the definition says; True when it was not."""
        present = self.api.get(f"/process-groups/{self.group}/download")
        before, after = compare(present["flowContents"], self.contents)
        if not (before or after):
            return False
        if self.note("upgrade the flow", before, after):
            self.stop()
            revision = self.api.get(f"/process-groups/{self.group}")["revision"]
            body = {"processGroupRevision": {"version": revision["version"]}, "versionedFlowSnapshot": self.definition}
            self.api.request(f"/process-groups/{self.group}/replace-requests", body, self.timeout)
        return True

    # State

    def processors(self):
        """All processors of the group."""
        return self.api.get(f"/process-groups/{self.group}/processors", includeDescendantGroups="true")["processors"]

    def services(self):
        """All controller services of the group."""
        path = f"/flow/process-groups/{self.group}/controller-services"
        return self.api.get(path, includeAncestorGroups="false", includeDescendantGroups="true")["controllerServices"]

    def _until(self, what, read, reached):
        """Wait until `reached` holds for each component; raises NifiError that names those for which it does not."""
        deadline = time.monotonic() + self.timeout
        while True:
            waiting = [part for part in read() if not reached(part)]
            if not waiting:
                return
            if time.monotonic() > deadline:
                names = ", ".join(f"'{p['component']['name']}' ({p['component'].get('state')})" for p in waiting)
                raise NifiError(
                    f"flow '{self.name}': not {what} after {self.timeout} s: {names}\n{self._invalid()}".strip()
                )
            time.sleep(0.5)

    def _invalid(self):
        lines = []
        for kind, parts in (("service", self.services()), ("processor", self.processors())):
            for part in parts:
                errors = part["component"].get("validationErrors") or []
                lines += [f"{kind} '{part['component']['name']}' is invalid: {error}" for error in errors]
        return "\n".join(lines)

    def _set(self, path, state):
        """Set the state of everything in the group; NiFi answers 409 while something is still changing its state."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return self.api.call("PUT", path, {"id": self.group, "state": state})
            except NifiError as error:
                if error.status != 409 or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def queued(self):
        """How many FlowFiles wait in the group's connections."""
        status = self.api.get(f"/flow/process-groups/{self.group}/status", recursive="true")["processGroupStatus"]
        return status["aggregateSnapshot"]["flowFilesQueued"]

    def drain(self):
        """Stop what brings FlowFiles in and let those that are under way come to their end."""
        connections = self.api.get(f"/process-groups/{self.group}/connections")["connections"]
        fed = {connection["component"]["destination"]["id"] for connection in connections}
        for part in self.processors():
            if part["id"] not in fed and part["component"]["state"] == "RUNNING":
                body = {"revision": part["revision"], "state": "STOPPED", "disconnectedNodeAcknowledged": False}
                self.api.call("PUT", f"/processors/{part['id']}/run-status", body)
        deadline = time.monotonic() + self.module.params["drain"]
        while self.queued() and time.monotonic() < deadline:
            time.sleep(1)

    def drop(self):
        """Empty the group's connections."""
        if not (count := self.queued()):
            return
        self.actions.append(f"drop {count} queued FlowFiles")
        path = f"/process-groups/{self.group}/empty-all-connections-requests"
        answer = self.api.call("POST", path)["dropRequest"]
        deadline = time.monotonic() + self.timeout
        while not answer["finished"] and time.monotonic() < deadline:
            time.sleep(0.3)
            answer = self.api.get(f"{path}/{answer['id']}")["dropRequest"]
        self.api.call("DELETE", f"{path}/{answer['id']}")
        if answer.get("failureReason") or not answer["finished"]:
            raise NifiError(f"flow '{self.name}': its queues cannot be emptied: {answer.get('failureReason')}")

    def stop(self):
        """Let the flow run empty, stop the processors, then disable the services."""
        self.drain()
        self._set(f"/flow/process-groups/{self.group}", "STOPPED")
        self._until("stopped", self.processors, _is_stopped)
        self._set(f"/flow/process-groups/{self.group}/controller-services", "DISABLED")
        self._until("disabled", self.services, lambda part: part["component"]["state"] == "DISABLED")
        self.drop()

    def start(self):
        """Enable the services and start the processors, unless all run."""
        idle = [part for part in self.services() if part["component"]["state"] != "ENABLED"]
        idle += [part for part in self.processors() if part["component"]["state"] != "RUNNING"]
        if not idle:
            return
        names = [f"'{part['component']['name']}'" for part in idle]
        told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if not self.note("start the flow", {f"state of {told}": "not running"}, {f"state of {told}": "running"}):
            return
        self._set(f"/flow/process-groups/{self.group}/controller-services", "ENABLED")
        self._until("enabled", self.services, lambda part: part["component"]["state"] == "ENABLED")
        self._until(
            "validated", self.processors, lambda part: part["component"].get("validationStatus") != "VALIDATING"
        )
        if problems := self._invalid():
            raise NifiError(f"flow '{self.name}' cannot start:\n{problems}")
        self._set(f"/flow/process-groups/{self.group}", "RUNNING")
        self._until("running", self.processors, lambda part: part["component"]["state"] == "RUNNING")

    def remove(self):
        """Take the flow and its parameter context away."""
        group = self.deployed()
        if group and self.note("remove the flow", before={f"flow '{self.name}'": "present"}):
            self.group = group["id"]
            self.stop()
            version = self.api.get(f"/process-groups/{self.group}")["revision"]["version"]
            self.api.call("DELETE", f"/process-groups/{self.group}", version=version)
        self.group = None
        context = self.context()
        if context and self.note("remove its parameters", before={f"parameter context '{self.name}'": "present"}):
            self.api.call("DELETE", f"/parameter-contexts/{context['id']}", version=context["revision"]["version"])

    def digests(self):
        """{parameter: digest of its value} as deployed; of a sensitive one the mark, which gives nothing away."""
        context = self.context()
        entries = [entry["parameter"] for entry in context["component"]["parameters"]] if context else []
        return {
            entry["name"]: entry.get("description") or ""
            if entry["sensitive"]
            else hashlib.sha256(str(entry.get("value")).encode()).hexdigest()
            for entry in entries
        }

    def run(self):
        """Take (or foretell) every step that is needed."""
        self.policies()
        if self.module.params["state"] == "absent":
            self.remove()
            return
        group = self.deployed()
        if group is None:
            self.parameters(
                self.context() if "allow read of parameter-contexts" not in self.actions else None, prune=False
            )
            self.import_group()
        else:
            self.group = group["id"]
            upgraded = self.upgrade()
            self.parameters(self.context(), prune=upgraded)
        if self.group:
            self.start()


def _is_stopped(part):
    snapshot = part["status"]["aggregateSnapshot"]
    return snapshot["runStatus"] in ("Stopped", "Invalid", "Disabled") and snapshot["activeThreadCount"] == 0


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=CONNECTION
        | {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "definition": {"type": "dict"},
            "name": {"type": "str"},
            "parameters": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "int", "default": 120},
            "drain": {"type": "int", "default": 30},
        },
        required_if=[("state", "present", ["definition"]), ("state", "absent", ["name"])],
        supports_check_mode=True,
    )
    try:
        deployment = Deployment(module, Api(module))
        deployment.run()
        parameters = deployment.digests() if deployment.group else {}
    except NifiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(deployment.actions),
        name=deployment.name,
        actions=deployment.actions,
        parameters=parameters,
        diff={"before": text(deployment.before), "after": text(deployment.after)},
        **({"id": deployment.group} if deployment.group else {}),
    )


if __name__ == "__main__":
    main()
