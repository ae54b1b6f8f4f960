#!/usr/bin/python
"""Ansible module: a user of a MinIO server and the policies attached to it."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.minio_client import CONNECTION, Connection, error_code

DOCUMENTATION = r"""
module: minio_user
short_description: Manage a user of a MinIO server
description:
  - Creates, updates, enables or removes a user and attaches exactly the given policies to it.
  - A secret cannot be read back; whether it is the wanted one is found out by a request signed with it.
extends_documentation_fragment: minio
options:
  name: {description: Access key of the user., type: str, required: true}
  secret: {description: Secret key; required when I(state=present)., type: str}
  policies: {description: All policies of the user; others are detached., type: list, elements: str, default: []}
  state: {description: Whether the user exists., type: str, choices: [present, absent], default: present}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Create the user of NiFi
  minio_user:
    endpoint: https://lake1.etl.internal:9000
    root_user: etl-root
    root_password: "{{ minio_root_password }}"
    name: etl-nifi
    secret: "{{ platform_s3_nifi_secret_key }}"
    policies: [etl-nifi]
"""

RETURN = r"""
user: {description: The user after the run (never its secret)., returned: success, type: dict}
"""

MATCHES, DIFFERS = "as wanted", "differs"


def read(admin, name):
    """Return {status, policies} of a user, or None when it does not exist."""
    try:
        info = json.loads(admin.user_info(name))
    except Exception as error:
        if error_code(error) == "XMinioAdminNoSuchUser":
            return None
        raise
    policies = sorted(filter(None, info.get("policyName", "").split(",")))
    return {"status": info["status"], "policies": policies}


def secret_matches(s3):
    """Tell whether a request signed with the wanted secret is accepted; a denial by policy proves it, too."""
    try:
        s3.list_buckets()
    except Exception as error:
        code = error_code(error)
        if code not in ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"):
            raise
        return code == "AccessDenied"
    return True


def describe(admin, s3, name):
    """Return the whole state of a user as a dict, {} when it does not exist."""
    user = read(admin, name)
    if user is None:
        return {}
    return {**user, "secret": MATCHES if secret_matches(s3) else DIFFERS}


def apply(admin, name, secret, before, after):
    """Bring the server from `before` to `after`, with the fewest requests."""
    if not after:
        admin.user_remove(name)
        return
    # A disabled user fails every probe and cannot be given policies: adding it anew sets its secret and enables it.
    if not before or before["status"] != after["status"] or before["secret"] != after["secret"]:
        admin.user_add(name, secret)
    if not before or before["policies"] != after["policies"]:
        admin.policy_set(",".join(after["policies"]), user=name)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "name": {"type": "str", "required": True},
            "secret": {"type": "str", "no_log": True},
            "policies": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["secret"])],
        supports_check_mode=True,
    )
    name, secret = module.params["name"], module.params["secret"]
    connection = Connection(module)
    try:
        admin = connection.admin()
        before = describe(admin, connection.s3(name, secret or "-"), name)
        after = {}
        if module.params["state"] == "present":
            after = {"status": "enabled", "policies": sorted(module.params["policies"]), "secret": MATCHES}
        changed = before != after
        if changed and not module.check_mode:
            apply(admin, name, secret, before, after)
    except Exception as error:
        module.fail_json(msg=f"user {name} on {module.params['endpoint']}: {error}")
    module.exit_json(changed=changed, user=after, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
