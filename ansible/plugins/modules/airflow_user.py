#!/usr/bin/python
"""Keep a user of Airflow's FAB auth manager: runs with the Python and the configuration of Airflow."""

from __future__ import annotations

import contextlib
import sys
import types

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: airflow_user
short_description: Create or update a user who logs in to Airflow
description:
  - Works on the metadata database through Airflow's own security manager, so that no password is in a command line.
  - Needs C(ansible_python_interpreter) of Airflow's venv, and C(AIRFLOW_HOME), C(AIRFLOW_CONFIG) in its environment.
options:
  username: {type: str, required: true, description: Login name.}
  password: {type: str, required: true, description: Password that must work afterwards.}
  email: {type: str, required: true, description: Address.}
  first_name: {type: str, default: ETL, description: First name.}
  last_name: {type: str, default: Administrator, description: Last name.}
  role: {type: str, default: Admin, description: The one role of the user.}
"""


def ensure(security, wanted: dict, check_mode: bool) -> list[str]:
    """Bring the user to what `wanted` says and return the names of what differed (empty: nothing)."""
    user = security.find_user(username=wanted["username"])
    if user is None:
        if not check_mode:
            if security.find_role(wanted["role"]) is None:
                security.sync_roles()
            security.add_user(
                wanted["username"],
                wanted["first_name"],
                wanted["last_name"],
                wanted["email"],
                security.find_role(wanted["role"]),
                wanted["password"],
            )
            if security.find_user(username=wanted["username"]) is None:
                raise RuntimeError(f"Airflow did not create {wanted['username']}; is the e-mail address taken?")
        return ["user"]
    differing = [name for name in ("first_name", "last_name", "email") if getattr(user, name) != wanted[name]]
    if [role.name for role in user.roles] != [wanted["role"]]:
        differing.append("role")
    if not security.check_password(wanted["username"], wanted["password"]):
        differing.append("password")
    if differing and not check_mode:
        for name in ("first_name", "last_name", "email"):
            setattr(user, name, wanted[name])
        user.roles = [security.find_role(wanted["role"])]
        security.update_user(user)
        if "password" in differing:
            security.reset_password(user.id, wanted["password"])
    return differing


def settle_local_settings() -> None:
    """Have an empty airflow_local_settings where there is none: Airflow takes only an import error that names it for
    "there is none", and that of mitogen's importer has no name."""
    try:
        import airflow_local_settings  # noqa: F401
    except ModuleNotFoundError:
        empty = types.ModuleType("airflow_local_settings")
        empty.__file__ = "none"
        sys.modules[empty.__name__] = empty


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "email": {"type": "str", "required": True},
            "first_name": {"type": "str", "default": "ETL"},
            "last_name": {"type": "str", "default": "Administrator"},
            "role": {"type": "str", "default": "Admin"},
        },
        supports_check_mode=True,
    )
    settle_local_settings()
    try:
        # Airflow logs to standard output, which belongs to the module's result.
        with contextlib.redirect_stdout(sys.stderr):
            from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

            with get_application_builder() as builder:
                differing = ensure(builder.sm, module.params, module.check_mode)
    except Exception as error:
        module.fail_json(msg=f"{type(error).__name__}: {error}")
    module.exit_json(changed=bool(differing), differing=differing)


if __name__ == "__main__":
    main()
