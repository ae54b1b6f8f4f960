#!/usr/bin/python
"""Ansible module: a user of NiFi, known by a certificate, and what it may do."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.nifi import CONNECTION, Api, NifiError, text

DOCUMENTATION = r"""
module: nifi_user
short_description: Manage a user of NiFi and its rights
description:
  - Makes a user for an identity, and adds it to the policies named. Rights that it has beyond those stay.
extends_documentation_fragment: nifi
options:
  identity: {description: "Identity as NiFi maps it, e.g. the subject of a certificate.", type: str, required: true}
  rights: {description: "Rights as 'read RESOURCE' or 'write RESOURCE'.", type: list, elements: str, required: true}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Let Prometheus read the metrics
  nifi_user:
    url: https://ingest1.etl.internal:8443/nifi-api
    ca_file: /usr/local/share/ca-certificates/etl-cloud-ca.crt
    client_cert: /etc/nifi/admin/nifi-admin.crt
    client_key: /etc/nifi/admin/nifi-admin.key
    identity: CN=prometheus
    rights: [read flow]
"""

RETURN = r"""
actions: {description: What was done., returned: success, type: list, elements: str}
"""


def policy_of(api, action, resource):
    """Return the policy for exactly this resource, or None: NiFi answers with that of a parent where there is none."""
    try:
        policy = api.get(f"/policies/{action}/{resource}")
    except NifiError as error:
        if error.status != 404:
            raise
        return None
    return policy if policy["component"]["resource"].strip("/") == resource else None


def grant(api, user_id, action, resource, policy):
    """Add the user to the policy, which is made when it is None."""
    members = policy["component"]["users"] if policy else []
    component = {
        "action": action,
        "resource": f"/{resource}",
        "users": [{"id": member["id"]} for member in members] + [{"id": user_id}],
    }
    if policy is None:
        api.call("POST", "/policies", {"revision": {"version": 0}, "component": component})
        return
    component |= {"id": policy["id"], "userGroups": policy["component"]["userGroups"]}
    body = {"id": policy["id"], "revision": policy["revision"], "component": component}
    api.call("PUT", f"/policies/{policy['id']}", body)


def ensure(module, api):
    """Make the user and its rights; return (actions, before, after)."""
    identity, actions, before, after = module.params["identity"], [], {}, {}
    users = {user["component"]["identity"]: user["id"] for user in api.get("/tenants/users")["users"]}
    user_id = users.get(identity)
    if user_id is None:
        actions.append(f"add {identity}")
        after["user"] = identity
        if not module.check_mode:
            body = {"revision": {"version": 0}, "component": {"identity": identity}}
            user_id = api.call("POST", "/tenants/users", body)["id"]
    for right in module.params["rights"]:
        action, resource = right.split(" ", 1)
        policy = policy_of(api, action, resource.strip("/"))
        members = [member["id"] for member in policy["component"]["users"]] if policy else []
        if user_id is not None and user_id in members:
            continue
        actions.append(f"allow {identity} to {right}")
        after[f"policy '{right}'"] = identity
        if not module.check_mode:
            grant(api, user_id, action, resource.strip("/"), policy)
    return actions, before, after


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=CONNECTION
        | {
            "identity": {"type": "str", "required": True},
            "rights": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    wrong = [right for right in module.params["rights"] if right.split(" ", 1)[0] not in ("read", "write")]
    if wrong:
        module.fail_json(msg=f"rights begin with read or write, not: {', '.join(wrong)}")
    try:
        actions, before, after = ensure(module, Api(module))
    except NifiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(actions), actions=actions, diff={"before": text(before), "after": text(after)})


if __name__ == "__main__":
    main()
