#!/usr/bin/python
"""Run a command whose environment holds secrets."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: secret_command
short_description: Run a command whose environment holds secrets
description:
  - The keyword C(environment) of a task is part of the command line of the shell that Ansible starts on the host, and sudo writes that
    line to the journal. The arguments of a module come in by its standard input.
  - Answers as M(ansible.builtin.command) does, with C(changed) true; nothing is run in check mode.
options:
  argv: {type: list, elements: str, required: true, description: The command and its arguments.}
  chdir: {type: path, description: Where to run it.}
  stdin: {type: str, description: Its standard input.}
  secrets: {type: dict, required: true, description: "Variables of its environment; their values are taken out of what the module answers."}
"""
RETURN = """
rc: {type: int, returned: always, description: Exit status.}
stdout: {type: str, returned: always, description: What it wrote.}
stderr: {type: str, returned: always, description: What it complained of.}
"""


def main() -> None:
    """Run the command; a status other than 0 is a failure."""
    module = AnsibleModule(
        argument_spec={
            "argv": {"type": "list", "elements": "str", "required": True},
            "chdir": {"type": "path"},
            "stdin": {"type": "str"},
            "secrets": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, rc=0, stdout="", stderr="")
    given = module.params
    rc, stdout, stderr = module.run_command(
        given["argv"],
        cwd=given["chdir"],
        data=given["stdin"],
        environ_update=given["secrets"],
        expand_user_and_vars=False,
    )
    answer = {"changed": True, "rc": rc, "stdout": stdout.rstrip("\r\n"), "stderr": stderr.rstrip("\r\n")}
    if rc:
        module.fail_json(msg="non-zero return code", **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
