#!/usr/bin/python
"""Bring a PostgreSQL cluster back from its backups and its log."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: pgbackrest_restore
short_description: Restore a PostgreSQL cluster in place
description:
  - Stops the cluster, restores what differs from the backup, starts it and waits until the log has been replayed to the target and the
    cluster writes again, on a timeline of its own. Killed and run again it waits for what goes on, then begins anew; until then the
    cluster cannot be started.
  - Runs as root.
options:
  stanza: {type: str, required: true, description: Name of the cluster.}
  port: {type: int, required: true, description: Its port.}
  unit: {type: str, required: true, description: Its systemd unit.}
  directory: {type: path, required: true, description: Its data directory.}
  arguments: {type: list, elements: str, required: true, description: "Arguments of pgbackrest restore, as pgbackrest_plan gives them."}
  timeout: {type: int, default: 7200, description: Seconds that the replay of the log may take.}
"""
RETURN = """
timeline: {type: int, returned: always, description: The timeline on which the cluster writes now.}
lsn: {type: str, returned: always, description: Where it began.}
restore_seconds: {type: float, returned: always, description: How long the files took.}
replay_seconds: {type: float, returned: always, description: How long starting and the log took.}
"""

USER = "postgres"
LOCK = "/run/lock/etl-restore-{stanza}"
GRACE = 5  # seconds until a unit that was told to start has begun to
STATE = """
select
    r, case when not r then ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
    (select redo_lsn from pg_control_checkpoint())
from pg_is_in_recovery() as r
"""


class Failed(Exception):
    """A step that failed; the message has its own words."""


def run(*command: str, user: str | None = None) -> str:
    """Run a command, as another user if one is named; Failed with its words."""
    command = ("runuser", "-u", user, "--", *command) if user else command
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def restore(given: dict) -> dict:
    """The module's result. One at a time: where the controller is gone the module may go on, and another waits for its end."""
    with open(LOCK.format(**given), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _restore(given)


def _restore(given: dict) -> dict:
    began = time.monotonic()
    run("systemctl", "stop", given["unit"])
    owner = pwd.getpwnam(USER)
    if not os.path.isdir(given["directory"]):  # the disk is a new one
        os.makedirs(given["directory"], mode=0o700)
        for path in (os.path.dirname(given["directory"]), given["directory"]):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    run("pgbackrest", f"--stanza={given['stanza']}", "--delta", *given["arguments"], "restore", user=USER)
    restored = time.monotonic()
    since = str(int(time.time()))
    run("systemctl", "reset-failed", given["unit"])
    run("systemctl", "start", "--no-block", given["unit"])
    while True:
        try:
            answer = run("psql", "-X", "-p", str(given["port"]), "-Atc", STATE, "postgres", user=USER)
            recovering, timeline, lsn = answer.split("|")
            if recovering == "f":
                break
        except Failed:
            if time.monotonic() - restored > GRACE and _state(given["unit"]) in ("failed", "inactive"):
                said = run(
                    "journalctl",
                    "-q",
                    "-o",
                    "cat",
                    "-n",
                    "20",
                    f"--since=@{since}",
                    "-t",
                    f"postgresql-{given['stanza']}",
                )
                raise Failed(f"the cluster stopped while it replayed its log: {said}") from None
        if time.monotonic() - restored > given["timeout"]:
            raise Failed(f"the log is not replayed after {given['timeout']} s; {given['unit']} goes on")
        time.sleep(0.5)
    return {
        "changed": True,
        "timeline": int(timeline),
        "lsn": lsn,
        "restore_seconds": round(restored - began, 1),
        "replay_seconds": round(time.monotonic() - restored, 1),
    }


def _state(unit: str) -> str:
    """active, activating, failed, inactive, ..."""
    return subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True).stdout.strip()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "stanza": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "unit": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "arguments": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 7200},
        }
    )
    try:
        module.exit_json(**restore(module.params))
    except Failed as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
