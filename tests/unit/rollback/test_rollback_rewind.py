"""One contract for both stores: a bucket is brought back to a moment, with nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobs.rollback import rollback_gcs
from jobs.rollback.rewind import CopyDiffers, RewindRefused, rewind


def moment() -> datetime:
    """A time strictly between what was written and what will be, by the milliseconds that stores keep."""
    time.sleep(0.003)
    now = datetime.now(UTC)
    time.sleep(0.003)
    return now


@pytest.fixture
def bucket(remote):
    return remote.bucket()


def fill(remote, bucket) -> tuple[datetime, dict[str, bytes]]:
    """A history with everything in it; returns a moment and what was there then."""
    for key in ("a/kept", "a/overwritten", "a/deleted", "b/overwritten", "a/again"):
        remote.put(bucket, key, f"first {key}".encode())
    remote.put(bucket, "a/gone before", b"x")
    remote.delete(bucket, "a/gone before")
    then, before = moment(), remote.live(bucket)
    remote.put(bucket, "a/overwritten", b"second")
    remote.put(bucket, "a/overwritten", b"third")
    remote.put(bucket, "b/overwritten", b"second")
    remote.delete(bucket, "a/deleted")
    remote.delete(bucket, "a/again")
    remote.put(bucket, "a/again", b"after its deletion")
    remote.put(bucket, "a/new", b"new")
    remote.put(bucket, "a/gone before", b"back")
    remote.put(bucket, "a/come and gone", b"x")
    remote.delete(bucket, "a/come and gone")
    return then, before


def test_everything_is_as_it_was(remote, bucket):
    then, before = fill(remote, bucket)
    versions = remote.versions(bucket)
    summary = rewind(remote.store(bucket), then)
    assert remote.live(bucket) == before
    assert summary["actions"] == {"replaced": 3, "restored": 1, "removed": 2}
    assert summary["verified"] and summary["failed"] == {} and summary["different"] == 0
    assert summary["after"] == summary["then"] == {"objects": 5, "bytes": sum(map(len, before.values()))}
    assert remote.kept(bucket, "a/deleted") == ("text/x-test", {"by": "test"})
    assert remote.versions(bucket) == versions + 4, "copies on top, nothing taken away"


def test_a_second_time_it_does_nothing(remote, bucket):
    then, _ = fill(remote, bucket)
    rewind(remote.store(bucket), then)
    versions = remote.versions(bucket)
    assert rewind(remote.store(bucket), then)["actions"] == {"replaced": 0, "restored": 0, "removed": 0}
    assert remote.versions(bucket) == versions


def test_a_rewind_can_be_rewound(remote, bucket):
    then, _ = fill(remote, bucket)
    later, after = moment(), remote.live(bucket)
    rewind(remote.store(bucket), then)
    assert remote.live(bucket) != after
    rewind(remote.store(bucket), later)
    assert remote.live(bucket) == after


def test_a_dry_run_tells_and_changes_nothing(remote, bucket, tmp_path):
    then, before = fill(remote, bucket)
    now, versions = remote.live(bucket), remote.versions(bucket)
    summary = rewind(remote.store(bucket), then, dry_run=True, journal=tmp_path / "journal")
    assert summary["actions"] == {"replaced": 3, "restored": 1, "removed": 2}
    assert "restored a/deleted" in summary["examples"] and "removed a/new" in summary["examples"]
    assert summary["bytes_copied"] == sum(
        len(before[key]) for key in ("a/overwritten", "b/overwritten", "a/again", "a/deleted")
    )
    assert (remote.live(bucket), remote.versions(bucket)) == (now, versions)
    assert not (tmp_path / "journal").exists()


def test_only_below_a_prefix(remote, bucket):
    then, before = fill(remote, bucket)
    now = remote.live(bucket)
    rewind(remote.store(bucket), then, prefix="b/")
    assert remote.live(bucket) == now | {"b/overwritten": before["b/overwritten"]}


def test_what_is_kept_stays_and_only_comes_back(remote, bucket):
    then, before = fill(remote, bucket)
    now = remote.live(bucket)
    summary = rewind(remote.store(bucket), then, keep=["a/", "nothing/"])
    assert remote.live(bucket) == now | {key: before[key] for key in ("a/deleted", "b/overwritten")}
    assert summary["verified"] and summary["actions"] == {"replaced": 1, "restored": 1, "removed": 0}


def test_what_came_since_may_stay(remote, bucket):
    then, before = fill(remote, bucket)
    now = remote.live(bucket)
    summary = rewind(remote.store(bucket), then, keep_newer=True)
    assert remote.live(bucket) == now | before
    assert summary["verified"] and summary["actions"]["removed"] == 0
    assert not any(rewind(remote.store(bucket), then, keep_newer=True)["actions"].values())


def test_a_journal_that_removes_what_came_since_is_not_one_that_leaves_it(remote, bucket, tmp_path):
    then, _ = fill(remote, bucket)
    rewind(remote.store(bucket), then, keep_newer=True, journal=tmp_path / "j")
    with pytest.raises(RewindRefused, match="not the journal of this rewind"):
        rewind(remote.store(bucket), then, journal=tmp_path / "j")


def test_before_everything_it_is_empty_and_after_it_full(remote, bucket):
    start = moment()
    then, before = fill(remote, bucket)
    rewind(remote.store(bucket), start)
    assert remote.live(bucket) == {}
    rewind(remote.store(bucket), then)
    assert remote.live(bucket) == before


def test_read_back_by_sha256(remote, bucket):
    then, before = fill(remote, bucket)
    summary = rewind(remote.store(bucket), then, by_sha256=True)
    assert summary["verified"] and summary["checked_by"] == "sha256"
    assert remote.live(bucket) == before


@pytest.mark.parametrize("key", ["ümläut/日本", "space and+plus", "percent%2Fslash", "quote'\"&<>", "_"])
def test_any_key(remote, bucket, key):
    remote.put(bucket, key, b"first")
    then = moment()
    remote.delete(bucket, key)
    summary = rewind(remote.store(bucket), then)
    assert summary["verified"] and remote.live(bucket) == {key: b"first"}


def test_empty_objects(remote, bucket):
    remote.put(bucket, "empty", b"")
    then = moment()
    remote.put(bucket, "empty", b"full")
    assert rewind(remote.store(bucket), then)["verified"]
    assert remote.live(bucket) == {"empty": b""}


def test_more_than_a_page_of_keys_and_versions(remote, bucket):
    """Listings come in pages of 1000 versions: here are 1080, and a page ends inside of a key."""
    from concurrent.futures import ThreadPoolExecutor

    keys = [f"k{number:04d}" for number in range(359)] + ["z"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: remote.put(bucket, key, b"earlier"), keys))
        list(pool.map(lambda key: remote.put(bucket, key, key.encode()), keys))
        then = moment()
        list(pool.map(lambda key: remote.put(bucket, key, b"bad"), keys[:300]))
        list(pool.map(lambda key: remote.delete(bucket, key), keys[300:]))
    told = []
    summary = rewind(remote.store(bucket), then, progress=told.append)
    assert summary["actions"] == {"replaced": 300, "restored": 60, "removed": 0}
    assert summary["verified"] and remote.live(bucket) == {key: key.encode() for key in keys}
    assert "360 objects to change" in told[0]


def test_an_unversioned_bucket_is_refused(remote):
    bucket = remote.bucket(versioned=False)
    remote.put(bucket, "a", b"a")
    with pytest.raises(RewindRefused, match="versioning is (off|never on)"):
        rewind(remote.store(bucket), datetime.now(UTC))
    assert remote.live(bucket) == {"a": b"a"}


def test_a_moment_without_zone_or_in_the_future_is_refused(remote, bucket):
    with pytest.raises(RewindRefused, match="no time zone"):
        rewind(remote.store(bucket), datetime(2026, 1, 1))
    with pytest.raises(RewindRefused, match="in the future"):
        rewind(remote.store(bucket), datetime.now(UTC) + timedelta(hours=1))


class Dies(Exception):
    """What stands for a kill in the middle."""


def dying(store, after: int):
    """A store whose process dies at the n-th change."""
    left = [after]

    def counted(work):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return work(*arguments)

        return call

    store.copy, store.remove = counted(store.copy), counted(store.remove)
    return store


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("cut", [0, 7])
def test_killed_anywhere_it_goes_on(remote, bucket, tmp_path, after, cut):
    then, before = fill(remote, bucket)
    journal = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        rewind(dying(remote.store(bucket), after), then, journal=journal, workers=1)
    if cut:
        journal.write_bytes(journal.read_bytes()[:-cut])
    summary = rewind(remote.store(bucket), then, journal=journal)
    assert summary["verified"] and remote.live(bucket) == before
    versions = remote.versions(bucket)
    again = rewind(remote.store(bucket), then, journal=journal)
    assert again["verified"] and remote.versions(bucket) == versions


def test_what_changed_since_a_journal_was_written_is_taken_back_too(remote, bucket, tmp_path):
    then, before = fill(remote, bucket)
    rewind(remote.store(bucket), then, journal=tmp_path / "journal")
    remote.put(bucket, "a/kept", b"bad again")
    summary = rewind(remote.store(bucket), then, journal=tmp_path / "journal")
    assert summary["resumed"] and summary["verified"] and remote.live(bucket) == before


def test_a_journal_of_something_else_is_refused(remote, bucket, tmp_path):
    then, _ = fill(remote, bucket)
    journal = tmp_path / "journal"
    rewind(remote.store(bucket), then, journal=journal, prefix="a/")
    with pytest.raises(RewindRefused, match="is not the journal of this rewind"):
        rewind(remote.store(bucket), then, journal=journal)
    for other in ("notes", "notes\nof two lines\n"):
        journal.write_text(other)
        with pytest.raises(RewindRefused, match="journal"):
            rewind(remote.store(bucket), then, journal=journal)
        assert journal.read_text() == other


def test_what_cannot_be_done_is_named_and_the_rest_is_done(remote, bucket):
    then, before = fill(remote, bucket)
    store = remote.store(bucket)
    copy = store.copy

    def failing(version, over):
        if version.key == "a/deleted":
            raise CopyDiffers("of the test")
        return copy(version, over)

    store.copy = failing
    summary = rewind(store, then)
    assert (summary["verified"], summary["different"]) == (False, 1)
    assert summary["failed"] == {"a/deleted": "CopyDiffers: of the test"}
    assert remote.live(bucket) == {key: content for key, content in before.items() if key != "a/deleted"}


def test_the_check_finds_what_a_store_only_claims(remote, bucket):
    then, _ = fill(remote, bucket)
    store = remote.store(bucket)
    store.remove = lambda versions: {}
    summary = rewind(store, then)
    assert (summary["verified"], summary["different"], summary["failed"]) == (False, 2, {})


def test_command_line(remote, bucket):
    then, before = fill(remote, bucket)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", f"jobs.rollback.rollback_{remote.kind}", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | remote.environment,
            capture_output=True,
            text=True,
        )

    planned = run("--bucket", bucket, "--to", then.isoformat(), "--dry-run")
    assert planned.returncode == 0 and json.loads(planned.stdout)["actions"]["removed"] == 2, planned.stderr
    newer = run("--bucket", bucket, "--to", then.isoformat(), "--dry-run", "--keep-newer")
    assert newer.returncode == 0 and json.loads(newer.stdout)["actions"]["removed"] == 0, newer.stderr
    done = run("--bucket", bucket, "--to", then.isoformat().replace("+00:00", "Z"))
    assert done.returncode == 0 and json.loads(done.stdout)["verified"], done.stderr
    assert "6 objects to change" in done.stderr and remote.live(bucket) == before
    refused = run("--bucket", bucket, "--to", "2026-01-01T00:00:00")
    assert refused.returncode == 1 and "refused: 2026-01-01 00:00:00 has no time zone" in refused.stderr


KEYS = ["a", "b/c", "b/d", "é"]


class History(RuleBasedStateMachine):
    """Puts, overwrites and deletes, with moments in between; every rewind must equal a dict that was copied at its moment."""

    remote = None
    bucket = None

    @initialize()
    def start(self):
        self.bucket = self.remote.bucket()
        self.model, self.past = {}, [(moment(), {})]

    @rule(key=st.sampled_from(KEYS), content=st.sampled_from([b"", b"1", b"22", b"33"]))
    def put(self, key, content):
        self.remote.put(self.bucket, key, content)
        self.model[key] = content

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key):
        self.remote.delete(self.bucket, key)
        self.model.pop(key, None)

    @rule()
    def remember(self):
        self.past.append((moment(), dict(self.model)))

    @precondition(lambda self: len(self.past) > 1)
    @rule(data=st.data())
    def go_back(self, data):
        then, model = data.draw(st.sampled_from(self.past))
        summary = rewind(self.remote.store(self.bucket), then, workers=2)
        self.model = dict(model)
        assert summary["verified"]

    @invariant()
    def agrees(self):
        if self.bucket:
            assert self.remote.live(self.bucket) == self.model


def test_random_histories(remote):
    machine = type("Machine", (History,), {"remote": remote})
    machine.TestCase.settings = settings(
        max_examples=12,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    machine.TestCase("runTest").runTest()


# What only one of the stores has.


def multipart(remote, bucket, key, sizes):
    """An object of parts of these sizes; returns its SHA-256."""
    named, digest = {"Bucket": bucket, "Key": key}, hashlib.sha256()
    upload = remote.client.create_multipart_upload(
        **named, ContentType="text/x-test", Metadata={"by": "test"}, Tagging="a=b%20c"
    )["UploadId"]
    parts = []
    for number, size in enumerate(sizes, 1):
        body = os.urandom(1024) * (size // 1024)
        digest.update(body)
        answer = remote.client.upload_part(**named, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    remote.client.complete_multipart_upload(**named, UploadId=upload, MultipartUpload={"Parts": parts})
    return digest.hexdigest()


MIB = 1 << 20


@pytest.mark.parametrize("sizes", [[0], [MIB], [5 * MIB, 5 * MIB, MIB], [6 * MIB, 5 * MIB, 7 * MIB, 1024]])
def test_objects_of_parts_are_copied_in_the_same_parts(minio, sizes):
    bucket = minio.bucket()
    digest = multipart(minio, bucket, "large", sizes)
    etag = minio.client.head_object(Bucket=bucket, Key="large")["ETag"]
    then = moment()
    minio.put(bucket, "large", b"bad")
    assert rewind(minio.store(bucket), then)["verified"]
    assert minio.client.head_object(Bucket=bucket, Key="large")["ETag"] == etag
    assert hashlib.sha256(minio.live(bucket)["large"]).hexdigest() == digest
    assert minio.kept(bucket, "large") == ("text/x-test", {"by": "test"})
    tags = minio.client.get_object_tagging(Bucket=bucket, Key="large")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b c"}]


def test_objects_too_large_for_one_copy(minio):
    bucket = minio.bucket()
    content = os.urandom(11 * MIB)
    minio.put(bucket, "large", content)
    then = moment()
    minio.delete(bucket, "large")
    summary = rewind(minio.store(bucket, copy_limit=5 * MIB), then)
    assert summary["verified"] and minio.live(bucket) == {"large": content}
    versions = minio.versions(bucket)
    assert rewind(minio.store(bucket, copy_limit=5 * MIB), then)["actions"]["replaced"] == 0
    assert minio.versions(bucket) == versions
    assert minio.client.list_multipart_uploads(Bucket=bucket).get("Uploads") is None


def test_versions_that_may_have_expired(minio):
    bucket = minio.bucket()
    minio.put(bucket, "a", b"a")
    minio.expire(bucket, 30)
    long_ago = datetime.now(UTC) - timedelta(days=31)
    with pytest.raises(RewindRefused, match="former versions expire after 30 days"):
        rewind(minio.store(bucket), long_ago)
    assert rewind(minio.store(bucket), long_ago, dry_run=True, despite_expiry=True)["warnings"]
    assert rewind(minio.store(bucket), datetime.now(UTC) - timedelta(days=29), dry_run=True)["warnings"] == []


def test_suspended_versioning_is_refused(minio):
    bucket = minio.bucket()
    minio.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    with pytest.raises(RewindRefused, match="versioning is suspended"):
        rewind(minio.store(bucket), datetime.now(UTC))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"daysSinceNoncurrentTime": 30}, "expire after 30 days"),
        ({"daysSinceNoncurrentTime": 60}, None),
        ({"numNewerVersions": 3}, "by numNewerVersions"),
        ({"age": 10}, "by age"),
        ({"age": 10, "isLive": True}, None),
        ({"age": 10, "matchesPrefix": ["other/"]}, None),
        ({"age": 10, "matchesPrefix": ["mine/part/"]}, "by age"),
    ],
)
def test_rules_of_google_that_delete_versions(condition, reason):
    """fake-gcs-server keeps no lifecycle rules: here they are read as Google sends them."""
    now = datetime.now(UTC)
    bucket = storage.Client(project="t", credentials=AnonymousCredentials()).bucket("b")
    bucket._properties = {"lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": condition}]}}
    (given,) = bucket.lifecycle_rules
    found = rollback_gcs._expired(given["condition"], "mine/", now - timedelta(days=40), now)
    assert found is None if reason is None else reason in found
