"""The lab's weather service: pages in order, checked parameters, a token, and the faults that a test orders."""

import http.client
import importlib.util
import json
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/sources/files/weather_api.py"
spec = importlib.util.spec_from_file_location("weather_api", SCRIPT)
weather_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(weather_api)

ROWS = [
    {"origin": origin, "time_hour": f"2013-01-01T{hour:02}:00:00Z"} for hour in range(24) for origin in ("LGA", "EWR")
]
DAY = "from=2013-01-01T00:00:00Z&to=2013-01-02T00:00:00Z"


@pytest.fixture
def ask(tmp_path):
    """Asks a service (without TLS, which the context adds) and returns (status, document or None when it is cut)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), weather_api.Handler)
    server.token, server.observations = "t0ken", weather_api.Observations(ROWS)
    server.faults = weather_api.Faults(tmp_path / "faults")
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def get(query, token="t0ken", path=weather_api.PATH):
        connection = http.client.HTTPConnection(*server.server_address, timeout=10)
        connection.request("GET", f"{path}?{query}", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    yield get
    server.shutdown()
    server.server_close()


def test_pages_hold_every_row_once_in_order(ask):
    pages = [ask(f"{DAY}&page={number}&per_page=20")[1] for number in (1, 2, 3, 4)]
    assert [len(page["observations"]) for page in pages] == [20, 20, 8, 0]
    assert {page["total"] for page in pages} == {48}
    rows = [row for page in pages for row in page["observations"]]
    assert rows == sorted(ROWS, key=lambda row: (row["time_hour"], row["origin"]))


def test_the_interval_is_half_open(ask):
    _, page = ask("from=2013-01-01T05:00:00Z&to=2013-01-01T06:00:00Z")
    assert [row["time_hour"] for row in page["observations"]] == ["2013-01-01T05:00:00Z"] * 2
    assert ask("from=2014-01-01T00:00:00Z&to=2015-01-01T00:00:00Z")[1]["total"] == 0


@pytest.mark.parametrize(
    ("query", "named"),
    [("to=2013-01-02T00:00:00Z", "from"), (f"{DAY}&page=0", "page"), (f"{DAY}&per_page=10001", "per_page")]
    + [("from=2013-01-01&to=2013-01-02T00:00:00Z", "from"), (f"{DAY}&page=x", "page")],
)
def test_a_wrong_parameter_is_named(ask, query, named):
    status, document = ask(query)
    assert status == 400
    assert document["error"].startswith(f"{named} must be")


def test_only_the_token_gets_in(ask):
    assert ask(DAY, token="other")[0] == 401
    assert ask(DAY, path="/v2")[0] == 404


def test_faults_are_met_in_order_and_then_no_more(ask, tmp_path):
    (tmp_path / "faults").write_text("500 1\n429 2\nshort 1\nendless 1\n")
    assert [ask(DAY)[0] for _ in range(3)] == [500, 429, 429]
    assert len(ask(DAY)[1]["observations"]) == 47
    assert ask(DAY)[1]["total"] == 10**9
    assert ask(DAY)[1]["total"] == 48


def test_half_a_page_and_a_broken_one(ask, tmp_path):
    (tmp_path / "faults").write_text("half 1\nbroken 1\n")
    with pytest.raises(http.client.IncompleteRead):
        ask(DAY)
    with pytest.raises(json.JSONDecodeError):
        ask(DAY)
