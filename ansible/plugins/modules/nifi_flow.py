#!/usr/bin/python
"""Ansible module: one process group of NiFi is what its definition says, with these parameters, and it runs."""

from __future__ import annotations

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
  - NiFi never shows a sensitive value; a salted mark in the parameter's description tells whether it is the wanted one.
  - The caller's own identity gets the policies that this needs.
options:
  url: {description: NiFi's API., type: str, required: true}
  ca_file: {description: CA to check the server by., type: path, required: true}
  client_cert: {description: The administrator's certificate (PEM)., type: path, required: true}
  client_key: {description: Its key (PEM)., type: path, required: true}
  definition: {description: The flow definition., type: dict, required: true}
  parameters:
    description: Values of parameters by name. Those that the definition does not name are left aside.
    type: dict
    default: {}
  secrets: {description: The same for sensitive parameters., type: dict, default: {}}
  timeout: {description: Seconds that NiFi has for each step., type: int, default: 120}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
requirements: [nipyapi >= 1.0]
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
"""

# (action, resource) that deploying needs; {root} is the root process group.
POLICIES = (
    ("read", "flow"),
    ("read", "controller"),
    ("write", "controller"),
    ("read", "parameter-contexts"),
    ("write", "parameter-contexts"),
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
        self.definition = module.params["definition"]
        self.contents = self.definition["flowContents"]
        self.name = self.contents["name"]
        self.context_name = self.contents["parameterContextName"]
        self.actions, self.before, self.after = [], {}, {}
        self.root = api.get("/flow/process-groups/root")["processGroupFlow"]["id"]
        self.group = None
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

    def stop(self):
        """Stop the processors, then disable the services."""
        self._set(f"/flow/process-groups/{self.group}", "STOPPED")
        self._until("stopped", self.processors, _is_stopped)
        self._set(f"/flow/process-groups/{self.group}/controller-services", "DISABLED")
        self._until("disabled", self.services, lambda part: part["component"]["state"] == "DISABLED")

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

    def run(self):
        """Take (or foretell) every step that is needed."""
        self.policies()
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
            "definition": {"type": "dict", "required": True},
            "parameters": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        deployment = Deployment(module, Api(module))
        deployment.run()
    except NifiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(deployment.actions),
        name=deployment.name,
        actions=deployment.actions,
        diff={"before": text(deployment.before), "after": text(deployment.after)},
        **({"id": deployment.group} if deployment.group else {}),
    )


if __name__ == "__main__":
    main()
