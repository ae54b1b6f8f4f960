"""Release manifests: what every deployment consisted of, kept where no restore of the warehouse reaches.

    python -m jobs.rollback.releases record      (facts of a deployment as JSON on stdin)
    python -m jobs.rollback.releases mark RELEASE bad --because rollback --reason TEXT
    python -m jobs.rollback.releases begin RELEASE [--force] BUCKET...
    python -m jobs.rollback.releases list | compare A B | surplus DIRECTORY RELEASE

A manifest is `<release>/<serial>.json` in the releases bucket. None is ever overwritten: another deployment of the release, or a
change of its state, is a new serial. The ledger (etl.release) has a copy of the newest of each. Connects with boto3's and libpq's own
environment (AWS_*, PG*); the bucket is RELEASES_BUCKET. Prints JSON, or text for people (list, compare).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

FORMAT = 1
STATES = ("good", "bad")
BECAUSE = ("deployment", "rollback")
KEY = re.compile(r"([0-9a-f]{12}(?:-[0-9a-f]{8})?)/(\d{4})\.json")
# What makes two manifests of a release tell the same: moments and numbers aside.
STABLE = (
    "commit",
    "state",
    "environment",
    "artifacts",
    "flows",
    "parameters",
    "bundle_version",
    "jobs",
    "migration",
    "dbt",
    "owned",
)
TAKEN = {"PreconditionFailed", "412"}
ABSENT = {"NoSuchKey", "404", "NotFound"}


class ReleaseError(RuntimeError):
    """A release that is unknown, damaged or not to be deployed; the message says which and why."""


# ---- What a release tree consists of


def describe(tree: Path) -> dict[str, Any]:
    """What an unpacked release holds: digests by flow, its DAGs and units, the migration level that it brings.

    `owned` names what a deployment leaves on the platform, so that a later one, which lacks it, takes it away.
    """
    release = json.loads((tree / "RELEASE").read_text())
    flows = {path.stem: _digest(path) for path in sorted((tree / "jobs/extract/nifi/flows").glob("*.json"))}
    dags = sorted(path.stem for path in (tree / "dags").glob("*.py"))
    units = sorted(path.name for path in (tree / "jobs/units").glob("*") if path.suffix in (".service", ".timer"))
    if foreign := [unit for unit in units if not unit.startswith("etl-")]:
        raise ReleaseError(f"jobs/units: {', '.join(foreign)}: a release's units are named etl-*")
    dbt = tree / "jobs/transform/dbt"
    return {
        "release": release["id"],
        "commit": release["commit"],
        "flows": flows,
        "jobs": _digest(tree / "jobs.zip"),
        "level": len(list((tree / "jobs/load/migrations").glob("*.up.sql"))),
        "dbt": tree_digest(dbt) if (dbt / "dbt_project.yml").exists() else None,
        "owned": {
            "dags": dags,
            "files": [str(tree), *(f"/etc/systemd/system/{unit}" for unit in units)],
            "flows": sorted(flows),
            "units": units,
        },
    }


def trees(directory: Path) -> list[Path]:
    """The whole releases in a directory, by name."""
    return sorted(path.parent for path in directory.glob("*/RELEASE") if not path.parent.is_symlink())


def surplus(directory: Path, release: str, known: Iterable[Mapping[str, Any]] = ()) -> dict[str, list[str]]:
    """{"flows", "units"} that other releases own, by their trees or their manifests, and this one does not."""
    own = describe(directory / release)["owned"]
    others = [describe(tree)["owned"] for tree in trees(directory)] + [manifest["owned"] for manifest in known]
    return {
        kind: sorted({name for owned in others for name in owned[kind]} - set(own[kind])) for kind in ("flows", "units")
    }


def tree_digest(tree: Path) -> str:
    """One SHA-256 over names and contents of the files below a directory."""
    digest = hashlib.sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(tree)}\0{_digest(path)}\0".encode())
    return digest.hexdigest()


def packed(tree: Path) -> bytes:
    """The tree as a compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tree, arcname=".", filter=lambda member: None if "__pycache__" in member.name else member)
    return buffer.getvalue()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- Manifests


def build(tree: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a deployment, without serial and checksum.

    `facts`: what the tree does not tell: environment, artifacts, parameters, bundle_version, migration, since, replaces, terraform,
    and (default good) state, because, reason.
    """
    described = describe(tree)
    state, because = facts.get("state") or "good", facts.get("because") or None
    if state not in STATES or (because is not None and because not in BECAUSE):
        raise ReleaseError(f"state {state!r} because of {because!r}: known are {STATES} because of {BECAUSE}")
    return {
        "format": FORMAT,
        "release": described["release"],
        "commit": described["commit"],
        "state": state,
        "because": because,
        "reason": facts.get("reason") or None,
        "environment": facts["environment"],
        "deployed_at": now(),
        "replaces": facts.get("replaces") or None,
        "since": facts["since"],
        "artifacts": facts.get("artifacts") or {},
        "flows": described["flows"],
        "parameters": facts.get("parameters") or {},
        "bundle_version": facts.get("bundle_version") or None,
        "jobs": described["jobs"],
        "migration": facts["migration"],
        "dbt": described["dbt"],
        "terraform": facts.get("terraform") or None,
        "owned": described["owned"],
    }


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest's canonical JSON without its own `sha256`."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Whether two manifests tell the same deployment, apart from when it was."""
    return one is not None and all(one.get(key) == other.get(key) for key in STABLE)


def now() -> str:
    """The moment as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """The manifests in the object store. Objects are only ever added."""

    def __init__(self, s3: Any, bucket: str):
        self.s3, self.bucket = s3, bucket

    def add(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write a manifest under the next serial of its release; returns it with serial and checksum."""
        while True:
            serial = max(self._serials(manifest["release"]), default=0) + 1
            whole = {**manifest, "serial": serial}
            whole["sha256"] = checksum(whole)
            if self.put(f"{manifest['release']}/{serial:04d}.json", json.dumps(whole, indent=1).encode()):
                return whole

    def put(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet; False when it is."""
        from botocore.exceptions import ClientError

        try:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=content, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in TAKEN:
                return False
            raise
        return True

    def manifests(self) -> list[dict[str, Any]]:
        """Every manifest, oldest deployment first. Raises ReleaseError when one is not what was written."""
        found = [self._read(key) for key in self._keys() if KEY.fullmatch(key)]
        return sorted(found, key=lambda manifest: (manifest["deployed_at"], manifest["serial"]))

    def latest(self, release: str) -> dict[str, Any] | None:
        """The newest manifest of a release, None when it has none."""
        serials = self._serials(release)
        return self._read(f"{release}/{max(serials):04d}.json") if serials else None

    def _serials(self, release: str) -> list[int]:
        return [int(match[2]) for key in self._keys(f"{release}/") if (match := KEY.fullmatch(key))]

    def _keys(self, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def _read(self, key: str) -> dict[str, Any]:
        manifest = json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        if manifest.get("sha256") != checksum(manifest):
            raise ReleaseError(f"s3://{self.bucket}/{key} is not what was written: its checksum does not fit")
        if manifest["format"] > FORMAT:
            raise ReleaseError(
                f"s3://{self.bucket}/{key} has format {manifest['format']}, this code knows {FORMAT}: use newer code"
            )
        return manifest


def newest(manifests: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The newest manifest of each release, in order of deployment."""
    found: dict[str, dict[str, Any]] = {}
    for manifest in sorted(manifests, key=lambda one: (one["deployed_at"], one["serial"])):
        found.pop(manifest["release"], None)
        found[manifest["release"]] = dict(manifest)
    return found


def mark(store: Store, release: str, state: str, because: str, reason: str) -> dict[str, Any]:
    """Give a release a state; returns the manifest that says so, the present one when it says so already."""
    manifest = store.latest(release)
    if manifest is None:
        raise ReleaseError(f"release {release} is unknown: it has no manifest in s3://{store.bucket}")
    if (manifest["state"], manifest["because"]) == (state, because):
        return manifest
    return store.add(manifest | {"state": state, "because": because, "reason": reason, "marked_at": now()})


def require_deployable(manifest: Mapping[str, Any] | None, force: bool = False) -> None:
    """Raise ReleaseError for a release that was taken back; a deployment that merely failed may be tried again."""
    if manifest and not force and manifest["state"] == "bad" and manifest["because"] == "rollback":
        raise ReleaseError(
            f"release {manifest['release']} was taken back and is marked bad ({manifest['reason']}): "
            "check out another commit, or insist with -e force=true"
        )


def moment(s3: Any, bucket: str, buckets: Iterable[str]) -> dict[str, Any]:
    """{"time", "buckets": {name: time}} by the store's own clock, which stamps the versions of objects."""
    answer = s3.head_bucket(Bucket=bucket)
    time = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC).isoformat()
    return {"time": time, "buckets": {name: time for name in sorted(buckets)}}


def enter(conn: Any, manifests: Iterable[Mapping[str, Any]]) -> None:
    """Bring the ledger's copy up to date: a restored warehouse has an older one."""
    with conn.transaction(), conn.cursor() as cursor:
        for manifest in manifests:
            cursor.execute(
                """
                insert into etl.release as r (release, commit, serial, deployed_at, state, reason, manifest)
                values (%(release)s, %(commit)s, %(serial)s, %(deployed_at)s, %(state)s, %(reason)s, %(manifest)s)
                on conflict (release) do update set
                    commit = excluded.commit,
                    serial = excluded.serial,
                    deployed_at = excluded.deployed_at,
                    state = excluded.state,
                    reason = excluded.reason,
                    manifest = excluded.manifest
                where r.serial is distinct from excluded.serial or r.state <> excluded.state
                """,
                {**manifest, "manifest": json.dumps(manifest)},
            )


# ---- For people


def listing(manifests: Iterable[Mapping[str, Any]], current: str | None = None) -> str:
    """A line a release, newest first; `*` is the one in service."""
    lines = [f"  {'release':<22}{'deployed (UTC)':<18}{'state':<7}{'level':<7}{'flows, DAGs, units':<20}reason"]
    for manifest in reversed(list(newest(manifests).values())):
        owned = manifest["owned"]
        counts = ", ".join(str(len(owned[kind])) for kind in ("flows", "dags", "units"))
        sign = "*" if manifest["release"] == current else " "
        lines.append(
            f"{sign} {manifest['release']:<22}{manifest['deployed_at'][:16].replace('T', ' '):<18}{manifest['state']:<7}"
            f"{manifest['migration']:<7}{counts:<20}{manifest['reason'] or ''}".rstrip()
        )
    return "\n".join(lines if len(lines) > 1 else ["  no release has a manifest yet"])


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, in `one`, in `other`) for all that differs between two manifests."""
    found = []
    for what in ("commit", "state", "jobs", "bundle_version", "migration", "dbt"):
        if one[what] != other[what]:
            found.append((what.replace("_", " "), _short(one[what]), _short(other[what])))
    for what in ("flows", "artifacts", "parameters"):
        found += _changed(what.removesuffix("s"), _flat(one[what]), _flat(other[what]))
    for what in ("dags", "units"):
        absent = {name: "" for name in {*one["owned"][what], *other["owned"][what]}}
        sides = [absent | dict.fromkeys(side["owned"][what], "there") for side in (one, other)]
        found += _changed({"dags": "DAG", "units": "unit"}[what], *sides)
    if (one["terraform"] or {}) != (other["terraform"] or {}):
        found.append(("terraform serial", *(_short((side["terraform"] or {}).get("serial")) for side in (one, other))))
    return found


def comparison(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs, a line each."""
    rows = differences(one, other)
    width = max((len(what) for what, _, _ in rows), default=0) + 2
    lines = [f"  {'':<{width}}{one['release']:<24}{other['release']}"]
    lines += [f"  {what:<{width}}{before:<24}{after}".rstrip() for what, before, after in rows]
    return "\n".join(lines if rows else [f"  {one['release']} and {other['release']} consist of the same"])


def _changed(label: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f"{label} {name}", _short(before.get(name)), _short(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "sha256" not in value:
            flat |= {f"{name}.{key}": str(digest) for key, digest in value.items()}
        else:
            flat[name] = value["sha256"] if isinstance(value, Mapping) else str(value)
    return flat


def _short(value: Any) -> str:
    text = "-" if value in (None, "") else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,64}", text) else text[:22]


# ---- Command line


def store() -> Store:
    """The store that the environment names."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5})
    )
    return Store(client, os.environ["RELEASES_BUCKET"])


def record(kept: Store, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of the deployment in `facts` unless the newest one tells the same; enter all in the ledger."""
    import psycopg

    tree = Path(facts["tree"])
    manifest = build(tree, facts)
    present = kept.latest(manifest["release"])
    changed = not same(present, manifest)
    if changed:
        kept.put(f"{manifest['release']}/tree-{tree_digest(tree)[:12]}.tar.gz", packed(tree))
        present = kept.add(manifest)
    with psycopg.connect("") as connection:
        enter(connection, newest(kept.manifests()).values())
    return {"changed": changed, "release": present["release"], "serial": present["serial"], "state": present["state"]}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.rollback.releases", description="Manifests of the releases.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record", help="write the manifest of a deployment (facts as JSON on stdin)")
    marking = verbs.add_parser("mark", help="give a release a state")
    marking.add_argument("release")
    marking.add_argument("state", choices=STATES)
    marking.add_argument("--because", choices=BECAUSE, required=True)
    marking.add_argument("--reason", required=True)
    beginning = verbs.add_parser(
        "begin", help="fail when a release may not be deployed; print its next serial and the moment"
    )
    beginning.add_argument("release")
    beginning.add_argument("buckets", nargs="*")
    beginning.add_argument("--force", action="store_true", help="although it was taken back")
    verbs.add_parser("list", help="the releases, for people").add_argument("--current")
    comparing = verbs.add_parser("compare", help="what differs between two, for people")
    comparing.add_argument("one")
    comparing.add_argument("other")
    beyond = verbs.add_parser("surplus", help="flows and units that other releases own and this one does not")
    beyond.add_argument("directory", type=Path)
    beyond.add_argument("release")
    arguments = parser.parse_args(argv)
    try:
        print(_run(arguments, store()))
    except (ReleaseError, OSError) as error:
        print(f"releases: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, kept: Store) -> str:
    match arguments.verb:
        case "record":
            return json.dumps(record(kept, json.load(sys.stdin)))
        case "mark":
            import psycopg

            manifest = mark(kept, arguments.release, arguments.state, arguments.because, arguments.reason)
            with psycopg.connect("") as connection:
                enter(connection, [manifest])
            return json.dumps({key: manifest[key] for key in ("release", "serial", "state", "reason")})
        case "begin":
            describe(Path.cwd())
            present = kept.latest(arguments.release)
            require_deployable(present, arguments.force)
            serial = (present["serial"] if present else 0) + 1
            return json.dumps({"serial": serial, "since": moment(kept.s3, kept.bucket, arguments.buckets)})
        case "list":
            return listing(kept.manifests(), arguments.current)
        case "compare":
            known = newest(kept.manifests())
            missing = [name for name in (arguments.one, arguments.other) if name not in known]
            if missing:
                raise ReleaseError(f"unknown: {', '.join(missing)}. Known are {', '.join(known) or 'none'}")
            return comparison(known[arguments.one], known[arguments.other])
        case "surplus":
            return json.dumps(surplus(arguments.directory, arguments.release, newest(kept.manifests()).values()))
    raise AssertionError(arguments.verb)


if __name__ == "__main__":
    sys.exit(main())
