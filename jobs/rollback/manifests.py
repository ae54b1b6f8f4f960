"""Release manifests: what every deployment consisted of, kept where no restore of the warehouse reaches.

A manifest is `<release>/<serial>.json` in the releases bucket. None is ever overwritten: another deployment of the release, or a
change of its state, is a new serial. The ledger (etl.release) has a copy of the newest of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from jobs.rollback.release_tree import ReleaseError, describe

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


def serving(manifests: Iterable[Mapping[str, Any]]) -> str | None:
    """The release of the newest deployment that did not fail, None before there is one."""
    served = [one for one in manifests if one["because"] != "deployment"]
    return max(served, key=lambda one: (one["deployed_at"], one["serial"]))["release"] if served else None


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
    return {"time": time, "buckets": dict.fromkeys(sorted(buckets), time)}


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


def store() -> Store:
    """The store that the environment names."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5})
    )
    return Store(client, os.environ["RELEASES_BUCKET"])
