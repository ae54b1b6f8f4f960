"""The policies that the role minio makes from its defaults let each user do what it must, and nothing else."""

import time
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import pytest
from botocore.exceptions import ClientError

from jobs.rollback.rewind import rewind
from jobs.rollback.rollback_s3 import S3Store
from tests import stores

BUCKETS = ("raw", "curated", "quarantine", "releases", "backups", "logs", "snapshots")
PUT, GET, DELETE, LIST = "s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"

# What the pipeline's parts do with buckets (docs/architecture), written down here a second time on purpose.
RIGHTS = {
    "etl-nifi": {"raw": {PUT, GET, LIST}},
    "etl-spark": {
        "raw": {GET, LIST},
        "curated": {PUT, GET, DELETE, LIST},
        "quarantine": {PUT, GET, LIST},
        "logs": {PUT, GET, DELETE, LIST},
    },
    "etl-airflow": {
        "raw": {GET, LIST},
        "curated": {GET, LIST},
        "quarantine": {PUT, GET, LIST},
        "logs": {PUT, GET, LIST},
        "releases": {GET, LIST},
    },
    "etl-release": {"releases": {PUT, GET, LIST}},
    "etl-backup": {"backups": {PUT, GET, DELETE, LIST}},
    "etl-file-backup": {},
    "etl-rollback": {bucket: {PUT, GET, DELETE, LIST} for bucket in BUCKETS if bucket not in ("logs", "snapshots")},
    "etl-snapshot": {"snapshots": {PUT, GET, DELETE, LIST}},
    "etl-metrics": {},
}


def allowed(policy, action, resource):
    """Decide as IAM does: a denial wins, without a statement that allows nothing is allowed."""

    def matches(statement):
        return any(fnmatchcase(action, pattern) for pattern in statement["Action"]) and any(
            fnmatchcase(resource, pattern) for pattern in statement["Resource"]
        )

    effects = {statement["Effect"] for statement in policy["Statement"] if matches(statement)}
    return effects == {"Allow"}


def test_every_user_is_known(policies):
    assert set(policies) == set(RIGHTS)


@pytest.mark.parametrize("user", RIGHTS)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_rights(policies, user, bucket):
    found = {
        action
        for action in (PUT, GET, DELETE, LIST)
        if allowed(policies[user], action, f"arn:aws:s3:::{bucket}" + ("" if action == LIST else "/a/part-0.parquet"))
    }
    assert found == RIGHTS[user].get(bucket, set())


@pytest.mark.parametrize("user", RIGHTS)
def test_nobody_removes_versions_or_administers(policies, user):
    for action in ("s3:DeleteObjectVersion", "s3:PutBucketVersioning", "s3:CreateBucket", "s3:DeleteBucket"):
        for bucket in BUCKETS:
            assert not allowed(policies[user], action, f"arn:aws:s3:::{bucket}")
            assert not allowed(policies[user], action, f"arn:aws:s3:::{bucket}/a/part-0.parquet")


def test_spark_clears_up_after_the_magic_committer_in_quarantine(policies):
    key = "arn:aws:s3:::quarantine/flights/planes/dt=2013-01-01/__magic_job-1/part-0.pending"
    assert allowed(policies["etl-spark"], DELETE, key)


def test_airflow_keeps_the_journal_and_writes_nothing_else_in_curated(policies):
    assert allowed(policies["etl-airflow"], PUT, "arn:aws:s3:::curated/_publications/run/20130101-published.json")
    assert not allowed(policies["etl-airflow"], PUT, "arn:aws:s3:::curated/_stages/run/1/clean_data.json")
    assert not allowed(
        policies["etl-airflow"], DELETE, "arn:aws:s3:::curated/_publications/run/20130101-published.json"
    )


def test_what_stores_files_of_services_puts_them_and_does_nothing_else(policies):
    key, other = "arn:aws:s3:::backups/files/ingest1/nifi.tar.zst.enc", "arn:aws:s3:::backups/pgbackrest/backup.info"
    policy = policies["etl-file-backup"]
    assert [action for action in (PUT, GET, DELETE, "s3:GetObjectVersion") if allowed(policy, action, key)] == [PUT]
    assert not allowed(policy, PUT, other) and not allowed(policy, LIST, "arn:aws:s3:::backups")


def test_its_rights_are_enough_to_rewind_a_bucket(policies):
    """On a real server, with the policy as the role makes it; removing a version is refused."""
    with stores.minio() as url:
        stores.add_user(url, "etl-rollback", "a-secret-of-the-test", policies["etl-rollback"])
        root, own = stores.client(url), stores.client(url, "etl-rollback", "a-secret-of-the-test")
        root.create_bucket(Bucket="raw")
        root.put_bucket_versioning(Bucket="raw", VersioningConfiguration={"Status": "Enabled"})
        large = {"Bucket": "raw", "Key": "large"}
        upload = large | {"UploadId": root.create_multipart_upload(**large, Tagging="a=b")["UploadId"]}
        etag = root.upload_part(**upload, PartNumber=1, Body=b"large")["ETag"]
        root.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        version = root.put_object(Bucket="raw", Key="small", Body=b"small")["VersionId"]
        time.sleep(0.003)
        then = datetime.now(UTC)
        time.sleep(0.003)
        root.put_object(Bucket="raw", Key="small", Body=b"bad")
        root.put_object(Bucket="raw", Key="new", Body=b"bad")
        root.delete_object(**large)
        summary = rewind(S3Store(own, "raw"), then)
        assert summary["verified"] and summary["actions"] == {"replaced": 1, "restored": 1, "removed": 1}, summary
        with pytest.raises(ClientError, match="AccessDenied"):
            own.delete_object(Bucket="raw", Key="small", VersionId=version)


def test_only_the_user_of_the_metrics_reads_them(policies):
    readers = {user for user, policy in policies.items() if allowed(policy, "admin:Prometheus", "arn:aws:s3:::any")}
    assert readers == {"etl-metrics"}
