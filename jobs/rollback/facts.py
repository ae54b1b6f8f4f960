"""What a plan is made of: manifests, ledger, schema and buckets as they are now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jobs.rollback import manifests
from jobs.rollback.buckets import rewound
from jobs.rollback.manifests import newest
from jobs.rollback.plan import Facts, newer, restored_to

PUBLISHED_BY = """
select distinct r.run_id
from etl.run as r
inner join etl.publication as p on r.run_id = p.run_id
where r.release = any(%(releases)s) and p.published_at >= %(since)s and p.undone_at is null
"""
PUBLISHED_SINCE = """
select count(distinct p.run_id), coalesce(sum(v.row_count), 0)
from etl.publication as p
left join etl.partition_version as v on p.publication_id = v.publication_id
where p.published_at >= %s and p.undone_at is null
"""


def gather(conn: Any, kept: manifests.Store, given: Mapping[str, Any], target: str, data: str) -> Facts:
    """The facts of a plan; `given` is what the controller knows. Changes nothing."""
    from jobs.load import migrate
    from jobs.rollback import undo

    known = kept.manifests()
    wanted, chain = newest(known).get(target), newer(known, target)
    facts = {
        "manifests": known,
        "level": conn.execute("select coalesce(max(level), 0) from etl.migration").fetchone()[0],
        **{
            key: given[key]
            for key in ("current", "environment", "restorable", "retention_days", "artifacts")
            if key in given
        },
    }
    conn.rollback()
    if wanted is None or not chain:
        return Facts(**facts)
    facts["commit_known"] = wanted["commit"] in given["commits"] if "commits" in given else True
    try:
        facts["down"] = migrate.down(conn, wanted["migration"], plan=True)
    except migrate.MigrationError as error:
        facts["down"] = {"refused": str(error)}
    conn.autocommit = False
    window = {"releases": [one["release"] for one in chain], "since": chain[0]["since"]["time"]}
    runs = [row[0] for row in conn.execute(PUBLISHED_BY, window).fetchall()]
    facts["since"] = tuple(map(int, conn.execute(PUBLISHED_SINCE, (restored_to(chain[0]["since"]),)).fetchone()))
    conn.rollback()
    if runs:
        facts["undo"] = undo.plan(conn, undo.Selection(run_ids=tuple(runs)), cascade=True).as_dict()
    if data == "restore":
        facts["rewind"] = {
            name: rewound(name, window["since"], dry_run=True) for name in os.environ["DATA_BUCKETS"].split()
        }
    return Facts(**facts)
