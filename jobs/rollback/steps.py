"""The steps of a rollback on the release host. Each takes the journal and returns what is noted in it; each may be done again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from glob import escape
from pathlib import Path
from typing import Any

from jobs.load.ledger import run_id_of
from jobs.rollback import manifests
from jobs.rollback.airflow import airflow_of_environment
from jobs.rollback.buckets import object_store, rewound
from jobs.rollback.facts import PUBLISHED_BY
from jobs.rollback.journal import Journal, RollbackError
from jobs.rollback.manifests import newest
from jobs.rollback.plan import newer
from jobs.rollback.release_tree import packed

PUBLISHED = "select partition_name, version from etl.partition_version where current order by 1"
NEWER_RUNS = """
select run_id, dag_run_id, pipeline, release, state, started_at
from etl.run where release = any(%(releases)s) and started_at >= %(since)s order by started_at
"""
# What the ledger tells of a run; a restore of the warehouse forgets it.
LEDGER = ("run_source", "run_stage", "run_reject", "audit_result", "publication", "partition_version", "lineage_event")


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
            "update etl.run set state = 'failed', finished_at = now(), error = %s where state = 'running' and run_id = any(%s)",
            (
                f"stopped by the rollback {journal.content['id']}",
                [run_id_of(run["dag_id"], run["dag_run_id"]) for run in stopped],
            ),
        )
        published = dict(conn.execute(PUBLISHED).fetchall())
    stopped_names = [f"{run['dag_id']}/{run['dag_run_id']}" for run in stopped]
    return {"stopped": [*journal.content["notes"].get("stopped", ()), *stopped_names], "published": published}


def evidence(conn: Any, journal: Journal) -> dict[str, Any]:
    """Put what the failed release leaves to look at beside its manifests: plan, ledger rows, Airflow's runs, logs, deployed flows.

    Airflow knows runs that the ledger does not: those that failed before they were entered.
    """
    plan, kept = journal.content["plan"], manifests.store()
    versions = {one["bundle_version"] for one in newer(kept.manifests(), plan["to"])}
    begun = [
        run for run in airflow_of_environment().since(plan["cut"]["time"]) if run.get("bundle_version") in versions
    ]
    prefix = f"{plan['from']}/evidence/{journal.content['id']}"
    window = {"releases": plan["releases"], "since": plan["cut"]["time"]}
    with conn.transaction(), conn.cursor() as cursor:
        runs = _mappings(cursor.execute(NEWER_RUNS, window))
        ids = [run["run_id"] for run in runs]
        ledger = {"runs": runs} | {
            table: _mappings(cursor.execute(f"select * from etl.{table} where run_id = any(%s)", (ids,)))
            for table in LEDGER
        }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in sorted({run["dag_run_id"] for run in (*runs, *begun)}):
            for path in sorted(Path(os.environ["AIRFLOW_LOGS"]).glob(f"dag_id=*/run_id={escape(name)}")):
                archive.add(path, arcname=f"{path.parent.name}/{path.name}")
    objects = {
        "plan.json": json.dumps(journal.content, indent=1).encode(),
        "ledger.json": json.dumps(ledger, indent=1, default=str).encode(),
        "airflow.json": json.dumps(begun, indent=1, default=str).encode(),
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
    """Swap back what the newer releases published, also since it was planned, and enter that in the journal of publications.

    What readers are to see then is noted before: killed after the swap, nothing is left of which it could be planned.
    """
    from jobs.load import journal as publications
    from jobs.rollback import undo

    plan, notes = journal.content["plan"], journal.content["notes"]
    window = {"releases": plan["releases"], "since": plan["cut"]["time"]}
    with conn.transaction():
        standing = [row[0] for row in conn.execute(PUBLISHED_BY, window).fetchall()]
    runs = sorted({*plan.get("runs", ()), *notes.get("undone", ()), *standing})
    if not runs:
        return {"undone": []}
    selection = undo.Selection(run_ids=tuple(runs))
    made = undo.plan(conn, selection, cascade=True)
    going = [run["run_id"] for run in made.runs]
    notes["undone"] = sorted({*runs, *going})
    notes["swapped"] = notes.get("swapped", {}) | {each["partition"]: each["version_after"] for each in made.partitions}
    journal.save()
    by = f"rollback {journal.content['id']}"
    undo.execute(conn, selection, cascade=True, by=by, reason=journal.content["reason"], expected=going)
    publications.enter_all(conn, object_store(), os.environ["CURATED_BUCKET"], notes["undone"])
    return {"undone": notes["undone"], "swapped": notes["swapped"]}


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
        # Where data are kept, what a run committed while it was ended stays too.
        stays = {name for name in published if plan["data"] == "keep" and published[name] > expected.get(name, 0)}
        names = sorted({name for name in {*published, *expected} if published.get(name) != expected.get(name)} - stays)
        if names:
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
    """Let the DAGs run again that this rollback paused; tells which runs it ended and took back, to be started anew."""
    airflow, notes = airflow_of_environment(), journal.content["notes"]
    there = set(airflow.dags())
    for dag_id in notes.get("paused", ()):
        if dag_id in there:
            airflow.pause(dag_id, False)
    taken = notes.get("undone", journal.content["plan"].get("runs", []))
    return {"undone": taken, "stopped": notes.get("stopped", [])}


def _mappings(cursor: Any) -> list[dict[str, Any]]:
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


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
