"""Takes published runs back: a plan first, then the swap to what readers saw before.

    python -m jobs.rollback.undo plan    --run RUN_ID [--run RUN_ID ...]                  [--cascade]
    python -m jobs.rollback.undo execute --pipeline P --from 2013-01-01 --to 2013-02-01   [--cascade] [--reason TEXT] [--by NAME]
    python -m jobs.rollback.undo execute --newer-than RELEASE                             [--cascade] [--reason TEXT] [--by NAME]

An interval names the runs that readers see in it. Runs that published later on top of the chosen ones make it refuse; with
--cascade they are taken back too. What was taken back is entered in the journal of publications, so that no restore of the warehouse
publishes it again. Connects as etl_load with libpq's own means (PGHOST, PGPASSFILE, PGSSLMODE, ...) and to the object store with
boto3's. The plan, or what was done, is JSON on standard output. Exit status: 0 done or nothing to do, 1 refused (the reasons are in
the plan) or not entered in the journal, 2 wrong usage. Executed again it does what is left to do; only an interval names, once its
runs are taken back, those that readers saw before.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from jobs import declaration
from jobs.load import journal, publish
from jobs.load.publish import PublishRefused
from jobs.load.statements import require_idle, texts

QUERIES = Path(__file__).resolve().with_name("rollback_queries.sql")


@dataclass(frozen=True)
class Selection:
    """What to take back: runs by id, an interval [interval_from, interval_to) of a pipeline in the sources' local time, or every
    run of the releases that are newer than one. Exactly one of the three is given."""

    run_ids: tuple[str, ...] = ()
    pipeline: str | None = None
    interval_from: datetime | None = None
    interval_to: datetime | None = None
    newer_than: str | None = None

    def __post_init__(self) -> None:
        interval = [self.pipeline, self.interval_from, self.interval_to]
        if any(interval) and not all(interval):
            raise ValueError("an interval needs the pipeline, its start (from) and its end (to)")
        if sum((bool(self.run_ids), all(interval), bool(self.newer_than))) != 1:
            raise ValueError("give runs, or an interval of a pipeline, or the release to go back to: one of the three")
        if all(interval) and self.interval_from >= self.interval_to:
            raise ValueError(f"the interval ends at {self.interval_to}, not after its start {self.interval_from}")


@dataclass
class Plan:
    """What an undo would do. Executable when `refusals` is empty and there are runs.

    runs        newest publication first, the order in which they are taken back; `chosen` is false for those that cascade adds
    partitions  what readers see now and afterwards (version and run None: nothing)
    dependants  what else stands on these rows: table, state restored | kept | stale, why
    """

    selection: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    already_undone: list[str] = field(default_factory=list)
    partitions: list[dict[str, Any]] = field(default_factory=list)
    dependants: list[dict[str, Any]] = field(default_factory=list)
    rows_now: int = 0
    rows_after: int = 0
    warnings: list[str] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)

    @property
    def executable(self) -> bool:
        """Whether executing it changes something."""
        return bool(self.runs) and not self.refusals

    def as_dict(self) -> dict[str, Any]:
        """Only what JSON knows."""
        return json.loads(json.dumps(asdict(self) | {"executable": self.executable}, default=str))


def plan(conn: psycopg.Connection, selection: Selection, *, cascade: bool = False) -> Plan:
    """What taking the selection back would do; changes nothing. LookupError when the ledger does not know a run or release."""
    require_idle(conn)
    with conn.transaction():
        made = Plan({key: value for key, value in asdict(selection).items() if value})
        chosen = _chosen(conn, selection)
        taken = set(chosen)
        pairs = _standing_on(conn, taken)
        while cascade and pairs:
            taken |= {later for _, later in pairs}
            pairs = _standing_on(conn, taken)
        for run_id, later in pairs:
            made.refusals.append(
                {
                    "run_id": run_id,
                    "reason": f"run {later} published later on top of it: undo that too (cascade)",
                    "later_run": later,
                }
            )
        for run in _rows(conn, "runs", run_ids=sorted(taken)):
            ever, kept = run.pop("published_ever"), run.pop("rows_kept")
            if not ever:
                made.refusals.append({"run_id": run["run_id"], "reason": "it has published nothing"})
            elif not run["publications"]:
                made.already_undone.append(run["run_id"])
                continue
            elif not kept:
                made.refusals.append(
                    {"run_id": run["run_id"], "reason": "the rows that it replaced are no longer kept"}
                )
            made.runs.append(run | {"chosen": run["run_id"] in chosen})
        if selection.pipeline and not cascade:
            made.refusals += _outside(made.runs, selection)
        publications = [publication for run in made.runs for publication in run.pop("publications")]
        made.partitions = _rows(conn, "partitions", publications=publications)
        for partition in made.partitions:
            if partition.pop("dropped"):
                reason = (
                    f"version {partition['version_after']} of {partition['partition']}, before it, is no longer kept"
                )
                made.refusals.append({"run_id": partition["run_now"], "reason": reason})
        made.rows_now = sum(partition["rows_now"] for partition in made.partitions)
        made.rows_after = sum(partition["rows_after"] for partition in made.partitions)
        made.dependants = list(_dependants(conn, made, publications))
        if made.runs:
            made.warnings = [f"run {run_id} of the same days is still running" for run_id in _running(conn, made.runs)]
    return made


def execute(
    conn: psycopg.Connection,
    selection: Selection,
    *,
    cascade: bool = False,
    by: str,
    reason: str | None = None,
    expected: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Take the selection back in one transaction and note it in etl.undo; returns the plan with `undone`, the versions that the
    partitions have now. When everything is undone already, `undone` is empty and nothing changes.

    `expected` are the ids of the runs that somebody agreed to: PublishRefused when the plan has come to name others. Raises
    PublishRefused with all reasons when the plan has refusals.
    """
    made = plan(conn, selection, cascade=cascade)
    if made.refusals:
        raise PublishRefused("; ".join(f"run {each['run_id']}: {each['reason']}" for each in made.refusals))
    document = made.as_dict()
    run_ids = [run["run_id"] for run in made.runs]
    if expected is not None and run_ids and set(run_ids) != set(expected):
        raise PublishRefused(
            f"the plan names runs {', '.join(run_ids)} now, not {', '.join(sorted(expected))}: plan again"
        )

    def record(versions: list[dict[str, Any]]) -> None:
        undo_id = conn.execute(
            "insert into etl.undo (requested_by, reason, run_ids, plan) values (%s, %s, %s, %s) returning undo_id",
            (by, reason, run_ids, json.dumps(document)),
        ).fetchone()[0]
        document["undo_id"] = undo_id
        with conn.cursor() as cursor:
            cursor.executemany(
                "insert into etl.stale_mark (undo_id, table_name, pipeline, interval_from, interval_to, reason)"
                " values (%s, %s, %s, %s, %s, %s)",
                [
                    (undo_id, each["table"], each["pipeline"], each["from"], each["to"], each["why"])
                    for each in made.dependants
                    if each["state"] == "stale"
                ],
            )

    undone = publish.undo(conn, run_ids, record=record) if run_ids else []
    return document | {"undone": json.loads(json.dumps(undone, default=str))}


def text(document: dict[str, Any]) -> str:
    """A plan as Markdown, for a person to decide on."""
    if not document["runs"]:
        return "Nothing to take back" + (
            f": undone already: {', '.join(document['already_undone'])}" if document["already_undone"] else "."
        )
    lines = [
        f"Takes back {len(document['runs'])} run(s), newest first: "
        f"{document['rows_now']:,} published rows in {len(document['partitions'])} partition(s) become {document['rows_after']:,}.",
        "",
        "| run | release | interval | published | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {run['run_id']} | {run['release']} | {run['interval_from']} – {run['interval_to']} | {run['published_at']} |"
        f" {'' if run['chosen'] else 'published on top'} |"
        for run in document["runs"]
    ]
    lines += ["", "| partition | now | | afterwards | |", "|---|---|---|---|---|"]
    lines += [
        f"| {each['partition']} | version {each['version_now']} of {each['run_now']} | {each['rows_now']:,} rows |"
        + (
            f" version {each['version_after']} of {each['run_after']} | {each['rows_after']:,} rows |"
            if each["version_after"]
            else " nothing | |"
        )
        for each in document["partitions"]
    ]
    lines += ["", *(f"- `{each['table']}` {each['state']}: {each['why']}" for each in document["dependants"])]
    lines += [f"- **Refused**: run {each['run_id']}: {each['reason']}" for each in document["refusals"]]
    lines += [f"- Note: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


def _chosen(conn: psycopg.Connection, selection: Selection) -> list[str]:
    if selection.newer_than:
        if not conn.execute("select 1 from etl.release where release = %s", (selection.newer_than,)).fetchone():
            raise LookupError(f"the ledger has no release {selection.newer_than}")
        return [row["run_id"] for row in _rows(conn, "runs_of_newer_releases", release=selection.newer_than)]
    if selection.pipeline:
        left, chosen = [(selection.interval_from, selection.interval_to)], []
        for run in _rows(conn, "runs_of_interval", **_bounds(selection), pipeline=selection.pipeline):
            rest = [part for span in left for part in _without(span, run["interval_from"], run["interval_to"])]
            if rest != left:
                chosen.append(run["run_id"])
            left = rest
        return chosen
    known = {row["run_id"] for row in _rows(conn, "runs", run_ids=list(selection.run_ids))}
    if missing := [run_id for run_id in selection.run_ids if run_id not in known]:
        raise LookupError(f"the ledger has no run {', '.join(missing)}")
    return list(dict.fromkeys(selection.run_ids))


def _bounds(selection: Selection) -> dict[str, datetime]:
    return {"interval_from": selection.interval_from, "interval_to": selection.interval_to}


def _without(span: tuple[datetime, datetime], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """What is left of a span when [start, end) is taken out of it."""
    if end <= span[0] or start >= span[1]:
        return [span]
    return [part for part in ((span[0], start), (end, span[1])) if part[0] < part[1]]


def _outside(runs: list[dict[str, Any]], selection: Selection) -> list[dict[str, Any]]:
    """Refusals of runs that published more than the interval: a run goes back as a whole."""
    return [
        {
            "run_id": run["run_id"],
            "reason": f"it published {run['interval_from']} to {run['interval_to']}, beyond the interval; a run is taken back"
            " as a whole (cascade)",
        }
        for run in runs
        if run["chosen"]
        and (run["interval_from"] < selection.interval_from or run["interval_to"] > selection.interval_to)
    ]


def _standing_on(conn: psycopg.Connection, run_ids: set[str]) -> list[tuple[str, str]]:
    """(run, later run that published on top of it) for the later runs that are not among the given."""
    return conn.execute(publish.LATER, {"run_ids": sorted(run_ids)}).fetchall()


def _dependants(conn: psycopg.Connection, made: Plan, publications: list[int]):
    restored = _rows(conn, "restored_rows", publications=publications)
    for row in restored:
        yield {
            "table": row["table"],
            "state": "restored",
            "why": f"{row['rows_put_back']} former rows put back, {row['rows_removed'] + row['rows_introduced']} rows removed",
        }
    later = _rows(conn, "later_runs", publications=publications) if publications else []
    for row in restored:
        if row["rows_introduced"] and later:
            yield {
                "table": row["table"],
                "state": "kept",
                "why": f"{row['rows_introduced']} members that were new stay: runs that published since may refer to them",
            }
    changed = {row["table"] for row in restored if row["rows_put_back"]}
    stale: dict[tuple[str, str], tuple[dict[str, Any], set[str]]] = {}
    for run in later:
        for name, through in _declared_dependants(run["pipeline"], changed).items():
            stale.setdefault((name, run["run_id"]), (run, set()))[1].update(through)
    for run in _rows(conn, "lineage_readers", run_ids=[run["run_id"] for run in made.runs]):
        name, through = (run[key].rpartition(".")[2] for key in ("table", "read_table"))
        stale.setdefault((name, run["run_id"]), (run, set()))[1].add(through)
    for (name, run_id), (run, through) in sorted(stale.items()):
        yield {
            "table": name,
            "state": "stale",
            "pipeline": run["pipeline"],
            "run_id": run_id,
            "from": run["interval_from"],
            "to": run["interval_to"],
            "why": f"made by run {run_id} from rows of {', '.join(sorted(through))} that go back",
        }


def _declared_dependants(pipeline: str, changed: set[str]) -> dict[str, list[str]]:
    """Tables of a pipeline that refer to changed ones, each with the changed ones; empty for a pipeline no longer declared."""
    if pipeline not in declaration.names():
        return {}
    found: dict[str, set[str]] = {}
    for audit in declaration.load(pipeline).audits:
        if audit.get("references") in changed:
            found.setdefault(audit["table"], set()).add(audit["references"])
    return {name: sorted(through) for name, through in sorted(found.items())}


def _running(conn: psycopg.Connection, runs: list[dict[str, Any]]) -> list[str]:
    spans = {
        "pipelines": sorted({run["pipeline"] for run in runs}),
        "interval_from": min(run["interval_from"] for run in runs),
        "interval_to": max(run["interval_to"] for run in runs),
    }
    return [row["run_id"] for row in _rows(conn, "running", **spans)]


def _rows(conn: psycopg.Connection, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(texts(QUERIES)[name], parameters).fetchall()


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="undo", description=__doc__.partition("\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["plan", "execute"])
    parser.add_argument("--run", action="append", default=[], metavar="RUN_ID", help="may be given more than once")
    parser.add_argument("--pipeline")
    parser.add_argument("--from", dest="start", type=datetime.fromisoformat, help="sources' local time")
    parser.add_argument("--to", dest="end", type=datetime.fromisoformat, help="end of the interval, not part of it")
    parser.add_argument("--newer-than", metavar="RELEASE", help="every run that newer releases published")
    parser.add_argument("--cascade", action="store_true", help="take back what stands on it too")
    parser.add_argument("--reason")
    parser.add_argument("--bucket", default="curated", help="where the journal of publications is")
    parser.add_argument("--by", default=getpass.getuser(), help="who asks (default: the system user)")
    given = parser.parse_args(argv)
    try:
        selection = Selection(tuple(given.run), given.pipeline, given.start, given.end, given.newer_than)
    except ValueError as error:
        parser.error(str(error))
    entered = True
    try:
        with psycopg.connect("", application_name="undo") as conn:
            document = plan(conn, selection, cascade=given.cascade).as_dict()
            if given.action == "execute" and not document["refusals"]:
                document = execute(conn, selection, cascade=given.cascade, by=given.by, reason=given.reason)
                entered = _enter(conn, given.bucket, document)
    except (LookupError, PublishRefused, psycopg.Error) as error:
        print(f"undo: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document | {"text": text(document)}, indent=2))
    for refusal in document["refusals"]:
        print(f"undo: run {refusal['run_id']}: {refusal['reason']}", file=sys.stderr)
    return 1 if document["refusals"] or not entered else 0


def _enter(conn: psycopg.Connection, bucket: str, document: dict[str, Any]) -> bool:
    """Enter what was taken back in the journal; whether that went well."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        taken = [run["run_id"] for run in document["runs"]] + document["already_undone"]
        journal.enter_all(conn, boto3.client("s3"), bucket, taken)
    except (BotoCoreError, ClientError) as error:
        again = " ".join(f"--run {run_id}" for run_id in taken)
        told = f"undo: taken back, but not entered in the journal of publications: {error}; repeat it with {again}"
        print(told, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
