"""What the sources deliver and how they fail, through the real NiFi, object store and Spark."""

import hashlib
import json
import shlex
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from jobs.declaration import load
from tests.oracle import flights_2013

JANUARY = ("2013-01-01", "2013-02-01")
FEBRUARY = ("2013-02-01", "2013-03-01")
FLIGHTS = load("flights")


@pytest.fixture(scope="module")
def ask(platform):
    """Asks NiFi as Airflow does, from its host and with its certificate; returns (status, body)."""
    (host,) = platform.environment.hosts("airflow")
    url = f"https://{platform.environment.value('platform_nifi_host')}:{FLIGHTS.port}/extract/flights"
    credentials = "--cert /etc/airflow/tls/nifi-client.crt --key /etc/airflow/tls/nifi-client.key"

    def post(dataset: str, start: str, end: str, **more) -> tuple[int, str]:
        body = {"pipeline": "flights", "run_id": more.pop("run_id", "test"), "attempt": 1, "dataset": dataset}
        body |= {"from": f"{start} 00:00:00", "to": f"{end} 00:00:00"} | more
        headers = "-H 'Content-Type: application/json' -w '\\n%{http_code}'"
        answer = platform.run(host, f"curl -sS {credentials} {headers} -d {shlex.quote(json.dumps(body))} {url}")
        text, _, status = answer.rpartition("\n")
        return int(status), text

    return post


@pytest.fixture(scope="module")
def begin(ask, object_store, platform):
    """Has NiFi extract a dataset; returns what awaits its manifest or its failure record, whichever comes."""
    bucket = platform.environment.value("platform_s3_buckets")["raw"]

    def request(dataset: str, start: str, end: str, **more) -> Callable[[], dict]:
        run_id = f"test__{uuid.uuid4()}"
        status, text = ask(dataset, start, end, run_id=run_id, **more)
        assert status == 202, text
        source = FLIGHTS.sources[dataset]
        prefix = f"{source.connection}/{dataset}/dt={start}/run_id={run_id}/attempt=1/"

        def end_of(seconds: float = 120) -> dict:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                listed = object_store.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
                for key in (item["Key"] for item in listed):
                    if key.endswith(("_manifest.json", "_failure.json")):
                        return json.load(object_store.get_object(Bucket=bucket, Key=key)["Body"])
                time.sleep(1)
            pytest.fail(f"neither manifest nor failure record under {prefix} within {seconds} s")

        return end_of

    return request


@pytest.fixture(scope="module")
def extract(begin):
    """Has NiFi extract a dataset; returns its manifest or its failure record, whichever came."""
    return lambda *request, **more: begin(*request, **more)()


@pytest.fixture
def faults(platform):
    """Orders faults of the weather service, which end with the test."""
    (host,) = platform.environment.hosts("sources")
    path = "/opt/weather/faults"

    def order(*lines: str) -> None:
        content = "\\n".join(lines)
        platform.run(host, f"printf '{content}\\n' > {path}.new && chmod 644 {path}.new && mv {path}.new {path}")

    yield order
    platform.run(host, f"rm -f {path}")


NAMES = [f"flights-2013-{month:02}.parquet" for month in range(1, 7)]
MONTHS = (JANUARY, ("2013-03-01", "2013-04-01"), ("2013-11-01", "2013-12-01"))
YEAR = ("2013-01-01", "2014-01-01")
NOT_AS_LISTED = [
    ("flights_files", "flights-2033-01.parquet", {}, "landing has no file flights-2033-01.parquet"),
    ("airlines", "airlines.csv", {"size": 7}, "it is still being written"),
    ("airports", "airports.json", {"size": 7}, "it is still being written"),
]


@pytest.fixture(scope="module")
def extracted(begin):
    """What comes of requests that are independent of each other: all are made before the first is awaited."""
    asked = {("weather", *interval): {} for interval in (*MONTHS, YEAR, ("2015-01-01", "2015-01-02"))}
    asked |= {("flights_files", "2013-01-01", "2013-07-01"): {"files": [{"name": name} for name in NAMES]}}
    asked |= {(dataset, *JANUARY): {"files": [{"name": name} | size]} for dataset, name, size, _ in NOT_AS_LISTED}
    coming = {request: begin(*request, **more) for request, more in asked.items()}
    done = {request: end_of() for request, end_of in coming.items()}
    return lambda *request: done[request]


def rows(manifest: dict) -> int:
    assert "files" in manifest, manifest
    return sum(int(file["rows"]) for file in manifest["files"])


def test_pages_of_the_weather_add_up_in_local_months(extracted):
    for start, end in MONTHS:
        assert rows(extracted("weather", start, end)) == len(flights_2013.observations(start, end))


def test_a_year_of_weather_is_several_pages(extracted):
    manifest = extracted("weather", *YEAR)
    assert [int(file["rows"]) for file in manifest["files"]][:-1] == [5000] * 5
    assert rows(manifest) == len(flights_2013.observations())


def test_an_hour_without_weather_is_sealed_empty(extracted):
    assert rows(extracted("weather", "2015-01-01", "2015-01-02")) == 0


def test_a_service_that_recovers_is_asked_again(extract, faults):
    faults("500 1", "429 1", "half 1")
    assert rows(extract("weather", *JANUARY)) == len(flights_2013.observations(*JANUARY))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "weather_api: page 1 (https://"),
        ("broken", "is not JSON"),
        ("short", "does not add up: 2225 rows in observations, 2225 so far of 2226"),
        ("endless", "at most 20 pages"),
    ],
)
def test_pages_that_do_not_add_up_fail_with_the_reason(extract, faults, fault, reason):
    faults(f"{fault} 100")
    failure = extract("weather", *JANUARY)
    assert failure.get("stage", "").startswith("weather: "), failure
    assert reason in failure["reason"]


def test_files_over_sftp_keep_name_and_content(extracted, platform):
    (host,) = platform.environment.hosts("sources")
    manifest = extracted("flights_files", "2013-01-01", "2013-07-01")
    sums = platform.run(host, "cd /srv/sftp/landing && sha256sum flights-2013-*.parquet").split()
    assert {file["name"]: file["sha256"] for file in manifest["files"]} == dict(zip(sums[1::2], sums[::2], strict=True))


@pytest.mark.parametrize(("dataset", "reason"), [(dataset, reason) for dataset, *_, reason in NOT_AS_LISTED])
def test_a_file_that_is_not_as_listed_fails(extracted, dataset, reason):
    assert reason in extracted(dataset, *JANUARY)["reason"]


def test_the_directory_of_the_nifi_host_is_listed_and_read(ask, extract, platform):
    (host,) = platform.environment.hosts("nifi")
    status, listing = ask("airports", *JANUARY, list=True)
    found = {name: int(size) for size, _, name in (line.split(" ", 2) for line in listing.split("\0") if line)}
    content = platform.run(host, "cat /srv/dropbox/airports.json").encode()
    assert (status, found) == (200, {"airports.json": len(content)})
    (file,) = extract("airports", *JANUARY, files=[{"name": "airports.json", "size": len(content)}])["files"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["../airports.json", "airports.json.bak", ""])
def test_other_files_than_the_declared_are_refused(ask, name):
    status, text = ask("airports", *JANUARY, files=[{"name": name}])
    assert (status, "names like airports.json" in text) == (400, True), text


@contextmanager
def changed(platform, name: str, command: str):
    """A file that SFTP delivers, changed by a shell command for as long as the block lasts."""
    (host,) = platform.environment.hosts("sources")
    path = f"/srv/sftp/landing/{name}"
    platform.run(host, f"cp -p {path} /root/kept && {command.format(path=path)}")
    try:
        yield
    finally:
        platform.run(host, f"mv /root/kept {path}")


DIRT = r"""printf ',"No ""carrier""\nhere"\nX1\nX2,Air Cura\347ao\nX3,' >> {path}; """
DIRT += r"""head -c 1000001 /dev/zero | tr '\0' 'x' >> {path}; printf '\n' >> {path}"""


@pytest.mark.slow
def test_of_a_dirty_file_the_good_rows_go_on_and_the_bad_ones_are_kept(year, run_flights, warehouse, platform):
    before = warehouse.contents()
    with changed(platform, "airlines.csv", DIRT):
        run = run_flights(*FEBRUARY, "-e", "again=true")
    assert run.play.returncode == 0, run.play.failed or run.play.stderr
    rejected = warehouse.rows(
        "select rule, row_count from etl.run_reject where run_id = %s and dataset = 'clean_airlines'",
        run.ledger["run_id"],
    )
    rules = {"carrier_missing", "unreadable_row", "unreadable_encoding", "huge_value"}
    assert {row["rule"]: row["row_count"] for row in rejected} == dict.fromkeys(rules, 1)
    assert warehouse.contents() == before


@pytest.mark.slow
def test_a_truncated_file_stops_the_run_with_its_name(year, run_flights, warehouse, platform):
    before = warehouse.contents()
    with changed(platform, "flights-2013-02.parquet", "truncate -s -1000 {path}"):
        run = run_flights(*FEBRUARY, "-e", "again=true")
    assert run.play.returncode != 0
    assert "failed in transform.clean_data" in run.play.failed[0], run.play.failed
    assert warehouse.contents() == before


@pytest.mark.slow
def test_a_changed_type_stops_the_run(year, run_flights, warehouse, platform):
    before = warehouse.contents()
    with changed(platform, "airlines.csv", "sed -i 1s/name/title/ {path}"):
        run = run_flights(*FEBRUARY, "-e", "again=true")
    assert run.play.returncode != 0
    assert warehouse.contents() == before
