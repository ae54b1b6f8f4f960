#!/usr/bin/python
"""Ansible module: a policy (IAM document) of a MinIO server."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.minio_client import CONNECTION, Connection, error_code

DOCUMENTATION = r"""
module: minio_policy
short_description: Manage a policy of a MinIO server
description:
  - Creates, updates or removes a named policy. Documents are compared by meaning, not by the order of their lists.
extends_documentation_fragment: minio
options:
  name: {description: Name of the policy., type: str, required: true}
  policy: {description: The IAM document; required when I(state=present)., type: dict}
  state: {description: Whether the policy exists., type: str, choices: [present, absent], default: present}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Let a user read one bucket
  minio_policy:
    endpoint: https://lake1.etl.internal:9000
    root_user: etl-root
    root_password: "{{ minio_root_password }}"
    name: read-raw
    policy:
      Version: "2012-10-17"
      Statement:
        - {Effect: Allow, Action: ["s3:GetObject"], Resource: ["arn:aws:s3:::raw/*"]}
"""

RETURN = r"""
policy: {description: The policy after the run., returned: success, type: dict}
"""


def canonical(document):
    """Return an IAM document with its statements, actions and resources in a fixed order, single values as lists."""

    def listed(value):
        return sorted(value) if isinstance(value, list) else [value]

    statements = [
        {key: listed(value) if key in ("Action", "Resource") else value for key, value in statement.items() if value}
        for statement in document.get("Statement", [])
    ]
    return {**document, "Statement": sorted(statements, key=lambda statement: json.dumps(statement, sort_keys=True))}


def read(admin, name):
    """Return the document of a policy in canonical form, {} when it does not exist."""
    try:
        return canonical(json.loads(admin.policy_info(name)))
    except Exception as error:
        if error_code(error) == "XMinioAdminNoSuchPolicy":
            return {}
        raise


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "name": {"type": "str", "required": True},
            "policy": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["policy"])],
        supports_check_mode=True,
    )
    name = module.params["name"]
    try:
        admin = Connection(module).admin()
        before = read(admin, name)
        after = canonical(module.params["policy"]) if module.params["state"] == "present" else {}
        changed = before != after
        if changed and not module.check_mode:
            if after:
                admin.policy_add(name, policy=after)
            else:
                admin.policy_remove(name)
    except Exception as error:
        module.fail_json(msg=f"policy {name} on {module.params['endpoint']}: {error}")
    module.exit_json(changed=changed, policy=after, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
