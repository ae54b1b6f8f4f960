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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.rollback import releases
from jobs.rollback.releases import ReleaseError, newest, now

STEPS = ("hold", "evidence", "data", "schema", "code", "verify", "mark", "resume")
LOST = "would lose"
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


# ---- The plan, from facts alone


@dataclass(frozen=True)
class Facts:
    """What a plan is made of.

    down    {"applied": [migrations]} that the way down takes back, or {"refused": reason}
    undo    the plan of jobs.rollback.undo for what newer releases published, None when that is nothing
    since   (runs, rows) that were published after the first newer release came
    rewind  {bucket: summary of a dry run of rollback_s3}
    """

    manifests: list[dict[str, Any]]
    current: str | None
    environment: str
    level: int
    commit_known: bool = True
    restorable: bool = False
    retention_days: int = 0
    down: dict[str, Any] = field(default_factory=lambda: {"applied": []})
    undo: dict[str, Any] | None = None
    since: tuple[int, int] = (0, 0)
    rewind: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    now: str = field(default_factory=now)


def newer(manifests: Iterable[Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    """The deployments that served after the target's last one, oldest first; those that failed never served."""
    deployments: dict[tuple[str, str], dict[str, Any]] = {}
    for manifest in sorted(manifests, key=lambda one: (one["deployed_at"], one["serial"])):
        if manifest["because"] != "deployment":
            deployments[manifest["release"], manifest["deployed_at"]] = dict(manifest)
    served = list(deployments.values())
    last = max((number for number, one in enumerate(served) if one["release"] == target), default=None)
    return [] if last is None else [one for one in served[last + 1 :] if one["release"] != target]


def make(facts: Facts, target: str, data: str, force: bool = False) -> dict[str, Any]:
    """The plan: what changes on every layer, what would be lost, and, where it is refused, all the reasons at once."""
    known = newest(facts.manifests)
    wanted, chain = known.get(target), newer(facts.manifests, target)
    present = known.get(facts.current or "")
    refused = _refused(facts, target, wanted, chain, force)
    document: dict[str, Any] = {
        "to": target,
        "from": facts.current,
        "data": data,
        "force": force,
        "made_at": facts.now,
        "releases": [one["release"] for one in chain],
        "cut": chain[0]["since"] if chain else None,
        "method": None,
        "layers": [],
        "lost": {"runs": 0, "rows": 0, "objects": 0, "minutes": 0},
        "kept": {"runs": facts.since[0], "rows": facts.since[1]} if data == "keep" else None,
        "notes": [],
        "refused": refused,
    }
    if wanted is None or not chain:
        return document
    document |= {"commit": wanted["commit"], "level": wanted["migration"], "level_now": facts.level}
    document["layers"] += _code(present or chain[-1], wanted)
    _schema_and_data(document, facts, wanted)
    document["layers"] += [_components(facts.artifacts, wanted["artifacts"])] if facts.artifacts else []
    document["layers"] += [{"layer": "hosts, inventory, secrets", "what": "stay as they are now"}]
    if wanted["terraform"] and wanted["terraform"] != chain[-1]["terraform"]:
        document["notes"].append(
            "The cloud's Terraform state has changed since; hosts are not taken back (make plan shows them)."
        )
    return document


def _refused(facts: Facts, target: str, wanted: dict | None, chain: list, force: bool) -> list[str]:
    if wanted is None:
        names = ", ".join(newest(facts.manifests)) or "none"
        return [f"release {target} is unknown: it has no manifest. Known are: {names} (playbooks/releases.yml)"]
    found = []
    if target == facts.current or not chain:
        found.append(f"release {target} is in service already; there is nothing newer to take back")
    if wanted["state"] == "bad" and not force:
        found.append(f"release {target} is marked bad ({wanted['reason']}); insist with -e force=true")
    if wanted["environment"] != facts.environment:
        found.append(f"release {target} was deployed to {wanted['environment']}, this is {facts.environment}")
    if not facts.commit_known:
        found.append(
            f"commit {wanted['commit']} of release {target} is not in this checkout: fetch it (git fetch --tags origin {wanted['commit']})"
        )
    return found


def _code(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    layers = []
    for kind, label in (("flows", "NiFi flows"), ("dags", "DAGs"), ("units", "units")):
        old, new = set(present["owned"][kind]), set(wanted["owned"][kind])
        changes = [f"removes {name}" for name in sorted(old - new)] + [f"adds {name}" for name in sorted(new - old)]
        if kind == "flows":
            both = sorted(old & new)
            changes += [f"replaces {name}" for name in both if present["flows"][name] != wanted["flows"][name]]
        layers.append({"layer": label, "what": "; ".join(changes) or "stay"})
    jobs = "stay" if present["jobs"] == wanted["jobs"] else f"{present['release']} → {wanted['release']}"
    return [
        {"layer": "jobs", "what": jobs},
        *layers,
        {
            "layer": "DAG bundle",
            "what": f"a new version with the tree of {wanted['release']}; new runs use it, also for old intervals",
        },
    ]


def _components(now_there: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, str]:
    changed = [
        name
        for name in sorted({*now_there, *then})
        if now_there.get(name, {}).get("sha256") != then.get(name, {}).get("sha256")
    ]
    what = f"stay at their present versions (since then changed: {', '.join(changed)})" if changed else "are the same"
    return {"layer": "components", "what": what}


def _schema_and_data(document: dict[str, Any], facts: Facts, wanted: Mapping[str, Any]) -> None:
    """Choose the cheapest means that suffices: nothing, swapping partitions back, objects' versions, the database's log."""
    reason, undo = facts.down.get("refused"), facts.undo
    if reason and document["data"] == "restore" and undo and LOST in reason and _taken_back(reason, undo):
        reason = None  # the rows that the way down would lose are the rows that go back
        document["notes"].append(f"The schema goes down once the newer rows are back: {facts.down['refused']}")
    why = [f"the schema cannot go down: {reason}"] if reason else []
    if document["data"] == "restore":
        why += [
            f"run {each['run_id']} cannot be taken back: {each['reason']}" for each in (undo or {}).get("refusals", ())
        ]
    point = (document["cut"].get("restore_point") or {}).get("name")
    if why and document["data"] == "keep":
        document["refused"] += [f"{each}; -e data=restore can take the data back too" for each in why]
    elif why and (missing := _not_restorable(document, facts, point)):
        document["refused"] += [*why, missing]
    elif why:
        document["method"] = "restore"
        document["notes"] += why
    elif document["data"] == "restore" and undo and undo["runs"]:
        document["method"] = "undo"
    lost = document["lost"]
    if document["method"]:
        document["runs"] = [run["run_id"] for run in (undo or {}).get("runs", ())]
    if document["method"] == "restore":
        what = f"is restored to the restore point {point}; Airflow's metadata stay"
        lost |= {
            "runs": facts.since[0],
            "rows": facts.since[1],
            "minutes": _minutes(document["cut"]["time"], facts.now),
        }
    elif document["method"] == "undo":
        what = f"{len(undo['partitions'])} partitions are swapped back: {undo['rows_now']} rows become {undo['rows_after']}"
        lost |= {
            "runs": len(undo["runs"]),
            "rows": undo["rows_now"],
            "minutes": _minutes(document["cut"]["time"], facts.now),
        }
    elif document["data"] == "restore":
        what = "no newer release has published anything that stands: nothing to take back"
    else:
        what = f"stay, with {facts.since[1]} rows in partitions that {facts.since[0]} runs published since"
    applied = facts.down.get("applied") or []
    schema = f"level {facts.level} → {wanted['migration']}" if facts.level > wanted["migration"] else "stays"
    if applied and not reason:
        schema += f" (takes back {', '.join(applied)})"
    document["layers"] += [{"layer": "schema", "what": schema}, {"layer": "published data", "what": what}]
    document["rewind"] = []
    for name, summary in sorted(facts.rewind.items()):
        actions = summary["actions"]
        if not actions["replaced"] + actions["restored"]:
            continue
        document["rewind"].append(name)
        lost["objects"] += actions["removed"]
        document["notes"] += summary["warnings"]
        what = (
            f"goes back to {document['cut']['time']}: {actions['replaced']} overwritten and {actions['restored']} deleted objects"
            f" return, {actions['removed']} newer ones go (their versions stay)"
        )
        document["layers"].append({"layer": f"bucket {name}", "what": what})
    if not document["rewind"]:
        document["layers"].append({"layer": "objects", "what": "stay: every run writes under prefixes of its own"})


def _not_restorable(document: Mapping[str, Any], facts: Facts, point: str | None) -> str | None:
    if not facts.restorable:
        return "and the warehouse cannot be restored: this environment has no backups (group pgbackrest is empty)"
    if not point:
        return f"and the warehouse cannot be restored: release {document['releases'][0]} came without a restore point"
    age = _minutes(document["cut"]["time"], facts.now) / 1440
    if facts.retention_days and age > facts.retention_days:
        return f"and restore point {point} is {age:.0f} days old: backups are kept {facts.retention_days} days"
    return None


def _taken_back(reason: str, undo: Mapping[str, Any]) -> bool:
    table = reason.rpartition(" rows of ")[2].rpartition(".")[2].strip()
    return table in {part["table"] for part in undo["partitions"]} | {
        each["table"] for each in undo.get("dependants", ())
    }


def _minutes(start: str, end: str) -> int:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 60)


def text(document: Mapping[str, Any]) -> str:
    """The plan for a person."""
    lines = [f"Back to release {document['to']}, from {document['from'] or 'none'}; data: {document['data']}", ""]
    if document.get("layers"):
        width = max(len(each["layer"]) for each in document["layers"]) + 2
        lines += [f"  {each['layer']:<{width}}{each['what']}" for each in document["layers"]] + [""]
    lost = document["lost"]
    if any(lost.values()):
        lines += [
            f"  Lost would be {lost['rows']} published rows of {lost['runs']} runs and {lost['objects']} objects:"
            f" what came in the last {lost['minutes']} minutes."
        ]
    elif not document["refused"]:
        lines += ["  Nothing that is published would be lost."]
    lines += [f"  Note: {note}" for note in document["notes"]]
    if document["refused"]:
        lines += ["", "  Refused:", *(f"    - {reason}" for reason in document["refused"])]
    if done := document.get("done"):
        lines += ["", f"  It was begun at {document['started_at']} and goes on after: {', '.join(done)}."]
    return "\n".join(lines)


# ---- The journal


class Journal:
    """One rollback's file on the release host, replaced as a whole at every change."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content

    @classmethod
    def start(
        cls, directory: Path, plan: Mapping[str, Any], reason: str, carried: Mapping[str, Any] | None = None
    ) -> Journal:
        """A new journal; its id tells when it began and where it leads."""
        started = now()
        name = f"{started[:19].replace('-', '').replace(':', '')}Z-{plan['to']}"
        content = {"id": name, "started_at": started, "finished_at": None, "reason": reason, "plan": dict(plan)}
        journal = cls(directory / f"{name}.json", content | {"done": {}, "notes": dict(carried or {})})
        journal.save()
        return journal

    @classmethod
    def open(cls, directory: Path) -> Journal | None:
        """The rollback that has not come to its end, None when there is none."""
        for path in sorted(directory.glob("*.json")):
            content = json.loads(path.read_text())
            if content["finished_at"] is None:
                return cls(path, content)
        return None

    def save(self) -> None:
        """Write it whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = self.path.with_suffix(".partial")
        with open(partial, "w") as file:
            json.dump(self.content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def done(self, step: str, **notes: Any) -> None:
        """Note that a step is done."""
        self.content["done"].setdefault(step, now())
        self.content["notes"].update(notes)
        if step == STEPS[-1]:
            self.content["finished_at"] = now()
        self.save()

    def left(self) -> list[str]:
        """The steps that are still to do."""
        return [step for step in STEPS if step not in self.content["done"]]


# ---- Gathering and steps on the release host


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


def gather(conn: Any, kept: releases.Store, given: Mapping[str, Any], target: str, data: str) -> Facts:
    """The facts of a plan; `given` is what the controller knows. Changes nothing."""
    from jobs.load import migrate
    from jobs.rollback import undo

    manifests = kept.manifests()
    wanted, chain = newest(manifests).get(target), newer(manifests, target)
    facts = {
        "manifests": manifests,
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
    versions = {one["bundle_version"] for one in newer(releases.store().manifests(), plan["to"])}
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
    plan, kept = journal.content["plan"], releases.store()
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
        objects["tree.tar.gz"] = releases.packed(tree)
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
    manifest = releases.store().latest(plan["to"])
    if manifest["deployed_at"] < journal.content["started_at"]:
        wrong.append(f"release {plan['to']} has no manifest of its new deployment")
    if wrong:
        raise RollbackError(f"release {plan['to']} is not in service as a whole: {'; '.join(wrong)}")
    return {"verified": {"level": level, "partitions": len(published), "bundle_version": manifest["bundle_version"]}}


def mark(conn: Any, journal: Journal) -> dict[str, Any]:
    """Mark the release that was taken back, and bring the ledger's copy of all manifests up to date."""
    plan, kept = journal.content["plan"], releases.store()
    if plan["from"] and kept.latest(plan["from"]):
        releases.mark(kept, plan["from"], "bad", "rollback", journal.content["reason"])
    releases.enter(conn, newest(kept.manifests()).values())
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
            gather(conn, releases.store(), given, arguments.to, arguments.data),
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
