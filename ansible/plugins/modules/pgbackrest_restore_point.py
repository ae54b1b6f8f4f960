#!/usr/bin/python
"""Make a named restore point of a PostgreSQL cluster, and see it archived."""

from __future__ import annotations

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgbackrest import NAME, info, pgbackrest, restore_points

DOCUMENTATION = """
module: pgbackrest_restore_point
short_description: A named restore point that is safe in the repository
description:
  - Makes the restore point, switches to the next segment of the log, waits until the former one is archived, and notes the point with
    the newest backup, from which it can be reached. A point of that name that is noted already stays what it was.
  - Runs as the user of the cluster.
options:
  stanza: {type: str, required: true, description: Name of the cluster.}
  port: {type: int, required: true, description: Its port.}
  name: {type: str, required: true, description: Name of the point.}
  timeout: {type: int, default: 120, description: Seconds to wait for the archive.}
"""
RETURN = """
point: {type: dict, returned: always, description: "name, lsn, time (ISO, UTC), timeline, label (of the backup)"}
"""

SOCKET = "/var/run/postgresql"
# A transaction that commits is what a recovery to a moment looks for: without one after the moment it would find no end.
MAKE = "select pg_current_xact_id()"
POINT = """
select lsn::text, to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), pg_walfile_name(lsn)
from pg_create_restore_point(%s) as lsn
"""
ARCHIVED = "select coalesce(last_archived_wal >= %s, false), last_failed_wal, last_failed_time > last_archived_time from pg_stat_archiver"


def make(module: AnsibleModule) -> dict:
    """The module's result."""
    import psycopg2

    given = module.params
    stanza = info(given["stanza"])
    known = restore_points(stanza)
    if given["name"] in known:
        return {"changed": False, "point": {"name": given["name"], **known[given["name"]]}}
    if not stanza["backup"]:
        raise RuntimeError(f"{given['stanza']} has no backup yet: playbooks/backup.yml makes one")
    label = stanza["backup"][-1]["label"]
    connection = psycopg2.connect(host=SOCKET, user="postgres", port=given["port"], dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(MAKE)
        cursor.execute(POINT, (given["name"],))
        lsn, moment, segment = cursor.fetchone()
        cursor.execute("select pg_switch_wal()")
        began = time.monotonic()
        while True:
            cursor.execute(ARCHIVED, (segment,))
            archived, failed, failing = cursor.fetchone()
            if archived:
                break
            if time.monotonic() - began > given["timeout"]:
                why = f"archiving {failed} fails: journalctl -t postgresql-{given['stanza']}" if failing else "it waits"
                raise RuntimeError(f"segment {segment} is not archived after {given['timeout']} s: {why}")
            time.sleep(0.3)
    connection.close()
    timeline = int(segment[:8], 16)
    pgbackrest(
        f"--stanza={given['stanza']}",
        f"--set={label}",
        f"--annotation={given['name']}={lsn} {moment} {timeline}",
        "annotate",
    )
    return {
        "changed": True,
        "point": {"name": given["name"], "lsn": lsn, "time": moment, "timeline": timeline, "label": label},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "stanza": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "name": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 120},
        }
    )
    if not NAME.fullmatch(module.params["name"]):
        module.fail_json(msg=f"{module.params['name']!r}: letters, digits, dot, dash and underscore, 63 at most")
    try:
        module.exit_json(**make(module))
    except Exception as error:
        module.fail_json(msg=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
