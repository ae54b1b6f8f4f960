"""A published table's lineage as a tree to read: back to the objects and sources of every run in it, forward to what stands on it.

    python -m jobs.lineage.tree TABLE [PARTITION]       such as dwh.fact_flight 201302

Connects as etl_read with libpq's own means (PGHOST, PGUSER, PGPASSWORD, PGSSLMODE, ...).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

DEEPEST = 12
RUN = """
select r.run_id, r.pipeline, r.release, l.commit, r.state, r.attempt, r.interval_from, r.interval_to,
    (select max(published_at) from etl.publication as p where p.run_id = r.run_id and p.undone_at is null) as published_at,
    (select count(*) from etl.audit_result as a where a.run_id = r.run_id and a.passed) as passed,
    (select count(*) from etl.audit_result as a where a.run_id = r.run_id) as audits,
    (select count(*) from etl.lineage_event as e where e.run_id = r.run_id) as events
from etl.run as r inner join etl.release as l on r.release = l.release
where r.run_id = %s
"""
PARTITIONS = """
select partition_name, version, row_count, run_id from etl.v_published
where table_name = %(table)s and (%(partition)s::text is null or partition_name in (%(partition)s, %(table)s || '_' || %(partition)s))
order by partition_name
"""
MAKERS = """
select e.event from etl.lineage_event as e inner join etl.lineage_dataset as d on e.event_key = d.event_key and d.direction = 'output'
where d.name = %(name)s and d.namespace like %(namespace)s and (%(run_id)s::text is null or e.run_id = %(run_id)s)
order by e.event_time desc limit 1
"""
READERS = """
select distinct on (e.job_name, e.run_id) e.event
from etl.lineage_event as e inner join etl.lineage_dataset as d on e.event_key = d.event_key and d.direction = 'input'
where d.name = %(name)s and d.namespace = %(namespace)s order by e.job_name, e.run_id, e.event_time desc
"""
BALANCE = "select * from etl.v_balance where run_id = %s and dataset = %s"


@dataclass
class Node:
    """One line of the tree, and what is below it."""

    text: str
    below: list[Node] = field(default_factory=list)

    def lines(self, start: str = "", stem: str = "") -> Iterator[str]:
        yield start + self.text
        for number, node in enumerate(self.below, 1):
            last = number == len(self.below)
            yield from node.lines(stem + ("└─ " if last else "├─ "), stem + ("   " if last else "│  "))


class Lineage:
    """Looks things up in the ledger."""

    def __init__(self, conn: psycopg.Connection):
        self.conn = conn

    def rows(self, query: str | sql.Composed, parameters: Any = None) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, parameters).fetchall()

    def tree(self, table: str, partition: str | None = None) -> Node:
        """The tree of a published table, `dwh.` before its name or not; LookupError when there is no such table or partition."""
        name = table.removeprefix("dwh.")
        known = [row["name"] for row in self.rows("select tablename as name from pg_tables where schemaname = 'dwh'")]
        known += [row["name"] for row in self.rows("select distinct table_name as name from etl.partition_version")]
        if name not in known:
            raise LookupError(f"there is no table dwh.{name}; there are {', '.join(sorted(set(known)))}")
        partitions = self.rows(PARTITIONS, {"table": name, "partition": partition})
        if partition and not partitions:
            raise LookupError(f"dwh.{name} has no published partition {partition}: name one as {name}_201302 or 201302")
        return Node(f"dwh.{name}", [self.run(name, run_id, text) for run_id, text in self.contents(name, partitions)])

    def contents(self, name: str, partitions: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        """(run, what of the table is of it): by rows, as a partition may keep rows of earlier runs."""
        query = sql.SQL(
            "select tableoid::regclass::text as relation, run_id, count(*) as rows from {}"
            " where %(all)s or tableoid = any(%(relations)s::regclass[]::oid[]) group by 1, 2 order by 1, 2"
        ).format(sql.Identifier("dwh", name))
        labels = {
            f"dwh.{row['partition_name']}": f"{row['partition_name']} version {row['version']}" for row in partitions
        }
        found: dict[str, list[str]] = {}
        for row in self.rows(query, {"all": not labels, "relations": list(labels)}):
            label = labels.get(row["relation"], name)
            found.setdefault(row["run_id"], []).append(f"{label}: {row['rows']:,} rows")
        yield from ((run_id, "; ".join(parts)) for run_id, parts in found.items())

    def run(self, name: str, run_id: str, contents: str) -> Node:
        rows = self.rows(RUN, (run_id,))
        if not rows:
            return Node(f"{contents} of run {run_id}, which the ledger no longer has")
        run = rows[0]
        commit = f" (commit {run['commit'][:12]})" if run["commit"] else ""
        node = Node(
            f"run {run_id} of {run['pipeline']}, [{run['interval_from']}, {run['interval_to']}), release {run['release']}{commit}",
            [
                Node(contents),
                Node(
                    f"published {run['published_at']:%Y-%m-%d %H:%M:%S %Z}, {run['passed']} of {run['audits']} audits passed,"
                    f" {run['events']} lineage events"
                    if run["published_at"]
                    else f"state {run['state']}"
                ),
            ],
        )
        parameters = {"name": f"%.dwh.{name}", "run_id": run_id}
        found = self.rows(
            MAKERS.replace("d.name = %(name)s", "d.name like %(name)s"), parameters | {"namespace": "postgres%"}
        )
        if not found:
            node.below.append(
                Node("no lineage events: it was published before they were kept, or retention removed them")
            )
            return node
        event = found[0]["event"]
        node.below.append(Node("made of", [self.back(given, run_id) for given in event["inputs"]]))
        ahead = [
            reader
            for given in (*event["outputs"], *event["inputs"])
            for reader in self.ahead(given, {_key(given) for given in event["outputs"]}, run_id)
        ]
        node.below.append(Node("what stands on it" if ahead else "nothing stands on it", ahead))
        return node

    def back(self, dataset: dict[str, Any], run_id: str, depth: int = 0) -> Node:
        """What a dataset of a run is made of."""
        parameters = {"name": dataset["name"], "namespace": dataset["namespace"], "run_id": run_id}
        found = self.rows(MAKERS, parameters) or self.rows(MAKERS, parameters | {"run_id": None})
        if not found or depth > DEEPEST:
            return self.source(dataset, run_id)
        event = found[0]["event"]
        output = next(given for given in event["outputs"] if _key(given) == _key(dataset))
        statistics = output.get("outputFacets", {}).get("outputStatistics", {})
        rows = statistics.get("rowCount")
        text = f"{dataset['namespace']}/{dataset['name']}  {f'{rows:,} rows, ' if rows is not None else ''}by {event['job']['name']}"
        of = event["run"]["facets"].get("etl_run", {}).get("run_id")
        node = Node(text + (f" of run {of}" if of not in (None, run_id) else ""))
        facets = output.get("facets", {})
        if "etl_objects" in facets:
            held = facets["etl_objects"]
            manifest = (
                f"_manifest.json version {facets['version']['datasetVersion']}, flow version {held['flow_version']}"
            )
            node.below.append(Node(manifest, [Node(_object(one)) for one in held["objects"]]))
        node.below += [self.back(given, of or run_id, depth + 1) for given in event.get("inputs", ())]
        return node

    def source(self, dataset: dict[str, Any], run_id: str) -> Node:
        """Something that no event made: a source, with how its rows were accounted for."""
        node = Node(f"{dataset['namespace']} {dataset['name']}")
        for row in self.rows(BALANCE, (run_id, dataset["name"])):
            node.below.append(
                Node(
                    f"{row['extracted']:,} rows = {row['published']:,} published + {row['quarantined']:,} quarantined"
                    f" + {row['superseded']:,} superseded ({row['counted_by'] or 'not counted at the source'})"
                    if row["balanced"]
                    else f"not in balance: {row['difference']} rows unaccounted for"
                )
            )
        return node

    def ahead(self, dataset: dict[str, Any], seen: set[tuple[str, str]], run_id: str) -> list[Node]:
        """What was made of a dataset, by whatever run."""
        nodes = []
        for row in self.rows(READERS, {"name": dataset["name"], "namespace": dataset["namespace"]}):
            event = row["event"]
            of = event["run"]["facets"].get("etl_run", {}).get("run_id")
            for output in event.get("outputs", ()):
                if _key(output) in seen or len(seen) > 200:
                    continue
                seen.add(_key(output))
                other = f" of run {of}" if of not in (None, run_id) else ""
                where = (
                    output["name"].partition(".")[2]  # without the database
                    if output["namespace"].startswith("postgres")
                    else f"{output['namespace']}/{output['name']}"
                )
                nodes.append(Node(f"{where}  by {event['job']['name']}{other}", self.ahead(output, seen, of or run_id)))
        return nodes


def _key(dataset: dict[str, Any]) -> tuple[str, str]:
    return dataset["namespace"], dataset["name"]


def _object(one: dict[str, Any]) -> str:
    rows = f"{one['rows']:,} rows, " if one.get("rows") is not None else ""
    version = one.get("version_id", "none")
    return (
        f"{one['key'].rpartition('/')[2]} version {version}, {rows}{one['bytes']:,} bytes, sha256 {one['sha256'][:12]}…"
    )


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    with psycopg.connect("", autocommit=True) as conn:
        try:
            print("\n".join(Lineage(conn).tree(*argv).lines()))
        except LookupError as error:
            print(error.args[0], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
