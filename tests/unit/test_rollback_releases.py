"""Release manifests: what they say of a tree, that they are only added, and what they refuse."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from jobs.rollback import manifests, releases
from jobs.rollback.release_text import comparison, differences, listing
from jobs.rollback.release_tree import ReleaseError, describe, surplus

ONE, TWO, THREE = "111111111111", "222222222222", "333333333333"


class Bucket:
    """As much of boto3's S3 client as is used; `objects` by key."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}

    def put_object(self, Bucket, Key, Body, IfNoneMatch):
        assert IfNoneMatch == "*", "objects of this bucket are never overwritten"
        if Key in self.objects:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
        self.objects[Key] = Body

    def get_object(self, Bucket, Key):
        return {"Body": io.BytesIO(self.objects[Key])}

    def get_paginator(self, name):
        def paginate(Bucket, Prefix):
            yield {"Contents": [{"Key": key} for key in sorted(self.objects) if key.startswith(Prefix)]}

        return SimpleNamespace(paginate=paginate)

    def head_bucket(self, Bucket):
        date = format_datetime(datetime(2026, 11, 24, 22, 0, tzinfo=UTC), usegmt=True)
        return {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}


def write_tree(directory, release, flows=("flights",), dags=("etl_pipeline",), units=(), levels=3):
    """An unpacked release."""
    tree = directory / release
    files = {f"jobs/extract/nifi/flows/{name}.json": "{}" for name in flows}
    files |= {f"dags/{name}.py": "" for name in dags} | {f"jobs/units/{name}": "[Unit]\n" for name in units}
    files |= {f"jobs/load/migrations/{level:04d}_x.up.sql": "" for level in range(1, levels + 1)}
    files |= {"jobs.zip": release, "RELEASE": json.dumps({"id": release, "commit": release * 3})}
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    return tree


def facts(**changes):
    return {
        "environment": "local",
        "since": {"time": "2026-11-24T22:00:00+00:00", "buckets": {}, "restore_point": {}},
        "artifacts": {"nifi": {"file": "nifi.tar.zst", "sha256": "a" * 64}},
        "bundle_version": "b" * 40,
        "migration": 3,
    } | changes


@pytest.fixture
def kept():
    return manifests.Store(Bucket(), "releases")


def test_a_tree_tells_what_it_owns(tmp_path):
    tree = write_tree(tmp_path, ONE, units=("etl-prune.service", "etl-prune.timer"))
    described = describe(tree)
    assert described["release"] == ONE and described["level"] == 3
    assert described["owned"] == {
        "dags": ["etl_pipeline"],
        "files": [str(tree), "/etc/systemd/system/etl-prune.service", "/etc/systemd/system/etl-prune.timer"],
        "flows": ["flights"],
        "units": ["etl-prune.service", "etl-prune.timer"],
    }


def test_a_release_may_not_own_a_unit_of_the_platform(tmp_path):
    with pytest.raises(ReleaseError, match="minio.service: a release's units are named etl-"):
        describe(write_tree(tmp_path, ONE, units=("minio.service",)))


def test_surplus_is_what_any_other_release_left(tmp_path):
    write_tree(tmp_path, ONE)
    write_tree(tmp_path, TWO, flows=("flights", "orders"), units=("etl-x.timer",))
    (tmp_path / "current").symlink_to(TWO)
    gone = {"owned": {"flows": ["weather"], "units": []}}  # its tree is no longer kept, its manifest is
    assert surplus(tmp_path, ONE, [gone]) == {"flows": ["orders", "weather"], "units": ["etl-x.timer"]}
    assert surplus(tmp_path, TWO) == {"flows": [], "units": []}


def test_manifests_are_numbered_checksummed_and_never_overwritten(tmp_path, kept):
    manifest = manifests.build(write_tree(tmp_path, ONE), facts())
    first, second = kept.add(manifest), kept.add(manifest)
    assert (first["serial"], second["serial"]) == (1, 2)
    assert sorted(kept.s3.objects) == [f"{ONE}/0001.json", f"{ONE}/0002.json"]
    assert kept.latest(ONE) == second and kept.latest(TWO) is None
    assert first["sha256"] == manifests.checksum(first)


def test_a_serial_that_another_writer_took_is_left_to_it(tmp_path, kept):
    manifest = manifests.build(write_tree(tmp_path, ONE), facts())
    listed = kept._serials
    kept.s3.objects[f"{ONE}/0001.json"] = b"another's"
    answers = iter([[], [1]])
    kept._serials = lambda release: next(answers)
    assert kept.add(manifest)["serial"] == 2
    assert kept.s3.objects[f"{ONE}/0001.json"] == b"another's" and listed(ONE) == [1, 2]


def test_a_damaged_manifest_is_refused(tmp_path, kept):
    kept.add(manifests.build(write_tree(tmp_path, ONE), facts()))
    key = f"{ONE}/0001.json"
    kept.s3.objects[key] = kept.s3.objects[key].replace(b'"migration": 3', b'"migration": 4')
    with pytest.raises(ReleaseError, match="checksum does not fit"):
        kept.manifests()


def test_a_manifest_of_a_newer_format_is_refused(tmp_path, kept):
    kept.add(manifests.build(write_tree(tmp_path, ONE), facts()) | {"format": manifests.FORMAT + 1})
    with pytest.raises(ReleaseError, match="use newer code"):
        kept.latest(ONE)


def test_the_same_deployment_is_told_by_what_it_consists_of(tmp_path):
    tree = write_tree(tmp_path, ONE)
    manifest = manifests.build(tree, facts())
    assert manifests.same(manifest, manifests.build(tree, facts(since={"time": "later"})))
    assert not manifests.same(manifest, manifests.build(tree, facts(bundle_version="c" * 40)))
    assert not manifests.same(manifest, manifests.build(tree, facts(state="bad", because="deployment")))
    assert not manifests.same(None, manifest)


def test_a_manifest_holds_digests_of_parameters_only_as_given(tmp_path):
    manifest = manifests.build(write_tree(tmp_path, ONE), facts(parameters={"flights": {"s3.secret_key": "salt:hash"}}))
    assert manifest["parameters"] == {"flights": {"s3.secret_key": "salt:hash"}}


def test_marking_adds_a_manifest_once(tmp_path, kept):
    kept.add(manifests.build(write_tree(tmp_path, ONE), facts()))
    marked = manifests.mark(kept, ONE, "bad", "rollback", "it lost rows")
    assert (marked["serial"], marked["state"], marked["reason"]) == (2, "bad", "it lost rows")
    assert manifests.mark(kept, ONE, "bad", "rollback", "it lost rows") == marked
    assert kept.latest(ONE)["deployed_at"] == kept.manifests()[0]["deployed_at"]
    with pytest.raises(ReleaseError, match="release 222222222222 is unknown"):
        manifests.mark(kept, TWO, "bad", "rollback", "x")


def test_what_serves_is_the_newest_that_did_not_fail(tmp_path, kept):
    assert manifests.serving(kept.manifests()) is None
    for number, (release, because) in enumerate([(ONE, None), (TWO, None), (ONE, None), (THREE, "deployment")]):
        manifest = manifests.build(write_tree(tmp_path, release), facts())
        kept.add(manifest | {"deployed_at": f"2026-11-24T22:0{number}:00+00:00", "because": because})
    manifests.mark(kept, TWO, "bad", "rollback", "it lost rows")
    assert manifests.serving(kept.manifests()) == ONE


def test_a_deployment_begins_with_a_serial_and_says_whether_it_is_there_already(tmp_path, kept, monkeypatch, capsys):
    """Killed after `current` was flipped, it has no manifest yet."""
    monkeypatch.setattr(manifests, "store", lambda: kept)
    monkeypatch.chdir(write_tree(tmp_path, ONE))

    def begin():
        assert releases.main(["begin", ONE, "raw"]) == 0
        return json.loads(capsys.readouterr().out)

    began = begin()
    assert (began["serial"], began["recorded"]) == (1, False) and began["since"]["buckets"].keys() == {"raw"}
    kept.add(manifests.build(tmp_path / ONE, facts()))
    assert (begin()["serial"], begin()["recorded"]) == (2, True)


def test_what_was_taken_back_does_not_come_back_by_itself(tmp_path, kept):
    manifest = manifests.build(write_tree(tmp_path, ONE), facts())
    manifests.require_deployable(None)
    manifests.require_deployable(manifest)
    manifests.require_deployable(manifest | {"state": "bad", "because": "deployment"})
    taken_back = manifest | {"state": "bad", "because": "rollback", "reason": "it lost rows"}
    with pytest.raises(ReleaseError, match="it lost rows.*force=true"):
        manifests.require_deployable(taken_back)
    manifests.require_deployable(taken_back, force=True)


def test_the_moment_is_the_stores(kept):
    assert manifests.moment(kept.s3, "releases", ["raw", "curated"]) == {
        "time": "2026-11-24T22:00:00+00:00",
        "buckets": {"curated": "2026-11-24T22:00:00+00:00", "raw": "2026-11-24T22:00:00+00:00"},
    }


def test_the_list_shows_the_newest_state_and_what_is_in_service(tmp_path, kept):
    for number, release in enumerate((ONE, TWO)):
        manifest = manifests.build(write_tree(tmp_path, release), facts())
        kept.add(manifest | {"deployed_at": f"2026-11-24T22:0{number}:00+00:00"})
    manifests.mark(kept, TWO, "bad", "rollback", "it lost rows")
    lines = listing(kept.manifests(), ONE).splitlines()[1:]
    assert [line.split()[0] for line in lines] == [TWO, "*"]
    assert "bad" in lines[0] and lines[0].endswith("it lost rows") and "good" in lines[1]
    assert "no release" in listing([])


def test_a_comparison_names_what_differs(tmp_path):
    one = manifests.build(write_tree(tmp_path, ONE), facts())
    two = write_tree(
        tmp_path, TWO, flows=("flights", "orders"), dags=("etl_pipeline", "orders"), units=("etl-x.timer",)
    )
    other = manifests.build(two, facts(migration=4, artifacts={"nifi": {"file": "f", "sha256": "c" * 64}}))
    assert {row[0] for row in differences(one, other)} == {
        *("commit", "jobs", "migration", "flow orders", "artifact nifi", "DAG orders", "unit etl-x.timer"),
    }
    text = comparison(one, other)
    assert "migration" in text and ONE in text and "DAG orders" in text
    assert "consist of the same" in comparison(one, one)
