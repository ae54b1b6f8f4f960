#!/usr/bin/python
"""Ansible module: a bucket, its versioning and how long its versions are kept."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.minio_client import CONNECTION, Connection

DOCUMENTATION = r"""
module: minio_bucket
short_description: Manage a bucket of a MinIO server
description:
  - Creates a bucket and sets its versioning and retention. amazon.aws.s3_bucket has no check mode and no retention.
  - A bucket is never removed by this module.
extends_documentation_fragment: minio
options:
  name: {description: Name of the bucket., type: str, required: true}
  versioned: {description: Whether old versions of objects are kept., type: bool, default: true}
  noncurrent_days: {description: Days an overwritten or deleted version stays; 0 is forever., type: int, default: 0}
  expire_days: {description: Days an object stays; 0 is forever., type: int, default: 0}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Create the bucket of raw data, with a month to undo a deletion
  minio_bucket:
    endpoint: https://lake1.etl.internal:9000
    root_user: etl-root
    root_password: "{{ minio_root_password }}"
    name: raw
    noncurrent_days: 30
"""

RETURN = r"""
bucket: {description: The bucket after the run., returned: success, type: dict}
"""

RULE = "retention"


def read(s3, name):
    """Return {versioned, noncurrent_days, expire_days, other_rules} of a bucket, {} when it does not exist."""
    if not s3.bucket_exists(name):
        return {}
    lifecycle = s3.get_bucket_lifecycle(name)
    rules = {rule.rule_id: rule for rule in lifecycle.rules} if lifecycle else {}
    rule = rules.pop(RULE, None)
    enabled = rule is not None and rule.status == "Enabled"
    noncurrent = rule.noncurrent_version_expiration if enabled else None
    expiration = rule.expiration if enabled else None
    return {
        "versioned": s3.get_bucket_versioning(name).status == "Enabled",
        "noncurrent_days": (noncurrent.noncurrent_days if noncurrent else None) or 0,
        "expire_days": (expiration.days if expiration else None) or 0,
        "other_rules": sorted(rules),
    }


def lifecycle(noncurrent_days, expire_days):
    """Return the LifecycleConfig of a bucket, None when everything is kept.

    Where old versions go, a delete marker with no version left under it goes too; it would only slow listings down.
    """
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import Expiration, LifecycleConfig, NoncurrentVersionExpiration, Rule

    if not noncurrent_days and not expire_days:
        return None
    expiration = Expiration(days=expire_days) if expire_days else Expiration(expired_object_delete_marker=True)
    noncurrent = NoncurrentVersionExpiration(noncurrent_days=noncurrent_days) if noncurrent_days else None
    rule = Rule(
        ENABLED,
        rule_filter=Filter(prefix=""),
        rule_id=RULE,
        expiration=expiration,
        noncurrent_version_expiration=noncurrent,
    )
    return LifecycleConfig([rule])


def apply(s3, name, region, before, after):
    """Bring the bucket from `before` to `after`."""
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import SUSPENDED, VersioningConfig

    if not before:
        s3.make_bucket(name, location=region)
        before = {"versioned": False, "noncurrent_days": 0, "expire_days": 0, "other_rules": []}
    if before["versioned"] != after["versioned"]:
        s3.set_bucket_versioning(name, VersioningConfig(ENABLED if after["versioned"] else SUSPENDED))
    if {**before, "versioned": None} != {**after, "versioned": None}:
        config = lifecycle(after["noncurrent_days"], after["expire_days"])
        if config:
            s3.set_bucket_lifecycle(name, config)
        else:
            s3.delete_bucket_lifecycle(name)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "name": {"type": "str", "required": True},
            "versioned": {"type": "bool", "default": True},
            "noncurrent_days": {"type": "int", "default": 0},
            "expire_days": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    try:
        s3 = Connection(module).s3()
        before = read(s3, name)
        after = {key: module.params[key] for key in ("versioned", "noncurrent_days", "expire_days")}
        after["other_rules"] = []
        changed = before != after
        if changed and not module.check_mode:
            apply(s3, name, module.params["region"], before, after)
    except Exception as error:
        module.fail_json(msg=f"bucket {name} on {module.params['endpoint']}: {error}")
    module.exit_json(changed=changed, bucket=after, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
