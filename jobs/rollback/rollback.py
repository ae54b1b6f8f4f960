"""Takes the platform back to an earlier release: what it would do, its journal, and its steps on the release host.

    python -m jobs.rollback.rollback plan --to RELEASE --data keep|restore   (facts of the controller as JSON on stdin)
    python -m jobs.rollback.rollback start                                   (the plan as JSON on stdin)
    python -m jobs.rollback.rollback step hold|evidence|undo|rewind|schema|verify|mark|resume
    python -m jobs.rollback.rollback done STEP

playbooks/rollback.yml calls these in order. The journal (JOURNAL, a directory of the release host) keeps the plan as it was when
the rollback started and the steps that are done: run again after an interruption it goes on where it stopped. Connects with
the environment (PG*, AWS_*, RELEASES_BUCKET, AIRFLOW_URL, AIRFLOW_LOGIN, AIRFLOW_PASSWORD). Prints JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.rollback import manifests
from jobs.rollback.facts import gather
from jobs.rollback.journal import STEPS, Journal, RollbackError
from jobs.rollback.manifests import now
from jobs.rollback.plan import make, text
from jobs.rollback.release_tree import ReleaseError
from jobs.rollback.steps import ACTIONS


def planned(conn: Any, directory: Path, arguments: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of the rollback that is under way, else a new one."""
    journal = Journal.open(directory)
    if journal and not arguments.abandon:
        content = journal.content
        if (content["plan"]["to"], content["plan"]["data"]) != (arguments.to, arguments.data):
            raise RollbackError(
                f"rollback {content['id']} (-e to={content['plan']['to']} -e data={content['plan']['data']}) has not come to its end: "
                "run it again, or give it up with -e abandon=true"
            )
        if given.get("current") not in (None, content["plan"]["from"], content["plan"]["to"]):
            raise RollbackError(
                f"release {given['current']} was deployed since rollback {content['id']} began: start anew with -e abandon=true"
            )
        document = content["plan"] | {
            "id": content["id"],
            "started_at": content["started_at"],
            "done": list(content["done"]),
        }
    else:
        document = make(
            gather(conn, manifests.store(), given, arguments.to, arguments.data),
            arguments.to,
            arguments.data,
            arguments.force,
        )
        document |= {"id": None, "done": []}
    return document | {"text": text(document)}


def started(conn: Any, directory: Path, plan: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Start the rollback of a plan, or go on with the one under way; returns its id and the steps left."""
    journal, carried = Journal.open(directory), {}
    if journal and plan["id"] != journal.content["id"]:
        carried = {"paused": journal.content["notes"].get("paused", [])}
        journal.done("abandoned")
        journal.content["finished_at"] = now()
        journal.save()
        enter(conn, journal)
        journal = None
    if journal is None:
        if plan["refused"]:
            raise RollbackError("; ".join(plan["refused"]))
        content = {key: value for key, value in plan.items() if key not in ("text", "done", "id", "started_at")}
        journal = Journal.start(directory, content, reason, carried)
        enter(conn, journal)
    return {"id": journal.content["id"], "left": journal.left(), "directory": str(directory / journal.content["id"])}


def enter(conn: Any, journal: Journal) -> None:
    """Bring the ledger's copy of the journal up to date."""
    content = journal.content
    with conn.transaction():
        conn.execute(
            """
            insert into etl.rollback as r
            (rollback_id, from_release, to_release, data, state, started_at, finished_at, reason, plan, steps)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (rollback_id) do update set
                state = excluded.state, finished_at = excluded.finished_at, steps = excluded.steps
            """,
            (
                content["id"],
                content["plan"]["from"] or "",
                content["plan"]["to"],
                content["plan"]["data"],
                "done" if content["finished_at"] else "running",
                content["started_at"],
                content["finished_at"],
                content["reason"],
                json.dumps(content["plan"]),
                json.dumps(content["done"]),
            ),
        )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.rollback.rollback", description="Back to an earlier release.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    planning = verbs.add_parser("plan", help="print the plan (facts of the controller as JSON on stdin)")
    planning.add_argument("--to", required=True)
    planning.add_argument("--data", choices=("keep", "restore"), required=True)
    planning.add_argument("--force", action="store_true", help="although the target is marked bad")
    planning.add_argument("--abandon", action="store_true", help="give up a rollback that is under way")
    starting = verbs.add_parser("start", help="write the journal (the plan as JSON on stdin)")
    starting.add_argument("--reason", required=True)
    verbs.add_parser("step", help="do a step").add_argument("step", choices=ACTIONS)
    verbs.add_parser("done", help="note that a step is done").add_argument("step", choices=STEPS)
    arguments = parser.parse_args(argv)
    import psycopg

    try:
        with psycopg.connect("", application_name="rollback") as conn:
            print(json.dumps(_run(arguments, conn, Path(os.environ["JOURNAL"])), default=str))
    except (RuntimeError, OSError, LookupError, psycopg.Error, subprocess.CalledProcessError) as error:
        print(f"rollback: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One at a time: a step goes on when its controller is gone, and what comes after waits for its end."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(arguments: argparse.Namespace, conn: Any, directory: Path) -> Any:
    if arguments.verb == "plan":
        return planned(conn, directory, arguments, json.load(sys.stdin))
    with _alone(directory):
        return _change(arguments, conn, directory)


def _change(arguments: argparse.Namespace, conn: Any, directory: Path) -> Any:
    if arguments.verb == "start":
        return started(conn, directory, json.load(sys.stdin), arguments.reason)
    journal = Journal.open(directory)
    if journal is None:
        raise ReleaseError("no rollback is under way")
    if arguments.step in journal.content["done"]:
        return {"changed": False}
    notes = ACTIONS[arguments.step](conn, journal) if arguments.verb == "step" else {}
    journal.done(arguments.step, **notes)
    enter(conn, journal)
    return {"changed": True, "id": journal.content["id"], **notes}


if __name__ == "__main__":
    sys.exit(main())
