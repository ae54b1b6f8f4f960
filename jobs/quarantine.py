"""Quarantined rows taken up again after a fix: what is open, what a replay reads, and what it merges with.

    python -m jobs.quarantine --pipeline flights [--run-id R] [--rule rule]        prints what would be released, as JSON

A replay is a run of its own (dags/replay_quarantine.py) whose input is the rows that runs have put into quarantine: cleaned by the
rules of today, joined with what those runs had extracted, merged with what is published, audited and swapped in like any other.
Rows that break a rule again are quarantined again, by the replay. Entries are never deleted: they count as released while the
replay that took them up is published (etl.v_quarantine), and are open again once it is undone.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as parquet
from psycopg import sql
from psycopg.rows import dict_row

from jobs.declaration import Declaration
from jobs.load.data_partitioning import inside, spans
from jobs.load.ledger import Run
from jobs.load.staging import copy, objects, parquet_files
from jobs.load.statements import LINEAGE, columns, same_key, staged_name, table

OPEN = """
select run_id, dataset, rule, row_count, attempt, interval_from, interval_to from etl.v_quarantine as q
where pipeline = %(pipeline)s and released_by is null and row_count > 0
    and exists (select from etl.publication as p where p.run_id = q.run_id and p.undone_at is null)
    and (%(run_id)s::text is null or run_id = %(run_id)s) and (%(rule)s::text is null or rule = %(rule)s)
order by run_id, dataset, rule
"""
REMOVED = "select what from etl.retention where kind = 'quarantine objects' and pipeline = %s"
BATCH_ROWS = 65_536
ARROW = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}


class ReplayError(RuntimeError):
    """A replay that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """The quarantined rows of one run, source and rule; `prefix` is the key under which they lie."""

    run_id: str
    dataset: str
    rule: str
    rows: int
    prefix: str
    interval_from: str
    interval_to: str


def open_entries(
    conn: psycopg.Connection, pipeline: str, run_id: str | None = None, rule: str | None = None
) -> list[Entry]:
    """What is in quarantine and not released, of all runs and rules or of the ones given.

    Of runs whose rows are published: what one that failed or was undone has put there, another will have read again. What retention
    has removed is no longer there.
    """
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(OPEN, {"pipeline": pipeline, "run_id": run_id, "rule": rule}).fetchall()
        removed = {row["what"].split("/", 3)[3] for row in cursor.execute(REMOVED, (pipeline,)).fetchall()}
    entries = [
        Entry(
            row["run_id"],
            row["dataset"],
            row["rule"],
            row["row_count"],
            f"{pipeline}/{row['dataset']}/dt={row['interval_from']:%Y-%m-%d}/run_id={row['run_id']}/attempt={row['attempt']}",
            str(row["interval_from"]),
            str(row["interval_to"]),
        )
        for row in rows
    ]
    return [entry for entry in entries if f"{entry.prefix}/" not in removed]


def take_up(
    conn: psycopg.Connection, s3: Any, bucket: str, declaration: Declaration, run: Run, entries: list[Entry]
) -> str:
    """Note that the run takes the entries up, count them where they lie, and write what Spark reads; returns that document's URL.

    The document: {"pipeline", "run_id", "sources": {name: {"entries": [{prefix, rules, like}], "rows"} or {"sealed": [URLs]}}}, where
    `sealed` are the manifests of the runs that the rows come from, and `like` that one which tells the types of binary formats.
    """
    if not entries:
        raise ReplayError(
            f"nothing of {declaration.pipeline} is in quarantine that would fit: there is nothing to replay"
        )
    origins = sorted({entry.run_id for entry in entries})
    sealed = _sealed(conn, origins)
    sources: dict[str, Any] = {}
    taken = {declaration.sources[entry.dataset].dataset for entry in entries}
    known = {declaration.sources[name].dataset for _, name in sealed if name in declaration.sources}
    for name, source in declaration.sources.items():
        mine = [entry for entry in entries if entry.dataset == name]
        if not mine:
            if source.dataset in taken:
                continue  # what another source of the same dataset has is published
            urls = sorted({url for origin in origins for url in sealed.get((origin, name), ())})
            if not urls and source.dataset != name and source.dataset in known:
                continue
            if not urls:
                raise ReplayError(
                    f"the ledger has no manifest of {name} for {', '.join(origins)}: its rows cannot be joined"
                )
            sources[name] = {"sealed": urls}
            continue
        parts: dict[str, list[Entry]] = {}
        for entry in mine:
            parts.setdefault(entry.prefix, []).append(entry)
        counted = 0
        for prefix, there in parts.items():
            found = count(s3, bucket, prefix, {entry.rule for entry in there})
            if found != (stated := sum(entry.rows for entry in there)):
                raise ReplayError(f"s3://{bucket}/{prefix} holds {found} rows of these rules, the ledger says {stated}")
            counted += found
        sources[name] = {
            "rows": counted,
            "entries": [
                {
                    "prefix": f"s3a://{bucket}/{prefix}",
                    "rules": sorted(entry.rule for entry in there),
                    "like": next(iter(sealed.get((there[0].run_id, name), ())), None),
                }
                for prefix, there in parts.items()
            ],
        }
    _note(conn, run, entries, sources, bucket)
    key = f"_replay/{run.run_id}/replay.json"
    document = {"pipeline": declaration.pipeline, "run_id": run.run_id, "sources": sources}
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(document).encode())
    return f"s3a://{bucket}/{key}"


def count(s3: Any, bucket: str, prefix: str, rules: set[str]) -> int:
    """Rows under a quarantine prefix that break one of the rules."""
    keys = [key for key in objects(s3, bucket, f"{prefix}/") if key.endswith(".json")]
    lines = (line for key in keys for line in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_lines())
    return sum(json.loads(line)["rule"] in rules for line in lines)


def _sealed(conn: psycopg.Connection, runs: list[str]) -> dict[tuple[str, str], list[str]]:
    """URLs of the manifests that runs have read, by run and source; of a replay, those of the runs that it took rows of."""
    with conn.transaction():
        rows = conn.execute(
            "with recursive origin as ("
            " select unnest(%(runs)s::text[]) as asked, unnest(%(runs)s::text[]) as run_id"
            " union select o.asked, q.run_id from origin as o inner join etl.quarantine_replay as q on q.replay_run_id = o.run_id)"
            " select o.asked, s.dataset, s.manifest ->> 'bucket', s.manifest ->> 'key'"
            " from origin as o inner join etl.run_source as s on o.run_id = s.run_id where s.manifest ? 'key' order by s.extracted_at desc",
            {"runs": runs},
        ).fetchall()
    found: dict[tuple[str, str], list[str]] = {}
    for run_id, dataset, bucket, key in rows:
        found.setdefault((run_id, dataset), []).append(f"s3a://{bucket}/{key}")
    return found


def _note(conn: psycopg.Connection, run: Run, entries: list[Entry], sources: dict[str, Any], bucket: str) -> None:
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute("delete from etl.quarantine_replay where replay_run_id = %s", (run.run_id,))
        cursor.executemany(
            "insert into etl.quarantine_replay (run_id, dataset, rule, replay_run_id, row_count) values (%s, %s, %s, %s, %s)",
            [(entry.run_id, entry.dataset, entry.rule, run.run_id, entry.rows) for entry in entries],
        )
        cursor.execute("delete from etl.run_source where run_id = %s", (run.run_id,))
        for name, source in sources.items():
            if "entries" in source:
                cursor.execute(
                    "insert into etl.run_source (run_id, dataset, attempt, source, format, extracted_at, files, row_count,"
                    " source_rows, counted_by, manifest) values (%s, %s, %s, %s, 'json', now(), %s, %s, %s, %s, %s)",
                    (
                        run.run_id,
                        name,
                        run.attempt,
                        f"s3://{bucket}",
                        len(source["entries"]),
                        source["rows"],
                        source["rows"],
                        f"records in s3://{bucket} of {', '.join(sorted({entry.run_id for entry in entries if entry.dataset == name}))}",
                        json.dumps(source),
                    ),
                )


# What is published already, and what the released rows are merged with


def ranges(s3: Any, place: str, column: str) -> list[tuple[Any, Any]]:
    """(first, last) day of the facts at a curated URL, by month."""
    bucket, _, prefix = place.partition("://")[2].partition("/")
    months: dict[tuple[int, int], list[Any]] = {}
    for _, source in parquet_files(s3, bucket, objects(s3, bucket, f"{prefix.rstrip('/')}/")):
        for day in source.read([column])[column].unique().to_pylist():
            months.setdefault((day.year, day.month), []).append(day)
    return [(min(days), max(days)) for _, days in sorted(months.items())]


def snapshot(
    conn: psycopg.Connection, s3: Any, bucket: str, declaration: Declaration, run: Run, written: dict[str, Any]
) -> str:
    """Keep the published rows of the days that released facts are in: in staging for the merge, as Parquet for the aggregates.

    written: the datasets of the enrich stage, by name. Returns the URL under which each fact table's rows are.
    """
    root = f"_replay/{run.run_id}/base/attempt={run.attempt}"
    for fact in (one for one in declaration.publish.values() if one.partition_column):
        days = ranges(s3, written[fact.name]["prefix"], fact.partition_column)
        base = _keep(conn, fact, run, days)
        for number, content in enumerate(_parquet(conn, base, written[fact.name]["columns"])):
            s3.put_object(Bucket=bucket, Key=f"{root}/{fact.name}/part-{number:05d}.parquet", Body=content)
    return f"s3a://{bucket}/{root}"


def _keep(conn: psycopg.Connection, fact: Any, run: Run, days: list[tuple[Any, Any]]) -> sql.Identifier:
    base = table("staging", base_name(fact.name, run))
    wanted = sql.SQL(" or ").join(
        sql.SQL("{} between {} and {}").format(sql.Identifier(fact.partition_column), first, last)
        for first, last in days
    )
    with conn.transaction():
        conn.execute(sql.SQL("drop table if exists {}").format(base))
        conn.execute(
            sql.SQL("create table {} as select * from {} where {}").format(
                base, table("dwh", fact.name), wanted if days else sql.SQL("false")
            )
        )
    return base


def base_name(fact: str, run: Run) -> str:
    """The staging table with what was published of a fact table when the replay looked."""
    return staged_name(f"base_{fact}", run.run_id)


def _parquet(conn: psycopg.Connection, relation: sql.Composable, kinds: dict[str, str]) -> Iterator[bytes]:
    """The rows of a relation as Parquet files with Spark's types; at least one file, so that there is something to read."""
    schema = pa.schema([(name, _arrow(kind)) for name, kind in kinds.items()])
    empty = True
    with conn.transaction(), conn.cursor("base") as cursor:
        cursor.execute(sql.SQL("select {} from {}").format(columns(kinds), relation))
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield _file(rows, schema)
            empty = False
    if empty:
        yield _file([], schema)


def _file(rows: Iterable[tuple], schema: pa.Schema) -> bytes:
    out = io.BytesIO()
    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    parquet.write_table(pa.table([pa.array(v, f.type) for v, f in zip(values, schema, strict=True)], schema), out)
    return out.getvalue()


def _arrow(kind: str) -> pa.DataType:
    if kind.startswith("decimal"):
        return pa.decimal128(*map(int, kind[len("decimal(") : -1].split(",")))
    return ARROW[kind]


def merge(conn: psycopg.Connection, declaration: Declaration, run: Run) -> None:
    """Merge the staged facts with what was published of their days: published rows stay, with their run and release.

    A released row whose key is published is superseded: what is published is of the run that rejected the row, or of a later one.
    """
    for fact in (one for one in declaration.publish.values() if one.partition_column):
        parts = {
            "staged": table("staging", staged_name(fact.name, run.run_id)),
            "base": table("staging", base_name(fact.name, run)),
            "same": same_key(fact.key, "s", "b"),
            "names": columns((*fact.all_columns, *LINEAGE)),
        }
        with conn.transaction(), conn.cursor() as cursor:
            cursor.execute(sql.SQL("delete from {staged} as s using {base} as b where {same}").format(**parts))
            superseded = cursor.rowcount
            cursor.execute(sql.SQL("insert into {staged} ({names}) select {names} from {base}").format(**parts))
            cursor.execute(sql.SQL("analyze {staged}").format(**parts))
            cursor.execute(
                "delete from etl.run_reject where run_id = %s and stage = 'merge' and dataset = any(%s)",
                (run.run_id, [fact.name, *(f"clean_{name}" for name in declaration.sources)]),
            )
            taken = [
                row[0]
                for row in cursor.execute(
                    "select distinct dataset from etl.quarantine_replay where replay_run_id = %s order by 1",
                    (run.run_id,),
                )
                if declaration.sources[row[0]].dataset == fact.source
            ]
            for dataset in (fact.name, *(f"clean_{name}" for name in taken[:1])) if superseded else ():
                cursor.execute(
                    "insert into etl.run_reject (run_id, stage, dataset, rule, row_count) values (%s, 'merge', %s, 'superseded', %s)",
                    (run.run_id, dataset, superseded),
                )


def merge_again(conn: psycopg.Connection, s3: Any, declaration: Declaration, run: Run) -> None:
    """Merge the staged facts of a replay that the warehouse has forgotten with what they were merged with before.

    Raises ReplayError when what is published of their days is something else now, or nobody can tell: the replay's aggregates
    were computed with those rows.
    """
    with conn.transaction():
        place = conn.execute("select min(source) from etl.run_source where run_id = %s", (run.run_id,)).fetchone()[0]
    bucket, root = (place or "").removeprefix("s3://"), f"_replay/{run.run_id}/base/attempt="
    sizes = objects(s3, bucket, root)
    last = max((int(key.removeprefix(root).split("/")[0]) for key in sizes), default=None)
    for fact in (one for one in declaration.publish.values() if one.partition_column):
        day = sql.Identifier(fact.partition_column)
        query = sql.SQL("select min({0}), max({0}) from {1} group by date_trunc('month', {0}) order by 1")
        with conn.transaction():
            days = conn.execute(query.format(day, table("staging", staged_name(fact.name, run.run_id)))).fetchall()
        base = _keep(conn, fact, run, days)
        files = [key for key in sizes if key.startswith(f"{root}{last}/{fact.name}/")]
        if not files or _differs(conn, s3, bucket, {key: sizes[key] for key in files}, base):
            raise ReplayError(
                f"what it was merged with in dwh.{fact.name} is {'not published as it was' if files else 'no longer kept'}"
            )
    merge(conn, declaration, run)


def _differs(conn: psycopg.Connection, s3: Any, bucket: str, sizes: dict[str, int], relation: sql.Composable) -> bool:
    """Whether a relation has other rows than Parquet files, in the columns of the files."""
    kept = sql.Identifier("kept")
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute("set local timezone = 'UTC'")
        names = sql.SQL("")
        for number, (_, source) in enumerate(parquet_files(s3, bucket, sizes)):
            if number == 0:
                names = columns(source.schema_arrow.names)
                create = sql.SQL("create temporary table {} on commit drop as select {} from {} with no data")
                cursor.execute(create.format(kept, names, relation))
            copy(cursor, kept, source)
        query = sql.SQL(
            "select exists (select {names} from {kept} except all select {names} from {relation})"
            " or exists (select {names} from {relation} except all select {names} from {kept})"
        )
        return cursor.execute(query.format(names=names, kept=kept, relation=relation)).fetchone()[0]


def require_unchanged(conn: psycopg.Connection, declaration: Declaration, run: Run) -> None:
    """Raise ReplayError when another run has published rows of the days in question since this one looked.

    Called with the right to publish: what holds here holds until the swap.
    """
    for fact in (one for one in declaration.publish.values() if one.partition_column):
        base, target = table("staging", base_name(fact.name, run)), table("dwh", fact.name)
        keys = columns((*fact.key, "run_id"))
        with conn.transaction():
            # all days that are replaced, those among them of which nothing was published too
            replaced = inside(fact.partition_column, spans(conn, fact, run))
            query = sql.SQL(
                "select exists ((select {keys} from {base}) except (select {keys} from {target} where {replaced}))"
                " or exists ((select {keys} from {target} where {replaced}) except (select {keys} from {base}))"
            ).format(keys=keys, base=base, target=target, replaced=replaced)
            if conn.execute(query).fetchone()[0]:
                raise ReplayError(
                    f"another run has published days of dwh.{fact.name} since this replay looked at them: start the replay again"
                )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.quarantine", description="What a replay would release.")
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--run-id", help="only what this run has rejected")
    parser.add_argument("--rule", help="only what broke this rule")
    given = parser.parse_args(argv)
    with psycopg.connect("", autocommit=True) as conn:
        entries = open_entries(conn, given.pipeline, given.run_id, given.rule)
    print(
        json.dumps(
            {
                "pipeline": given.pipeline,
                "from": min((entry.interval_from for entry in entries), default=None),
                "to": max((entry.interval_to for entry in entries), default=None),
                "rows": sum(entry.rows for entry in entries),
                "entries": [entry.__dict__ for entry in entries],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
