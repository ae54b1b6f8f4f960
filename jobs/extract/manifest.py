"""Raw objects and their sealed manifests.

NiFi puts the parts of one extract under `<connection>/<dataset>/dt=<from>/run_id=<run>/attempt=<n>/` and seals them with
`_manifest.json`, put last and never overwritten. What no sealed manifest lists does not exist for a consumer.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

MANIFEST, FAILURE = "_manifest.json", "_failure.json"
NOT_ASKED = "none"  # in the place of a manifest's URL: the source has nothing of the run's interval
TIME = "%Y-%m-%d %H:%M:%S"
ABSENT = {"NoSuchKey", "404", "NotFound"}


class Run(Protocol):
    """What is known of a run here; `jobs.load.ledger.Run` is one."""

    run_id: str
    pipeline: str
    interval_from: datetime
    interval_to: datetime


@dataclass(frozen=True)
class File:
    """One raw object: `key` in the bucket, size in bytes, rows (None for a file taken as it is), SHA-256 in hex, and the name
    that a file had at its source."""

    key: str
    rows: int | None
    bytes: int
    sha256: str
    name: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A sealed manifest and where it lies."""

    run_id: str
    attempt: int
    pipeline: str
    source: str
    dataset: str
    interval_from: str
    interval_to: str
    format: str
    flow_version: str
    extracted_at: str
    files: tuple[File, ...]
    bucket: str
    key: str

    @property
    def url(self) -> str:
        """Where Spark reads it: s3a://bucket/key."""
        return f"s3a://{self.bucket}/{self.key}"

    @property
    def rows(self) -> int | None:
        """Rows of all files; None when files were taken as they are."""
        counts = [file.rows for file in self.files]
        return None if None in counts else sum(counts)


def bound(moment: datetime) -> str:
    """A bound as requests and manifests have it, without offset: `2013-01-01 00:00:00`."""
    return moment.strftime(TIME)


def prefix(connection: str, dataset: str, run: Run) -> str:
    """Where the attempts of a run's extract lie, with a slash at the end."""
    return f"{connection}/{dataset}/dt={run.interval_from:%Y-%m-%d}/run_id={run.run_id}/"


def attempts(s3: Any, bucket: str, connection: str, dataset: str, run: Run) -> list[int]:
    """Numbers of the attempts that left anything, ascending."""
    start = prefix(connection, dataset, run)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start, Delimiter="/")
    found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
    return sorted(
        int(match[1]) for name in found if (match := re.fullmatch(r"attempt=(\d+)/", name.removeprefix(start)))
    )


def next_attempt(s3: Any, bucket: str, connection: str, dataset: str, run: Run) -> int:
    """The first number that no attempt has used."""
    return max(attempts(s3, bucket, connection, dataset, run), default=0) + 1


def read(s3: Any, bucket: str, key: str) -> Manifest | None:
    """The sealed manifest at a key, None when there is none."""
    document = read_json(s3, bucket, key)
    if document is None:
        return None
    files = tuple(
        File(
            key=file["key"],
            rows=None if file["rows"] in (None, "") else int(file["rows"]),
            bytes=int(file["bytes"]),
            sha256=file["sha256"],
            name=file.get("name"),
        )
        for file in document.pop("files")
    )
    return Manifest(
        interval_from=document.pop("from"),
        interval_to=document.pop("to"),
        attempt=int(document.pop("attempt")),
        files=files,
        bucket=bucket,
        key=key,
        **document,
    )


def find_sealed(s3: Any, bucket: str, connection: str, dataset: str, run: Run) -> Manifest | None:
    """The latest sealed manifest of this very run and interval, None when no attempt was sealed."""
    start = prefix(connection, dataset, run)
    for attempt in reversed(attempts(s3, bucket, connection, dataset, run)):
        sealed = read(s3, bucket, f"{start}attempt={attempt}/{MANIFEST}")
        if sealed and (sealed.interval_from, sealed.interval_to) == (bound(run.interval_from), bound(run.interval_to)):
            return sealed
    return None


def read_json(s3: Any, bucket: str, key: str) -> dict[str, Any] | None:
    """An object as JSON, None when there is none."""
    try:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except Exception as error:
        # botocore's class of the error is made at run time; its code is what counts
        if getattr(error, "response", {}).get("Error", {}).get("Code") in ABSENT:
            return None
        raise
    return json.loads(body)
