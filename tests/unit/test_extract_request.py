"""Asking for an extract and reading what came of it, with a store and a NiFi that are dictionaries."""

import io
import json
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest
import requests
from botocore.exceptions import ClientError

from jobs.declaration import load
from jobs.extract import manifest, request
from jobs.extract.landing import Entry

SOURCE = replace(load("flights").sources["flights_table"], name="flights")
RUN = SimpleNamespace(
    run_id="manual__2013", pipeline="flights", interval_from=datetime(2013, 1, 1), interval_to=datetime(2014, 1, 1)
)
PREFIX = "flights_db/flights/dt=2013-01-01/run_id=manual__2013/"


class Store(dict):
    """As much of boto3's S3 client as is used; keys to JSON documents."""

    def get_object(self, Bucket, Key):
        if (Bucket, Key) not in self:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(json.dumps(self[Bucket, Key]).encode())}

    def get_paginator(self, operation):
        assert operation == "list_objects_v2"
        return self

    def paginate(self, Bucket, Prefix, Delimiter):
        names = {
            Prefix + key.removeprefix(Prefix).split(Delimiter)[0] + Delimiter
            for bucket, key in self
            if bucket == Bucket and key.startswith(Prefix)
        }
        yield {"CommonPrefixes": [{"Prefix": name} for name in sorted(names)]}


def sealed(attempt=1, to="2014-01-01 00:00:00", **changed):
    return {
        "run_id": RUN.run_id,
        "attempt": attempt,
        "pipeline": "flights",
        "source": "flights_db",
        "dataset": "flights",
        "from": "2013-01-01 00:00:00",
        "to": to,
        "format": "avro",
        "flow_version": "0123456789ab",
        "extracted_at": "2026-01-01T00:00:00Z",
        "files": [
            {"key": f"{PREFIX}attempt={attempt}/part-00000.avro", "rows": 50000, "bytes": "11", "sha256": "aa"},
            {"key": f"{PREFIX}attempt={attempt}/part-00001.avro", "rows": "7", "bytes": 5, "sha256": "bb"},
        ],
    } | changed


def put(store, attempt, document, name=manifest.MANIFEST):
    store["raw", f"{PREFIX}attempt={attempt}/{name}"] = document


def session(status=202, text="", error=None):
    """A requests session with one answer; what it was asked is in `asked`."""
    asked = {}

    def post(url, json, timeout):
        asked.update(url=url, body=json)
        if error:
            raise error
        answer = requests.Response()
        answer.status_code, answer._content, answer.reason = status, text.encode(), "Reason"
        return answer

    return SimpleNamespace(post=post, asked=asked)


def test_a_manifest_is_read_with_numbers():
    store = Store()
    put(store, 1, sealed())
    read = manifest.read(store, "raw", f"{PREFIX}attempt=1/_manifest.json")
    assert (read.rows, [file.bytes for file in read.files]) == (50007, [11, 5])
    assert read.url == f"s3a://raw/{PREFIX}attempt=1/_manifest.json"


def test_files_as_they_are_have_no_rows():
    store = Store()
    put(store, 1, sealed(files=[{"key": "k", "rows": None, "bytes": 1, "sha256": "cc"}]))
    assert manifest.read(store, "raw", f"{PREFIX}attempt=1/_manifest.json").rows is None


def test_an_attempt_number_is_used_once():
    store = Store()
    assert manifest.next_attempt(store, "raw", "flights_db", "flights", RUN) == 1
    put(store, 2, {}, "part-00000.avro")
    put(store, 10, {}, "part-00000.avro")
    assert manifest.next_attempt(store, "raw", "flights_db", "flights", RUN) == 11


def test_the_latest_sealed_attempt_is_found_and_an_unsealed_one_is_not():
    store = Store()
    put(store, 1, sealed(1))
    put(store, 2, sealed(2))
    put(store, 3, {}, "part-00000.avro")
    assert manifest.find_sealed(store, "raw", "flights_db", "flights", RUN).attempt == 2


def test_a_manifest_of_another_interval_is_not_reused():
    store = Store()
    put(store, 1, sealed(1, to="2013-02-01 00:00:00"))
    assert manifest.find_sealed(store, "raw", "flights_db", "flights", RUN) is None


def test_a_store_that_refuses_is_not_an_absent_manifest():
    class Refusing(Store):
        def get_object(self, Bucket, Key):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    with pytest.raises(ClientError):
        manifest.read(Refusing(), "raw", "key")


def test_a_request_says_what_is_wanted():
    asked = session()
    request.request(asked, "https://nifi:9443/", RUN, SOURCE, 3, [{"name": "a.csv", "size": 7}])
    assert asked.asked == {
        "url": "https://nifi:9443/extract/flights",
        "body": {
            "pipeline": "flights",
            "run_id": "manual__2013",
            "attempt": 3,
            "dataset": "flights",
            "from": "2013-01-01 00:00:00",
            "to": "2014-01-01 00:00:00",
            "files": [{"name": "a.csv", "size": 7}],
        },
    }


def test_a_listing_has_size_time_and_name():
    asked = session(200, "386 1700000000.25 airlines.csv\x007 1700000001.0 a b.csv\0")
    assert request.listing(asked, "https://nifi:9443", RUN, SOURCE) == {
        "airlines.csv": Entry(386, 1700000000.25),
        "a b.csv": Entry(7, 1700000001.0),
    }
    assert asked.asked["body"]["list"] is True


def test_a_silent_nifi_is_named_with_its_address():
    with pytest.raises(
        request.NifiUnreachable, match="NiFi does not answer at https://nifi:9443/extract/flights.*refused"
    ):
        request.request(session(error=requests.ConnectionError("refused")), "https://nifi:9443", RUN, SOURCE, 1)


@pytest.mark.parametrize(("text", "reason"), [('{"error": "bad run_id"}', "bad run_id"), ("<html>", "Reason")])
def test_a_refusal_has_its_reason(text, reason):
    with pytest.raises(request.ExtractRefused, match=f"400 {reason}"):
        request.request(session(400, text), "https://nifi:9443", RUN, SOURCE, 1)


def test_an_extract_takes_a_free_attempt_and_waits_for_its_manifest():
    store = Store()
    put(store, 1, {}, "part-00000.avro")
    put(store, 2, sealed(2))
    asked = session()
    del store["raw", f"{PREFIX}attempt=2/_manifest.json"]
    original = asked.post

    def post(*args, **kwargs):
        put(store, 2, sealed(2))
        return original(*args, **kwargs)

    asked.post = post
    assert request.extract(asked, "https://nifi:9443", store, "raw", RUN, SOURCE, seconds=1).attempt == 2


def test_a_failure_record_fails_with_its_reason():
    store = Store()
    put(store, 1, {"stage": "flights: query", "reason": "relation does not exist"}, manifest.FAILURE)
    with pytest.raises(request.ExtractFailed, match="stage flights: query: relation does not exist"):
        request.wait(store, "raw", RUN, SOURCE, 1, seconds=1)


def test_a_sealed_manifest_outweighs_a_failure_record():
    store = Store()
    put(store, 1, {"stage": "put part", "reason": "late"}, manifest.FAILURE)
    put(store, 1, sealed(1))
    assert request.wait(store, "raw", RUN, SOURCE, 1, seconds=1).attempt == 1


def test_parts_alone_are_no_success():
    store = Store()
    put(store, 1, {}, "part-00000.avro")
    with pytest.raises(request.ExtractTimeout, match="neither manifest nor failure record"):
        request.wait(store, "raw", RUN, SOURCE, 1, seconds=0.05, pause=0.01)
