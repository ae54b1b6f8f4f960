"""Publishes again what the warehouse lost when it was brought back to an earlier moment.

    python -m jobs.rollback.republish sync                               enter in the journal what the ledger knows and it lacks
    python -m jobs.rollback.republish plan     [--leave-out RUN_ID ...]  what would be published again; changes nothing
    python -m jobs.rollback.republish run      [--leave-out RUN_ID ...]  publish it again, in the order in which it was published
    python -m jobs.rollback.republish withdraw [RUN_ID ...]              do not publish these, or any that are missing, again

The journal (jobs.load.journal) says which runs were published after the moment; their rows are read from s3://curated, where
they are sealed, audited and published as they were the first time. Nothing is extracted or computed again. Runs that are left
out are withdrawn: no later restore publishes them.

Connects as etl_load with libpq's own means (PGHOST, PGPASSFILE, PGSSLMODE, ...) and to the object store with boto3's
(AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_CA_BUNDLE, ...). JSON on standard output, progress on standard error. Exit status: 0
done or nothing to do, 1 a run could not be published (those before it were; run it again once its cause is mended), 2 wrong usage.
Killed at any point and run again, it completes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from jobs import declaration, quarantine
from jobs.lineage import events as lineage
from jobs.load import audit, journal, ledger, publish, staging
from jobs.load.statements import require_idle
from jobs.rollback import undo

# Publications commit in another order than they begin, and a moment between two of them has the one and not the other.
OVERLAP = timedelta(hours=1)
NEWEST = """
select distinct on (run_id) run_id, published_at, undone_at is null as stands
from etl.publication order by run_id asc, publication_id desc
"""


class RepublishFailed(RuntimeError):
    """A run that cannot be published again; the message names it and says why."""


def missing(conn: psycopg.Connection, s3: Any, bucket: str) -> list[dict[str, Any]]:
    """The journal's `published` events that the ledger does not know, in their order.

    What retention has removed from the ledger is older than anything that still stands there, and does not count as missing.
    """
    known = {run_id: published_at for run_id, published_at, _ in _newest(conn)}
    since = max(known.values()) - OVERLAP if known else None
    return journal.read(
        s3,
        bucket,
        lambda event: (
            event["event"] == "published"
            and (since is None or event["at"] >= since)
            and not (event["run_id"] in known and known[event["run_id"]] >= event["at"])
        ),
    )


def returned(conn: psycopg.Connection, s3: Any, bucket: str) -> list[dict[str, Any]]:
    """The journal's `undone` events of runs that stand in the ledger, in their order: taken back after the moment of the restore."""
    standing = {run_id: published_at for run_id, published_at, stands in _newest(conn) if stands}
    return [
        event
        for event in journal.newest(s3, bucket)
        if event["event"] == "undone" and event["run_id"] in standing and standing[event["run_id"]] < event["at"]
    ]


def _newest(conn: psycopg.Connection) -> list[tuple[str, datetime, bool]]:
    require_idle(conn)
    with conn.transaction():
        return conn.execute(NEWEST).fetchall()


def _known(s3: Any, bucket: str, named: Collection[str], found: Collection[str]) -> None:
    """LookupError unless every run that somebody named is missing, or was withdrawn before."""
    withdrawn = {event["run_id"] for event in journal.newest(s3, bucket) if event["event"] == "withdrawn"}
    if unknown := sorted(set(named) - set(found) - withdrawn):
        raise LookupError(f"not among the runs that are missing: {', '.join(unknown)}")


def describe(event: dict[str, Any]) -> dict[str, Any]:
    """One event for people: which run, which interval, when it was published, how many rows were extracted for it."""
    run, tables = event["ledger"]["run"], event["ledger"]["tables"]
    return {
        "run_id": event["run_id"],
        "pipeline": run["pipeline"],
        "release": run["release"],
        "from": run["interval_from"],
        "to": run["interval_to"],
        "published_at": event["at"].isoformat(),
        "rows_extracted": sum(row["row_count"] or 0 for row in tables.get("run_source", ())),
    }


def plan(conn: psycopg.Connection, s3: Any, bucket: str, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """{"publish": [...], "leave_out": [...], "undo": [run ids]}: what `republish` would do, each run as `describe` has it.

    Raises LookupError when a run to be left out is not among the missing ones, nor was withdrawn before.
    """
    found = [describe(event) for event in missing(conn, s3, bucket)]
    _known(s3, bucket, leave_out, [run["run_id"] for run in found])
    return {
        "publish": [run for run in found if run["run_id"] not in leave_out],
        "leave_out": [run for run in found if run["run_id"] in leave_out],
        "undo": [event["run_id"] for event in returned(conn, s3, bucket)],
    }


def republish(
    conn: psycopg.Connection,
    s3: Any,
    bucket: str,
    leave_out: Collection[str] = (),
    *,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Publish what is missing again, and take back again what was taken back, in the order in which both happened; returns the plan
    with the versions of each run that was published.

    Raises RepublishFailed at the first run that cannot be: those after it may stand on it.
    """
    done = plan(conn, s3, bucket, leave_out)
    for run in done["leave_out"]:
        journal.withdraw(s3, bucket, run["run_id"])
        say(f"{run['run_id']} is left out")
    described = {run["run_id"]: run for run in done["publish"]}
    events = [event for event in missing(conn, s3, bucket) if event["run_id"] in described]
    events = sorted(events + returned(conn, s3, bucket), key=itemgetter("at"))
    for number, ((at, what), same) in enumerate(groupby(events, itemgetter("at", "event")), 1):
        together = list(same)  # taken back in one transaction, as they were
        names = [event["run_id"] for event in together]
        say(f"{number}: {', '.join(names)} {what} at {at:%Y-%m-%d %H:%M:%S}")
        try:
            if what == "undone":
                undo.execute(conn, undo.Selection(tuple(names)), by="restore", reason=f"was taken back at {at} before")
            else:
                for event in together:
                    described[event["run_id"]]["versions"] = _again(conn, s3, bucket, event["ledger"])
        except (staging.StagingError, audit.AuditFailed, publish.PublishRefused, FileNotFoundError) as error:
            raise RepublishFailed(f"run {', '.join(names)}: {error}") from error
        journal.enter_all(conn, s3, bucket, names)
    with conn.transaction():
        # Of a call that was killed between a publication and its end.
        conn.execute(
            "update etl.run set state = 'published', finished_at = coalesce(finished_at, now()), error = null"
            " where state = 'running' and run_id = any(%s)",
            ([event["run_id"] for event in journal.newest(s3, bucket) if event["event"] == "published"],),
        )
    return done


def _again(conn: psycopg.Connection, s3: Any, bucket: str, known: dict[str, Any]) -> list[dict[str, Any]]:
    """Enter a run in the ledger as it was, then load, audit and publish it; returns its versions."""
    row = known["run"]
    if row["pipeline"] not in declaration.names():
        raise FileNotFoundError(f"the pipeline {row['pipeline']} is no longer declared")
    declared = declaration.load(row["pipeline"])
    run = ledger.Run(**{name: row[name] for name in ledger.Run.__dataclass_fields__})
    released = [taken for taken in known["tables"].get("quarantine_replay", ()) if taken["replay_run_id"] == run.run_id]
    with conn.transaction():
        _insert(conn, "release", known["release"])
        _insert(conn, "run", row)
        ledger.start_run(conn, run)
        there = journal.children(conn)
        for name in set(known["tables"]) & set(there):
            if "run_id" in there[name]:  # what an earlier attempt of the run left
                conn.execute(
                    sql.SQL("delete from {} where run_id = %s").format(sql.Identifier("etl", name)), (run.run_id,)
                )
            for child in known["tables"][name]:
                # A row may name a second run, which need not have come back.
                if all(_is_run(conn, child[column]) for column in there[name]):
                    _insert(conn, name, child)
        lineage.enter(conn, known.get("lineage", ()))
    staging.load(conn, s3, declared, run, run.attempt, bucket=bucket)
    if released:
        _merge_again(conn, s3, declared, run, {taken["run_id"] for taken in released})
    audit.check(conn, declared, run)
    versions = publish.publish(conn, declared, run)
    lineage.store(conn, lineage.published(conn, run, declared, versions))
    ledger.finish_run(conn, run, "published")
    return [{key: version[key] for key in ("table", "partition", "version", "rows")} for version in versions]


def _merge_again(
    conn: psycopg.Connection, s3: Any, declared: declaration.Declaration, run: ledger.Run, origins: set[str]
) -> None:
    with conn.transaction():
        gone = sorted(origin for origin in origins if not _is_run(conn, origin))
    try:
        if gone:
            raise quarantine.ReplayError(f"{', '.join(gone)} did not come back")
        quarantine.merge_again(conn, s3, declared, run)
    except quarantine.ReplayError as error:
        raise publish.PublishRefused(
            f"it released quarantined rows, and {error}: leave it out (--leave-out), and release them again with"
            " playbooks/replay_quarantine.yml"
        ) from error


def _is_run(conn: psycopg.Connection, run_id: str) -> bool:
    return conn.execute("select exists (select from etl.run where run_id = %s)", (run_id,)).fetchone()[0]


def _insert(conn: psycopg.Connection, name: str, row: dict[str, Any]) -> None:
    target = sql.Identifier("etl", name)
    conn.execute(
        sql.SQL(
            "insert into {0} select * from jsonb_populate_record(cast(null as {0}), %s) on conflict do nothing"
        ).format(target),
        (Jsonb(row),),
    )


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="republish", description=__doc__.partition("\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["sync", "plan", "run", "withdraw"])
    parser.add_argument("runs", nargs="*", metavar="RUN_ID", help="withdraw: these; without any, all that are missing")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="RUN_ID", help="may be given more than once"
    )
    parser.add_argument("--bucket", default="curated")
    given = parser.parse_args(argv)
    if given.runs and given.action != "withdraw":
        parser.error(f"{given.action} takes no runs: --leave-out names those that are not to be published")

    import boto3

    s3 = boto3.client("s3")
    try:
        with psycopg.connect("", application_name="republish") as conn:
            if given.action == "sync":
                document: dict[str, Any] = {"entered": journal.sync(conn, s3, given.bucket)}
            elif given.action == "plan":
                document = plan(conn, s3, given.bucket, given.leave_out)
            elif given.action == "run":
                document = republish(
                    conn, s3, given.bucket, given.leave_out, say=lambda text: print(text, file=sys.stderr, flush=True)
                )
            else:
                found = [event["run_id"] for event in missing(conn, s3, given.bucket)]
                _known(s3, given.bucket, given.runs, found)
                chosen = [run_id for run_id in found if run_id in (given.runs or found)]
                document = {"withdrawn": [journal.withdraw(s3, given.bucket, run_id) and run_id for run_id in chosen]}
    except (LookupError, RepublishFailed, psycopg.Error) as error:
        print(f"republish: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
