"""What a drill looks at before and after, and the damage that it does to objects.

    python -m jobs.rollback.drill look FILE                   (notes what there is; more of it as JSON on stdin)
    python -m jobs.rollback.drill compare FILE                (what differs from it now)
    python -m jobs.rollback.drill overwrite BUCKET PREFIX
    python -m jobs.rollback.drill delete BUCKET

Looked at: every table that is published, by a checksum over all rows (run_id and release left out: a run published again has others);
every object of the data buckets, by the SHA-256 of its content; the release in service, its DAG bundle, units and the schema's level.
What came since is no difference among objects, since every run writes under prefixes of its own. Connects with the environment
(PG*, AWS_*, ROLLBACK_*, RELEASES_DIR, BUNDLE_REPOSITORY, DATA_BUCKETS). Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TABLES = """
select c.relname, array_agg(a.attname::text order by a.attnum) filter (where a.attname <> all(%s))
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid and n.nspname = 'dwh'
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p') and not c.relispartition
group by c.relname order by c.relname
"""
# A sum of hashes needs no order and no memory.
CHECKSUM = "select count(*), coalesce(sum(hashtextextended(row({columns})::text, 0)), 0)::text from dwh.{table}"
SIZE = (
    "select coalesce(sum(pg_table_size(c.oid)), 0)::bigint from pg_class as c"
    " where c.relnamespace = 'dwh'::regnamespace and c.relkind = 'r'"
)
WORKERS = 8


def tables(conn: Any) -> dict[str, list[Any]]:
    """{table: [rows, checksum]} of what is published."""
    from psycopg import sql

    from jobs.load.statements import LINEAGE

    found = {}
    for table, columns in conn.execute(TABLES, (list(LINEAGE),)).fetchall():
        query = sql.SQL(CHECKSUM).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)), table=sql.Identifier(table)
        )
        found[table] = list(conn.execute(query).fetchone())
    return found


def listed(client: Any, bucket: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    """The entries of a bucket's objects."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", ())


def objects(client: Any, bucket: str) -> dict[str, list[Any]]:
    """{key: [bytes, SHA-256 of the content]} of a bucket."""
    # The empty marker of a directory has no content to lose, and MinIO keeps no version of one.
    keys = [entry["Key"] for entry in listed(client, bucket) if entry["Size"] or not entry["Key"].endswith("/")]

    def digest(key: str) -> list[Any]:
        content, size = hashlib.sha256(), 0
        for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
            content.update(chunk)
            size += len(chunk)
        return [size, content.hexdigest()]

    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(keys, pool.map(digest, keys), strict=True))


def release(conn: Any) -> dict[str, Any]:
    """What of a release is on its host and in the schema."""
    shown = subprocess.run(
        ["git", "--git-dir", os.environ["BUNDLE_REPOSITORY"], "show", "main:RELEASE"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "release": (Path(os.environ["RELEASES_DIR"]) / "current").readlink().name,
        "DAG bundle": json.loads(shown.stdout)["id"],
        "units": sorted(path.name for path in Path("/etc/systemd/system").glob("etl-*.*")),
        "schema level": conn.execute("select max(level) from etl.migration").fetchone()[0],
    }


def look(more: dict[str, Any]) -> dict[str, Any]:
    """All of it; {} for a warehouse that is not there."""
    import psycopg

    from jobs.rollback.buckets import object_store

    found = {"objects": {name: objects(object_store(), name) for name in os.environ["DATA_BUCKETS"].split()}}
    found |= {"more": more, "tables": {}, "release": {}, "bytes": 0}
    try:
        with psycopg.connect("", application_name="drill", connect_timeout=5) as conn:
            found["tables"], found["release"] = tables(conn), release(conn)
            found["bytes"] = conn.execute(SIZE).fetchone()[0]
    except psycopg.OperationalError as error:
        found["warehouse"] = str(error).strip().splitlines()[0]
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What of `before` is not in `after`: {"differs": [text], "tables", "rows", "objects"} (how much is gone or changed)."""
    told = [f"the warehouse does not answer: {after['warehouse']}"] if "warehouse" in after else []
    wrong = [name for name, content in before["tables"].items() if after["tables"].get(name) != content]
    told += [f"dwh.{name}: {before['tables'][name]} is {after['tables'].get(name, 'gone')}" for name in wrong]
    told += [f"dwh.{name} is new" for name in sorted(set(after["tables"]) - set(before["tables"]))]
    lost = 0
    for bucket, keys in before["objects"].items():
        there = after["objects"][bucket]
        gone = sorted(key for key, content in keys.items() if there.get(key) != content)
        lost += len(gone)
        told += [f"{bucket}: {len(gone)} of {len(keys)} objects are gone or changed, {gone[0]} first"] if gone else []
    for kind in ("release", "more"):
        told += [
            f"{name}: {content} is {after[kind].get(name)}"
            for name, content in before[kind].items()
            if after[kind].get(name) != content and "warehouse" not in after
        ]
    return {
        "differs": told,
        "tables": len(wrong),
        "rows": sum(before["tables"][name][0] for name in wrong),
        "objects": lost,
    }


def amount(seen: dict[str, Any]) -> dict[str, int]:
    """How much was looked at."""
    every = [content for keys in seen["objects"].values() for content in keys.values()]
    return {
        "rows": sum(rows for rows, _ in seen["tables"].values()),
        "warehouse_bytes": seen["bytes"],
        "objects": len(every),
        "object_bytes": sum(size for size, _ in every),
    }


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="drill", description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("look", "compare"):
        verbs.add_parser(verb).add_argument("file", type=Path)
    spoiling, deleting = verbs.add_parser("overwrite"), verbs.add_parser("delete")
    for each in (spoiling, deleting):
        each.add_argument("bucket")
    spoiling.add_argument("prefix")
    given = parser.parse_args(argv)
    if given.verb in ("look", "compare"):
        seen = look(json.load(sys.stdin))
        if given.verb == "look":
            given.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            given.file.write_text(json.dumps(seen))
            answer = amount(seen) | {"warehouse": seen.get("warehouse"), "release": seen["release"].get("release")}
        else:
            answer = differences(json.loads(given.file.read_text()), seen)
    else:
        from jobs.rollback.buckets import object_store

        client = object_store()
        keys = [entry["Key"] for entry in listed(client, given.bucket, getattr(given, "prefix", ""))]
        for key in keys:
            if given.verb == "overwrite":
                client.put_object(Bucket=given.bucket, Key=key, Body=b"a drill wrote over it")
            else:
                client.delete_object(Bucket=given.bucket, Key=key)
        answer = {"objects": len(keys)}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
