"""The plan of a way back to an earlier release, from facts alone: what changes on every layer, what would be lost, what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.rollback.manifests import newest, now

LOST = "would lose"


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


def restored_to(cut: Mapping[str, Any]) -> str:
    """The moment to which a restore of the warehouse leads: of a deployment that was killed and run again, the one before both."""
    point = (cut.get("restore_point") or {}).get("time")
    return min((cut["time"], point), key=datetime.fromisoformat) if point else cut["time"]


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
    if target == facts.current or not (chain or facts.current):
        found.append(f"release {target} is in service already; there is nothing newer to take back")
    elif facts.current and facts.current not in {one["release"] for one in chain}:
        found.append(
            f"release {facts.current} is in service, and its deployment did not come to its end: run playbooks/release.yml again,"
            f" from its commit or from that of {target}"
        )
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
    goes_down = _choose_means(document, facts)
    document["layers"] += [
        {"layer": "schema", "what": _schema(facts, wanted, goes_down)},
        {"layer": "published data", "what": _published(document, facts)},
    ]
    _buckets(document, facts)


def _restore_point(document: Mapping[str, Any]) -> str | None:
    return (document["cut"].get("restore_point") or {}).get("name")


def _choose_means(document: dict[str, Any], facts: Facts) -> bool:
    """Choose the cheapest means that suffices: nothing, swapping partitions back, objects' versions, the database's log.

    Returns whether the schema can go down by its own migrations.
    """
    reason, undo = facts.down.get("refused"), facts.undo
    if reason and document["data"] == "restore" and undo and LOST in reason and _taken_back(reason, undo):
        reason = None  # the rows that the way down would lose are the rows that go back
        document["notes"].append(f"The schema goes down once the newer rows are back: {facts.down['refused']}")
    why = [f"the schema cannot go down: {reason}"] if reason else []
    if document["data"] == "restore":
        why += [
            f"run {each['run_id']} cannot be taken back: {each['reason']}" for each in (undo or {}).get("refusals", ())
        ]
    if why and document["data"] == "keep":
        document["refused"] += [f"{each}; -e data=restore can take the data back too" for each in why]
    elif why and (missing := _not_restorable(document, facts, _restore_point(document))):
        document["refused"] += [*why, missing]
    elif why:
        document["method"] = "restore"
        document["notes"] += why
    elif document["data"] == "restore" and undo and undo["runs"]:
        document["method"] = "undo"
    if document["method"]:
        document["runs"] = [run["run_id"] for run in (undo or {}).get("runs", ())]
    return not reason


def _schema(facts: Facts, wanted: Mapping[str, Any], goes_down: bool) -> str:
    what = f"level {facts.level} → {wanted['migration']}" if facts.level > wanted["migration"] else "stays"
    applied = facts.down.get("applied") or []
    return f"{what} (takes back {', '.join(applied)})" if applied and goes_down else what


def _published(document: dict[str, Any], facts: Facts) -> str:
    """What becomes of the published data; what is lost by it is added up."""
    undo = facts.undo
    if document["method"]:
        runs, rows = facts.since if document["method"] == "restore" else (len(undo["runs"]), undo["rows_now"])
        cut = document["cut"]
        minutes = _minutes(restored_to(cut) if document["method"] == "restore" else cut["time"], facts.now)
        document["lost"] |= {"runs": runs, "rows": rows, "minutes": minutes}
    if document["method"] == "restore":
        return f"is restored to the restore point {_restore_point(document)}; Airflow's metadata stay"
    if document["method"] == "undo":
        return f"{len(undo['partitions'])} partitions are swapped back: {undo['rows_now']} rows become {undo['rows_after']}"
    if document["data"] == "restore":
        return "no newer release has published anything that stands: nothing to take back"
    return f"stay, with {facts.since[1]} rows in partitions that {facts.since[0]} runs published since"


def _buckets(document: dict[str, Any], facts: Facts) -> None:
    """The buckets in which something was overwritten or deleted."""
    document["rewind"] = []
    for name, summary in sorted(facts.rewind.items()):
        actions = summary["actions"]
        if not actions["replaced"] + actions["restored"]:
            continue
        document["rewind"].append(name)
        document["lost"]["objects"] += actions["replaced"]
        document["notes"] += summary["warnings"]
        what = (
            f"goes back to {document['cut']['time']}: {actions['replaced']} overwritten and {actions['restored']} deleted objects"
            " return; what came since stays, every run writes under prefixes of its own"
        )
        document["layers"].append({"layer": f"bucket {name}", "what": what})
    if not document["rewind"]:
        document["layers"].append({"layer": "objects", "what": "stay: every run writes under prefixes of its own"})


def _not_restorable(document: Mapping[str, Any], facts: Facts, point: str | None) -> str | None:
    if not facts.restorable:
        return "and the warehouse cannot be restored: this environment has no backups (group pgbackrest is empty)"
    if not point:
        return f"and the warehouse cannot be restored: release {document['releases'][0]} came without a restore point"
    age = _minutes(restored_to(document["cut"]), facts.now) / 1440
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
