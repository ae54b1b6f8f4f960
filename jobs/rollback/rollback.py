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
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.rollback import manifests
from jobs.rollback.journal import STEPS, Journal
from jobs.rollback.manifests import newest, now
from jobs.rollback.plan import Facts, make, newer, text
from jobs.rollback.release_tree import ReleaseError, packed

PUBLISHED = "select partition_name, version from etl.partition_version where current order by 1"
NEWER_RUNS = """
select run_id, dag_run_id, pipeline, release, state, started_at
from etl.run where release = any(%(releases)s) and started_at >= %(since)s order by started_at
"""
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


class RollbackError(RuntimeError):
    """A step that cannot be done; the message says why and what to do."""


class Airflow:
    """As much of Airflow's API as a rollback needs."""

    def __init__(self, url: str, login: str, password: str):
        import requests

        self.url, self.session = url.rstrip("/"), requests.Session()
        token = self._call("POST", "/auth/token", {"username": login, "password": password})["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"

    def _call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.session.request(method, f"{self.url}{path}", json=body, params=query, timeout=60)
        if not answer.ok:
            raise RollbackError(f"Airflow refuses {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def active_dags(self) -> list[str]:
        """Ids of the DAGs that are not paused."""
        return [dag["dag_id"] for dag in self._call("GET", "/api/v2/dags", paused="false", limit=100)["dags"]]

    def dags(self) -> list[str]:
        """Ids of all DAGs of the present bundle version."""
        return [dag["dag_id"] for dag in self._call("GET", "/api/v2/dags", limit=100)["dags"]]

    def pause(self, dag_id: str, paused: bool) -> None:
        """Pause a DAG or let it run."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": paused})

    def running(self) -> list[dict[str, Any]]:
        """Runs that are not at their end."""
        return self._call("GET", "/api/v2/dags/~/dagRuns", state=["running", "queued"], limit=100)["dag_runs"]

    def stop(self, run: Mapping[str, Any], note: str) -> None:
        """End a run as failed; its tasks are told to stop."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}"
        self._call("PATCH", path, {"state": "failed", "note": note})


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
    facts["since"] = tuple(map(int, conn.execute(PUBLISHED_SINCE, (window["since"],)).fetchone()))
    conn.rollback()
    if runs:
        facts["undo"] = undo.plan(conn, undo.Selection(run_ids=tuple(runs)), cascade=True).as_dict()
    if data == "restore":
        facts["rewind"] = {
            name: rewound(name, window["since"], dry_run=True) for name in os.environ["DATA_BUCKETS"].split()
        }
    return Facts(**facts)


def rewound(bucket: str, to: str, *, dry_run: bool = False, journal: Path | None = None) -> dict[str, Any]:
    """The summary of a bucket's way back to a moment; the journal of publications stays, it tells what was published when."""
    from jobs.load.journal import PREFIX
    from jobs.rollback.rewind import rewind
    from jobs.rollback.rollback_s3 import S3Store

    moment = datetime.fromisoformat(to)
    return rewind(S3Store(object_store(), bucket), moment, keep=(PREFIX,), dry_run=dry_run, journal=journal)


def object_store() -> Any:
    """A client with the rights of the rollback's user, who writes to every bucket of data."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        aws_access_key_id=os.environ["ROLLBACK_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["ROLLBACK_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )


def hold(conn: Any, journal: Journal) -> dict[str, Any]:
    """Keep new runs from starting and end the runs of newer releases (all of them when data are restored)."""
    plan, airflow = journal.content["plan"], airflow_of_environment()
    paused = sorted({*journal.content["notes"].get("paused", ()), *airflow.active_dags()})
    journal.content["notes"]["paused"] = paused
    journal.save()
    for dag_id in paused:
        airflow.pause(dag_id, True)
    versions = {one["bundle_version"] for one in newer(manifests.store().manifests(), plan["to"])}
    stopped = [
        run
        for run in airflow.running()
        if plan["data"] == "restore" or run.get("bundle_version") in versions or run.get("bundle_version") is None
    ]
    for run in stopped:
        airflow.stop(run, f"stopped by the rollback {journal.content['id']}")
    if stopped:
        time.sleep(15)  # the supervisors of its tasks look for this every few seconds
    with conn.transaction():
        conn.execute(
            "update etl.run set state = 'failed', finished_at = now(), error = %s where state = 'running' and dag_run_id = any(%s)",
            (f"stopped by the rollback {journal.content['id']}", [run["dag_run_id"] for run in stopped]),
        )
        published = dict(conn.execute(PUBLISHED).fetchall())
    stopped_names = [f"{run['dag_id']}/{run['dag_run_id']}" for run in stopped]
    return {"stopped": [*journal.content["notes"].get("stopped", ()), *stopped_names], "published": published}


def evidence(conn: Any, journal: Journal) -> dict[str, Any]:
    """Put what the failed release leaves to look at beside its manifests: plan, ledger rows, logs, deployed flows."""
    plan, kept = journal.content["plan"], manifests.store()
    prefix = f"{plan['from']}/evidence/{journal.content['id']}"
    window = {"releases": plan["releases"], "since": plan["cut"]["time"]}
    with conn.transaction(), conn.cursor() as cursor:
        runs = _mappings(cursor.execute(NEWER_RUNS, window))
        ids = [run["run_id"] for run in runs]
        ledger = {"runs": runs} | {
            table: _mappings(cursor.execute(f"select * from etl.{table} where run_id = any(%s)", (ids,)))
            for table in ("run_source", "run_stage", "run_reject", "audit_result")
        }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for run in runs:
            for path in sorted(Path(os.environ["AIRFLOW_LOGS"]).glob(f"dag_id=*/run_id={run['dag_run_id']}")):
                archive.add(path, arcname=f"{path.parent.name}/{path.name}")
    objects = {
        "plan.json": json.dumps(journal.content, indent=1).encode(),
        "ledger.json": json.dumps(ledger, indent=1, default=str).encode(),
        "logs.tar.gz": buffer.getvalue(),
    }
    for path in sorted((journal.path.parent / journal.content["id"]).glob("*.json")):
        objects[f"flows/{path.name}"] = path.read_bytes()
    tree = Path(os.environ["RELEASES_DIR"]) / plan["from"]
    if (tree / "RELEASE").exists():
        objects["tree.tar.gz"] = packed(tree)
    for name, content in objects.items():
        kept.put(f"{prefix}/{name}", content)
    return {"evidence": f"s3://{kept.bucket}/{prefix}/", "evidence_objects": sorted(objects)}


def undo_runs(conn: Any, journal: Journal) -> dict[str, Any]:
    """Swap back what the newer releases published, and enter that in the journal of publications."""
    from jobs.load import journal as publications
    from jobs.rollback import undo

    plan = journal.content["plan"]
    done = undo.execute(
        conn,
        undo.Selection(run_ids=tuple(plan["runs"])),
        cascade=True,
        by=f"rollback {journal.content['id']}",
        reason=journal.content["reason"],
    )
    publications.enter_all(conn, object_store(), os.environ["CURATED_BUCKET"], plan["runs"])
    expected = {part["partition"]: part["version_after"] for part in done["partitions"]}
    return {"undone": sorted(plan["runs"])} | ({"swapped": expected} if expected else {})


def rewind_buckets(conn: Any, journal: Journal) -> dict[str, Any]:
    """Bring the buckets back whose objects were overwritten or deleted."""
    plan, summaries = journal.content["plan"], {}
    place = journal.path.parent / journal.content["id"]
    place.mkdir(mode=0o700, exist_ok=True)
    for bucket in plan["rewind"]:
        summary = rewound(bucket, plan["cut"]["time"], journal=place / f"rewind-{bucket}")
        if not summary["verified"]:
            raise RollbackError(
                f"bucket {bucket} is not as it was at {plan['cut']['time']}: {summary['failed']}; run the rollback again"
            )
        summaries[bucket] = summary["actions"]
    return {"rewound": summaries}


def schema(conn: Any, journal: Journal) -> dict[str, Any]:
    """Take the newer migrations back."""
    from jobs.load import migrate

    return {"schema": migrate.down(conn, journal.content["plan"]["level"])}


def verify(conn: Any, journal: Journal) -> dict[str, Any]:
    """Look that the target is in service as a whole; raises RollbackError with all that is not so."""
    plan, notes = journal.content["plan"], journal.content["notes"]
    directory, wrong = Path(os.environ["RELEASES_DIR"]), []
    current = (directory / "current").readlink().name
    if current != plan["to"]:
        wrong.append(f"{directory}/current points to {current}")
    shown = subprocess.run(
        ["git", "--git-dir", os.environ["BUNDLE_REPOSITORY"], "show", "main:RELEASE"],
        capture_output=True,
        text=True,
        check=True,
    )
    if (bundle := json.loads(shown.stdout)["id"]) != plan["to"]:
        wrong.append(f"the DAG bundle has release {bundle}")
    level = conn.execute("select max(level) from etl.migration").fetchone()[0]
    if level != plan["level"]:
        wrong.append(f"the schema is at level {level}, not {plan['level']}")
    published = dict(conn.execute(PUBLISHED).fetchall())
    conn.rollback()
    if plan["method"] != "restore" and "published" in notes:
        expected = {**notes["published"], **notes.get("swapped", {})}
        expected = {name: version for name, version in expected.items() if version is not None}
        if published != expected:
            names = sorted({name for name in {*published, *expected} if published.get(name) != expected.get(name)})
            wrong.append(f"other versions are published than planned of {', '.join(names)}")
    manifest = manifests.store().latest(plan["to"])
    if manifest["deployed_at"] < journal.content["started_at"]:
        wrong.append(f"release {plan['to']} has no manifest of its new deployment")
    if wrong:
        raise RollbackError(f"release {plan['to']} is not in service as a whole: {'; '.join(wrong)}")
    return {"verified": {"level": level, "partitions": len(published), "bundle_version": manifest["bundle_version"]}}


def mark(conn: Any, journal: Journal) -> dict[str, Any]:
    """Mark the release that was taken back, and bring the ledger's copy of all manifests up to date."""
    plan, kept = journal.content["plan"], manifests.store()
    if plan["from"] and kept.latest(plan["from"]):
        manifests.mark(kept, plan["from"], "bad", "rollback", journal.content["reason"])
    manifests.enter(conn, newest(kept.manifests()).values())
    return {}


def resume(conn: Any, journal: Journal) -> dict[str, Any]:
    """Let the DAGs run again that this rollback paused."""
    airflow = airflow_of_environment()
    there = set(airflow.dags())
    for dag_id in journal.content["notes"].get("paused", ()):
        if dag_id in there:
            airflow.pause(dag_id, False)
    return {}


ACTIONS = {
    "hold": hold,
    "evidence": evidence,
    "undo": undo_runs,
    "rewind": rewind_buckets,
    "schema": schema,
    "verify": verify,
    "mark": mark,
    "resume": resume,
}


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


def airflow_of_environment() -> Airflow:
    """The Airflow that the environment names."""
    return Airflow(os.environ["AIRFLOW_URL"], os.environ["AIRFLOW_LOGIN"], os.environ["AIRFLOW_PASSWORD"])


def _mappings(cursor: Any) -> list[dict[str, Any]]:
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# ---- Command line


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


def _run(arguments: argparse.Namespace, conn: Any, directory: Path) -> Any:
    if arguments.verb == "plan":
        return planned(conn, directory, arguments, json.load(sys.stdin))
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
