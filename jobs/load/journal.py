"""The journal of publications, in the object store: what stands when the warehouse is brought back to an earlier moment.

One object for every event: `s3://<curated>/_publications/<run_id>/<moment>-<event>.json`, put again only at the run's end, with the
lineage that has come until then, and when its rows are to be read from another place (jobs.compaction). An event is one of

    published   the run's publication committed; `ledger` holds all that the ledger knows of the run, lineage too, so that it can be
                entered again
    undone      the run was taken back
    withdrawn   a restore took the run back, and it was not to be published again

The newest event of a run is the one that counts. The ledger is the truth while it is there; `sync` brings the journal up to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from jobs.load.statements import require_idle

PREFIX = "_publications/"
MOMENT = "%Y%m%dT%H%M%S.%fZ"
EVENTS = ("published", "undone", "withdrawn")
NEWEST = """
select distinct on (run_id)
    run_id, case when undone_at is null then 'published' else 'undone' end as event, coalesce(undone_at, published_at) as at
from etl.publication order by run_id asc, publication_id desc
"""
# What hangs on a run: table and the columns that name one. Publications and versions come anew with publishing again.
CHILDREN = """
select c.relname, array_agg(a.attname::text order by a.attnum)
from pg_constraint as k
inner join pg_class as c on k.conrelid = c.oid
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.conkey[1]
where
    k.confrelid = 'etl.run'::regclass and k.contype = 'f' and cardinality(k.conkey) = 1
    and c.relname not in ('publication', 'partition_version') and has_table_privilege(c.oid, 'insert')
group by c.relname order by c.relname
"""


def children(conn: psycopg.Connection) -> dict[str, list[str]]:
    """Tables of the ledger that hang on runs, each with the columns that name a run."""
    return dict(conn.execute(CHILDREN).fetchall())


def enter(conn: psycopg.Connection, s3: Any, bucket: str, run_id: str) -> str | None:
    """Enter the newest event of a run, as the ledger has it; returns its key, None when the run has published nothing."""
    require_idle(conn)
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(f"select * from ({NEWEST}) as e where run_id = %s", (run_id,)).fetchone()
        if found is None:
            return None
        event = dict(found)
        if event["event"] == "published":
            event["ledger"] = _ledger(conn, run_id)
    return _put(s3, bucket, event)


def enter_all(conn: psycopg.Connection, s3: Any, bucket: str, run_ids: Iterable[str]) -> None:
    """Enter the newest event of each run; repeated, it writes the same objects."""
    for run_id in run_ids:
        enter(conn, s3, bucket, run_id)


def withdraw(s3: Any, bucket: str, run_id: str) -> str:
    """Note that a run is not to be published again; returns the key."""
    return _put(s3, bucket, {"run_id": run_id, "event": "withdrawn", "at": datetime.now(UTC)})


def sync(conn: psycopg.Connection, s3: Any, bucket: str) -> list[str]:
    """Enter what the ledger knows and the journal lacks; returns the keys of what was entered."""
    require_idle(conn)
    with conn.transaction():
        events = conn.execute(NEWEST).fetchall()
    there = set(_keys(s3, bucket))
    return [
        enter(conn, s3, bucket, run_id)
        for run_id, event, at in events
        if _key({"run_id": run_id, "event": event, "at": at}) not in there
    ]


def newest(s3: Any, bucket: str) -> list[dict[str, Any]]:
    """The newest event of every run, in the order of their moments: run_id, event, at (a datetime with offset). By the keys alone,
    however many there are."""
    keys: dict[str, str] = {}
    for key in sorted(_keys(s3, bucket)):
        keys[key.split("/")[1]] = key
    return sorted(map(_event, keys.values()), key=itemgetter("at"))


def read(s3: Any, bucket: str, wanted: Callable[[dict[str, Any]], bool] = lambda event: True) -> list[dict[str, Any]]:
    """As `newest`, with what each of those that are wanted says besides (published: ledger)."""
    return [
        json.loads(s3.get_object(Bucket=bucket, Key=_key(event))["Body"].read()) | {"at": event["at"]}
        for event in newest(s3, bucket)
        if wanted(event)
    ]


def _ledger(conn: psycopg.Connection, run_id: str) -> dict[str, Any]:
    run, release = conn.execute(
        "select to_jsonb(r), to_jsonb(l) from etl.run as r inner join etl.release as l on r.release = l.release"
        " where r.run_id = %s",
        (run_id,),
    ).fetchone()
    tables = {}
    for name, names in children(conn).items():
        mine = sql.SQL(" or ").join(sql.SQL("t.{} = {}").format(sql.Identifier(column), run_id) for column in names)
        rows = conn.execute(
            sql.SQL("select to_jsonb(t) from {} as t where {}").format(sql.Identifier("etl", name), mine)
        )
        tables[name] = [row[0] for row in rows.fetchall()]
    lineage = conn.execute(
        "select event from etl.lineage_event where run_id = %s order by event_time, event_key", (run_id,)
    )
    return {"run": run, "release": release, "tables": tables, "lineage": [row[0] for row in lineage.fetchall()]}


def _key(event: dict[str, Any]) -> str:
    return f"{PREFIX}{event['run_id']}/{event['at'].astimezone(UTC).strftime(MOMENT)}-{event['event']}.json"


def _event(key: str) -> dict[str, Any]:
    _, run_id, name = key.split("/")
    moment, _, event = name.removesuffix(".json").partition("-")
    return {"run_id": run_id, "event": event, "at": datetime.strptime(moment, MOMENT).replace(tzinfo=UTC)}


def _keys(s3: Any, bucket: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def _put(s3: Any, bucket: str, event: dict[str, Any]) -> str:
    key = _key(event)
    body = json.dumps(event | {"at": event["at"].astimezone(UTC).isoformat()}, default=str)
    s3.put_object(Bucket=bucket, Key=key, Body=body.encode(), ContentType="application/json")
    return key
