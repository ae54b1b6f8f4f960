r"""Rewinds a bucket of Google Cloud Storage to a moment: generations that were replaced or deleted since.

    python -m jobs.rollback.rollback_gcs --bucket raw [--prefix flights_db/] --to 2026-11-24T22:00:00Z [--keep _publications/] \
        [--dry-run] [--journal FILE]

Credentials are Google's own (GOOGLE_APPLICATION_CREDENTIALS, ...). A JSON summary goes to standard output, progress to standard
error. Exit status: 0 everything is as it was, 1 refused or not, 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from google.api_core.exceptions import NotFound
from google.cloud import storage
from requests.adapters import HTTPAdapter

from jobs.rollback import rewind
from jobs.rollback.rewind import CopyDiffers, Version

CHUNK = 1 << 20


class GcsStore:
    """One bucket."""

    batch = 1

    def __init__(self, client: storage.Client, bucket: str) -> None:
        self.url, self._client, self._bucket = f"gs://{bucket}", client, client.bucket(bucket)

    def doubts(self, prefix: str, to: datetime, now: datetime) -> tuple[list[str], list[str]]:
        self._bucket.reload()
        if not self._bucket.versioning_enabled:
            return ["its versioning is off"], []
        return [], [
            why
            for rule in self._bucket.lifecycle_rules
            if rule["action"]["type"] == "Delete" and (why := _expired(rule["condition"], prefix, to, now))
        ]

    def histories(self, prefix: str) -> Iterator[list[Version]]:
        # "true" and not True: what is sent is the text of the value.
        blobs = self._client.list_blobs(self._bucket, prefix=prefix or None, versions="true")
        for _, generations in groupby(blobs, key=lambda blob: blob.name):
            yield _history(sorted(generations, key=lambda blob: int(blob.generation)))

    def same(self, one: Version, other: Version) -> bool:
        return (one.size, one.digest) == (other.size, other.digest)

    def copy(self, version: Version, over: Version | None) -> Version:
        source = self._bucket.blob(version.key, generation=int(version.id))
        made = self._bucket.blob(version.key)
        # Only while it is still what was seen (0: not there); a rewrite keeps metadata and comes in steps when it is large.
        expected, token = int(over.id) if over else 0, None
        while True:
            token, _, _ = made.rewrite(source, token=token, if_generation_match=expected)
            if token is None:
                break
        if (made.size, made.crc32c) != (version.size, version.digest):
            raise CopyDiffers(f"CRC32C {made.crc32c} of {made.size} bytes, not {version.digest} of {version.size}")
        return Version(version.key, str(made.generation), version.created, version.size, version.digest)

    def remove(self, versions: list[Version]) -> dict[str, str]:
        for version in versions:
            # Without a generation of its own: with one the version would be gone for good.
            try:
                self._bucket.blob(version.key).delete(if_generation_match=int(version.id))
            except NotFound:
                if self._bucket.get_blob(version.key) is not None:
                    raise
        return {}

    def read(self, version: Version) -> Iterable[bytes]:
        with self._bucket.blob(version.key, generation=int(version.id), chunk_size=CHUNK).open("rb") as stream:
            while piece := stream.read(CHUNK):
                yield piece


def _history(generations: list[storage.Blob]) -> list[Version]:
    """Versions of one key, newest first; where a generation ended before the next began, a mark that the object was deleted."""
    found = []
    for blob, following in zip(generations, [*generations[1:], None], strict=True):
        found.append(Version(blob.name, str(blob.generation), blob.time_created, blob.size, blob.crc32c))
        if blob.time_deleted and (following is None or blob.time_deleted < following.time_created):
            found.append(Version(blob.name, "", blob.time_deleted, deleted=True))
    return found[::-1]


def _expired(condition: dict[str, Any], prefix: str, to: datetime, now: datetime) -> str | None:
    """Why a rule that deletes may have taken former versions of that moment; None when it cannot have."""
    only = condition.get("matchesPrefix")
    if only and not any(prefix.startswith(one) or one.startswith(prefix) for one in only):
        return None
    if condition.get("isLive"):
        return None  # a live object becomes a former version
    if days := condition.get("daysSinceNoncurrentTime"):
        return (
            f"former versions expire after {days} days, and {to.isoformat()} is longer ago"
            if to < now - timedelta(days=days)
            else None
        )
    return f"a rule deletes former versions by {', '.join(sorted(set(condition) - {'isLive', 'matchesPrefix'}))}"


def open_store(bucket: str, workers: int) -> GcsStore:
    """The bucket by Google's own configuration, with a connection for each worker."""
    client = storage.Client()
    client._http.mount("https://", HTTPAdapter(pool_maxsize=workers))
    return GcsStore(client, bucket)


if __name__ == "__main__":
    sys.exit(rewind.main(sys.argv[1:], __doc__, open_store))
