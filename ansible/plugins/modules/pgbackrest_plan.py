#!/usr/bin/python
"""How a PostgreSQL cluster can be brought back to a moment, and what that would lose. Changes nothing."""

from __future__ import annotations

import time
from datetime import datetime

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgbackrest import Refused, info, lineage, pgbackrest, plan, target_of, timeline_for

DOCUMENTATION = """
module: pgbackrest_plan
short_description: Plan the restore of a PostgreSQL cluster
description:
  - Chooses the backup that leads to O(to), with the arguments of C(pgbackrest restore), and asks the cluster, if it runs, what was
    published after that moment.
  - Fails with the reason when there is no way. Runs as the user of the cluster.
options:
  stanza: {type: str, required: true, description: Name of the cluster.}
  port: {type: int, required: true, description: Its port.}
  database: {type: str, required: true, description: The platform's database in it.}
  to: {type: str, required: true, description: "latest, a moment in ISO 8601, lsn:<position>, name:<restore point>"}
  timeline: {type: int, description: Follow this timeline instead of the newest.}
"""
RETURN = """
plan: {type: dict, returned: always, description: "backup, wal, timeline, moment, before, arguments"}
up: {type: bool, returned: always, description: Whether the cluster runs and is the one that the repository knows.}
lost: {type: list, returned: always, description: "Runs published after the moment: run_id, pipeline, release, published_at, rows"}
minutes: {type: float, returned: always, description: "From the moment until now, at most"}
"""

SOCKET = "/var/run/postgresql"
LOST = """
select
    p.run_id, r.pipeline, r.release, to_char(p.published_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'),
    coalesce((select sum(v.row_count) from etl.partition_version as v where v.publication_id = p.publication_id), 0)::bigint
from etl.publication as p inner join etl.run as r on p.run_id = r.run_id
where p.undone_at is null and p.published_at > %s order by p.publication_id
"""


def line_of(stanza: dict, timeline: int) -> dict[int, float]:
    """The timelines that lead to one, by its history file in the repository; Refused when there is none.

    Not by archive-get, which wants the cluster's files: the disk may be lost.
    """
    if timeline == 1 or not stanza["archive"]:
        return lineage(timeline)
    file = f"archive/{stanza['name']}/{stanza['archive'][-1]['id']}/{timeline:08X}.history"
    try:
        return lineage(timeline, pgbackrest(f"--stanza={stanza['name']}", "repo-get", file))
    except RuntimeError as error:
        raise Refused(f"the log of {stanza['name']} has no timeline {timeline} ({error})") from None


def ask(given: dict, query: str, arguments: tuple = (), database: str = "postgres") -> list[tuple] | None:
    """Rows of the running cluster, None when it does not answer."""
    import psycopg2

    try:
        connection = psycopg2.connect(host=SOCKET, user="postgres", port=given["port"], dbname=database)
    except psycopg2.OperationalError:
        return None
    with connection, connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall()


def planned(module: AnsibleModule) -> dict:
    """The module's result."""
    given, target, stanza = module.params, target_of(module.params["to"]), info(module.params["stanza"])
    state = ask(
        given,
        "select system_identifier::text, case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
        " else pg_current_wal_lsn() end::text from pg_control_system()",
    )
    known = str(stanza["db"][-1]["system-id"]) if stanza["db"] else ""
    up = bool(state) and state[0][0] == known
    now = time.time()
    line = line_of(stanza, timeline_for(stanza, target, given["timeline"]))
    made = plan(stanza, target, line, now, state[0][1] if up else None)
    lost = None
    if up and given["stanza"] == "dwh":
        there = ask(given, "select to_regclass('etl.publication') is not null", database=given["database"])
        rows = ask(given, LOST, (made["before"],), given["database"]) if there and there[0][0] else []
        lost = [dict(zip(("run_id", "pipeline", "release", "published_at", "rows"), row, strict=True)) for row in rows]
    before = datetime.fromisoformat(made["before"]).timestamp()
    return {"changed": False, "plan": made, "up": up, "lost": lost, "minutes": round((now - before) / 60, 1)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "stanza": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "database": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "timeline": {"type": "int"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**planned(module))
    except (Refused, RuntimeError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
