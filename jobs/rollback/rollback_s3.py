r"""Rewinds a bucket of an S3 store to a moment: versions and delete markers.

    python -m jobs.rollback.rollback_s3 --bucket raw [--prefix flights_db/] --to 2026-11-24T22:00:00Z [--keep _publications/] \
        [--dry-run] [--journal FILE]

Credentials and endpoint are boto3's own (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, ...). A JSON
summary goes to standard output, progress to standard error. Exit status: 0 everything is as it was, 1 refused or not, 2 wrong usage.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from jobs.rollback import rewind
from jobs.rollback.rewind import CopyDiffers, Version

GIB = 1 << 30
COPY_LIMIT = 5 * GIB  # of one CopyObject; also the size of a part
KEPT_HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
MADE_FROM = "rewound-from"  # metadata: version id


class S3Store:
    """One bucket. `copy_limit` is the largest object, in bytes, that is copied by one request."""

    batch = 1000

    def __init__(self, client: Any, bucket: str, workers: int = 16, copy_limit: int = COPY_LIMIT) -> None:
        self.url, self._bucket, self._client, self._limit = f"s3://{bucket}", bucket, client, copy_limit
        self._parts = ThreadPoolExecutor(workers)
        # Versions and delete markers come in one order, which the parsed answer, two lists, no longer has.
        client.meta.events.register("before-parse.s3.ListObjectVersions", _keep_order)

    def doubts(self, prefix: str, to: datetime, now: datetime) -> tuple[list[str], list[str]]:
        status = self._client.get_bucket_versioning(Bucket=self._bucket).get("Status", "never on")
        if status != "Enabled":
            return [f"its versioning is {status.lower()}"], []
        try:
            rules = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                raise
            rules = []
        return [], [
            f"former versions expire after {days} days, and {to.isoformat()} is longer ago (rule {rule.get('ID', '?')})"
            for rule in rules
            if rule["Status"] == "Enabled"
            and (days := rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"))
            and _overlap(prefix, _prefix_of(rule))
            and to < now - timedelta(days=days)
        ]

    def histories(self, prefix: str) -> Iterator[list[Version]]:
        for _, versions in groupby(self._entries(prefix), key=lambda version: version.key):
            yield list(versions)

    def _entries(self, prefix: str) -> Iterator[Version]:
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            found: dict[bool, Iterator[dict]] = {
                deleted: iter(page.get(name, ())) for deleted, name in ((False, "Versions"), (True, "DeleteMarkers"))
            }
            for deleted in page["Order"]:
                entry = next(found[deleted])
                yield Version(
                    entry["Key"],
                    entry["VersionId"],
                    entry["LastModified"],
                    entry.get("Size", 0),
                    entry.get("ETag", ""),
                    deleted,
                )

    def same(self, one: Version, other: Version) -> bool:
        if one.size != other.size or one.digest == other.digest:
            return one.size == other.size
        # The ETag of an object that was too large for one request and is in parts now tells nothing of its content.
        if self._fits(one) or "-" not in other.digest:
            return False
        head = self._client.head_object(Bucket=self._bucket, Key=other.key, VersionId=other.id)
        return head["Metadata"].get(MADE_FROM) == one.id

    def _fits(self, version: Version) -> bool:
        return "-" in version.digest or version.size <= self._limit

    def copy(self, version: Version, over: Version | None) -> Version:
        source = {"Bucket": self._bucket, "Key": version.key, "VersionId": version.id}
        if "-" not in version.digest and self._fits(version):
            answer = self._client.copy_object(
                Bucket=self._bucket, Key=version.key, CopySource=source, CopySourceIfMatch=version.digest
            )
            made, etag = answer["VersionId"], answer["CopyObjectResult"]["ETag"]
        else:
            made, etag = self._copy_parts(version, source)
        copied = replace(version, id=made, digest=etag)
        if self._fits(version):
            if etag != version.digest:
                raise CopyDiffers(f"ETag {etag}, not {version.digest}")
        elif (found := rewind.sha256(self, copied)) != (wanted := rewind.sha256(self, version)):
            raise CopyDiffers(f"SHA-256 {found}, not {wanted}")
        return copied

    def _copy_parts(self, version: Version, source: dict[str, str]) -> tuple[str, str]:
        """Copy part by part, cut as the source was: then equal content has an equal ETag. Returns (version id, ETag)."""
        named = {"Bucket": self._bucket, "Key": version.key}
        head = self._client.head_object(**named, VersionId=version.id)
        tags = self._client.get_object_tagging(**named, VersionId=version.id)["TagSet"]
        kept = {name: head[name] for name in KEPT_HEADERS if head.get(name)}
        kept["Metadata"] = head["Metadata"] | ({} if self._fits(version) else {MADE_FROM: version.id})
        if tags:
            kept["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
        upload = named | {"UploadId": self._client.create_multipart_upload(**named, **kept)["UploadId"]}

        def copy(number: int, first: int, size: int) -> dict[str, Any]:
            if not size:
                return {"PartNumber": 1, "ETag": self._client.upload_part(**upload, PartNumber=1, Body=b"")["ETag"]}
            answer = self._client.upload_part_copy(
                **upload,
                PartNumber=number,
                CopySource=source,
                CopySourceRange=f"bytes={first}-{first + size - 1}",
                CopySourceIfMatch=version.digest,
            )
            return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

        try:
            parts, first = [], 0
            for number, size in enumerate(self._part_sizes(version), 1):
                parts.append(self._parts.submit(copy, number, first, size))
                first += size
            listed = {"Parts": [part.result() for part in parts]}
            done = self._client.complete_multipart_upload(**upload, MultipartUpload=listed)
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise
        return done["VersionId"], done["ETag"]

    def _part_sizes(self, version: Version) -> list[int]:
        if not self._fits(version):
            whole, rest = divmod(version.size, self._limit)
            return [self._limit] * whole + [rest] * (rest > 0)
        count = int(version.digest.strip('"').partition("-")[2])
        if count == 1:
            return [version.size]

        def size(number: int) -> int:
            return self._client.head_object(
                Bucket=self._bucket, Key=version.key, VersionId=version.id, PartNumber=number
            )["ContentLength"]

        return list(self._parts.map(size, range(1, count + 1)))

    def remove(self, versions: list[Version]) -> dict[str, str]:
        answer = self._client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": version.key} for version in versions], "Quiet": True}
        )
        return {error["Key"]: f"{error['Code']}: {error['Message']}" for error in answer.get("Errors", ())}

    def read(self, version: Version) -> Iterable[bytes]:
        answer = self._client.get_object(Bucket=self._bucket, Key=version.key, VersionId=version.id)
        return answer["Body"].iter_chunks(1 << 20)


def _keep_order(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Add `Order` to a listing: for each of its entries, as they come, whether it is a delete marker."""
    if response_dict["status_code"] == 200:
        names = [child.tag.rpartition("}")[2] for child in ElementTree.fromstring(response_dict["body"])]
        customized_response_dict["Order"] = [
            name == "DeleteMarker" for name in names if name in ("Version", "DeleteMarker")
        ]


def _prefix_of(rule: dict[str, Any]) -> str:
    given = rule.get("Filter", {})
    return rule.get("Prefix") or given.get("Prefix") or given.get("And", {}).get("Prefix") or ""


def _overlap(one: str, other: str) -> bool:
    """Whether keys can begin with both."""
    return one.startswith(other) or other.startswith(one)


def open_store(bucket: str, workers: int) -> S3Store:
    """The bucket by boto3's own configuration, with a connection for each worker and its parts."""
    config = Config(max_pool_connections=2 * workers, retries={"mode": "standard", "max_attempts": 8})
    return S3Store(boto3.client("s3", config=config), bucket, workers)


if __name__ == "__main__":
    sys.exit(rewind.main(sys.argv[1:], __doc__, open_store))
