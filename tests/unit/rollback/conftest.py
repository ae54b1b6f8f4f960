"""Both stores, each behind the few verbs that a test of the contract needs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from jobs.rollback.rollback_gcs import GcsStore
from jobs.rollback.rollback_s3 import S3Store
from tests import stores


class S3:
    """Buckets of a MinIO server."""

    kind = "s3"

    def __init__(self, url: str) -> None:
        self.url, self._numbers = url, itertools.count()
        self.environment = {"AWS_ACCESS_KEY_ID": stores.USER, "AWS_SECRET_ACCESS_KEY": stores.PASSWORD}
        self.environment |= {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        self.client = stores.client(url, max_pool_connections=32)

    def bucket(self, versioned: bool = True) -> str:
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def store(self, bucket: str, **more: Any) -> S3Store:
        return S3Store(self.client, bucket, **more)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content, ContentType="text/x-test", Metadata={"by": "test"})

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def live(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def kept(self, bucket: str, key: str) -> tuple[str, dict[str, str]]:
        """Content type and metadata of a live object."""
        head = self.client.head_object(Bucket=bucket, Key=key)
        return head["ContentType"], head["Metadata"]

    def versions(self, bucket: str) -> int:
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=bucket)
        return sum(len(page.get("Versions", ())) for page in pages)

    def expire(self, bucket: str, days: int) -> None:
        rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}}
        rule["NoncurrentVersionExpiration"] = {"NoncurrentDays": days}
        self.client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})


class Gcs:
    """Buckets of a fake-gcs-server."""

    kind = "gcs"

    def __init__(self, url: str) -> None:
        self.url, self._numbers = url, itertools.count()
        self.environment = {"STORAGE_EMULATOR_HOST": url, "GOOGLE_CLOUD_PROJECT": "test"}
        self.client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": url}
        )

    def bucket(self, versioned: bool = True) -> str:
        bucket = self.client.bucket(f"bucket-{next(self._numbers)}")
        bucket.versioning_enabled = versioned
        return self.client.create_bucket(bucket).name

    def store(self, bucket: str, **_: Any) -> GcsStore:
        return GcsStore(self.client, bucket)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        blob = self.client.bucket(bucket).blob(key)
        blob.metadata = {"by": "test"}
        blob.upload_from_string(content, content_type="text/x-test")

    def delete(self, bucket: str, key: str) -> None:
        if blob := self.client.bucket(bucket).get_blob(key):
            self.client.bucket(bucket).blob(blob.name).delete()

    def live(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        return {blob.name: blob.download_as_bytes() for blob in self.client.list_blobs(bucket, prefix=prefix or None)}

    def kept(self, bucket: str, key: str) -> tuple[str, dict[str, str]]:
        blob = self.client.bucket(bucket).get_blob(key)
        return blob.content_type, blob.metadata

    def versions(self, bucket: str) -> int:
        return len(list(self.client.list_blobs(bucket, versions="true")))


@pytest.fixture(scope="session")
def minio():
    with stores.minio() as url:
        yield S3(url)


@pytest.fixture(scope="session")
def fake_gcs():
    with stores.fake_gcs() as url:
        assert requests.get(f"{url}/storage/v1/b", timeout=10).ok
        yield Gcs(url)


@pytest.fixture(scope="session", params=["minio", "fake_gcs"])
def remote(request):
    """Each store in turn: one contract for both."""
    return request.getfixturevalue(request.param)
