"""Counting at the source, and where the records of a file are."""

import csv
import gzip
import io
import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.declaration import Page, load
from jobs.extract import count
from jobs.extract.records import csv_spans, json_spans

FLIGHTS = load("flights")
RUN = SimpleNamespace(interval_from=datetime(2013, 1, 1), interval_to=datetime(2013, 2, 1))
TEXT = st.text(st.sampled_from('ab ,"\n\r\\[{}]é'), max_size=6)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=3), min_size=1, max_size=6))
def test_a_written_csv_record_is_found_again(rows):
    out = io.StringIO(newline="")
    writer, expected = csv.writer(out, quoting=csv.QUOTE_ALL), []
    for row in rows:
        start = out.tell()
        writer.writerow(row)
        expected.append(out.getvalue()[start:].removesuffix("\r\n").encode())
    content = out.getvalue().encode()
    assert [content[start:end] for start, end in csv_spans(content)] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,b\n1,2", [b"a,b", b"1,2"]),
        (b"a,b\r\n\r\n1,2\r\n", [b"a,b", b"1,2"]),
        (b'a,b\n1,x "y" z\n"2",\n', [b"a,b", b'1,x "y" z', b'"2",']),
        (b'a,b\n"1 ""q""\nnext",2\n', [b"a,b", b'"1 ""q""\nnext",2']),
        (b"a\n\xff\xfe\n", [b"a", b"\xff\xfe"]),
        (b"a,b\n1,", [b"a,b", b"1,"]),
        (b"", []),
    ],
)
def test_csv_records(content, expected):
    assert [content[start:end] for start, end in csv_spans(content)] == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]))
def test_the_elements_of_a_json_array_are_found_again(values, indent):
    content = json.dumps(values, indent=indent).encode()
    assert [json.loads(content[start:end]) for start, end in json_spans(content)] == values


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=2), max_size=4))
def test_json_lines_are_found_again(values):
    content = "\n".join(json.dumps(value) for value in values).encode()
    assert [json.loads(content[start:end]) for start, end in json_spans(content)] == values


def test_a_truncated_array_has_what_it_has():
    content = b'[{"a": 1}, {"a": [2]}, {"a'
    assert [content[start:end] for start, end in json_spans(content)] == [b'{"a": 1}', b'{"a": [2]}', b'{"a']


def delivered(files):
    @contextmanager
    def open_file(name):
        yield io.BytesIO(files[name])

    return open_file


def test_files_are_counted_by_their_records():
    table = io.BytesIO()
    parquet.write_table(pa.table({"x": range(7)}), table)
    airlines = FLIGHTS.sources["airlines"]
    assert count.of_files(delivered({"a.csv": b"carrier,name\nUA,x\n"}), airlines, RUN, ["a.csv"]).rows == 1
    assert count.of_files(delivered({"a.csv.gz": gzip.compress(b"h\n1\n2\n")}), airlines, RUN, ["a.csv.gz"]).rows == 2
    assert count.of_files(delivered({"a.csv": b""}), airlines, RUN, ["a.csv"]).rows == 0
    assert count.of_files(delivered({"a": b'[{"faa": 1}, {}]'}), FLIGHTS.sources["airports"], RUN, ["a"]).rows == 2
    lines = SimpleNamespace(format="jsonl", connection="landing", interval=None)
    assert count.of_files(delivered({"a": b'{"a": 1}\r\n\n{"a": [2,\n'}), lines, RUN, ["a"]).rows == 2
    rows = SimpleNamespace(format="parquet", connection="landing", interval=None)
    assert count.of_files(delivered({"a": table.getvalue(), "b": table.getvalue()}), rows, RUN, ["a", "b"]).rows == 14


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [("a.parquet", "parquet", b"PAR1 cut"), ("a.csv.gz", "csv", gzip.compress(b"a" * 999)[:-9])],
)
def test_a_file_that_cannot_be_counted_is_named(name, kind, content):
    source = SimpleNamespace(format=kind, connection="landing", interval=None)
    with pytest.raises(count.CountError, match=f"landing: {name} is no readable {kind} file"):
        count.of_files(delivered({name: content}), source, RUN, [name])


def test_of_a_file_the_rows_of_the_run_count():
    days = [datetime(2012, 12, 31), datetime(2013, 1, 9), datetime(2013, 1, 10), datetime(2013, 1, 20), None]
    table = io.BytesIO()
    parquet.write_table(pa.table({"sched_dep": pa.array(days, pa.timestamp("us"))}), table)
    part = SimpleNamespace(interval_from=datetime(2013, 1, 10), interval_to=datetime(2013, 1, 20))
    name = "flights-2013-01.parquet"
    found = count.of_files(delivered({name: table.getvalue()}), FLIGHTS.sources["flights_files"], part, [name])
    assert found.rows == 3, "the one of the tenth, and those that go to quarantine: another month's, and one of no time"
    lines = "id,sched_dep\n" + "".join(f"1,{day or ''}\n" for day in days)
    source = replace(FLIGHTS.sources["flights_files"], format="csv", files="flights-%Y-%m.csv")
    assert (
        count.of_files(delivered({"flights-2013-01.csv": lines.encode()}), source, part, ["flights-2013-01.csv"]).rows
        == 3
    )
    lines = "".join(json.dumps({"sched_dep": day and str(day)}) + "\n" for day in days) + "broken\n"
    source = replace(FLIGHTS.sources["flights_files"], format="jsonl", files="flights-%Y-%m.jsonl")
    names = ["flights-2013-01.jsonl"]
    assert count.of_files(delivered({names[0]: lines.encode()}), source, part, names).rows == 3 + 1


def test_of_a_file_of_dates_the_rows_of_the_run_count():
    """Dates of Parquet are no moments; what JSON has in their place may be anything, and goes to quarantine."""
    days, out = [date(2013, 1, 31), date(2013, 2, 1), None], io.BytesIO()
    parquet.write_table(pa.table({"day": pa.array(days, pa.date32())}), out)
    source = replace(FLIGHTS.sources["airlines"], interval="day", format="parquet", files="a")
    assert count.of_files(delivered({"a": out.getvalue()}), source, RUN, ["a"]).rows == 2
    source = replace(source, format="json")
    rows = b'[{"day": "2013-01-31"}, {"day": "2013-02-01"}, {"day": 20130201}, {"day": {"of": "x"}}, {}, [1]]'
    assert count.of_files(delivered({"a": rows}), source, RUN, ["a"]).rows == 5
    assert count.of_files(delivered({"a": b'{"day": "2013-02-01"}'}), source, RUN, ["a"]).rows == 0
    source = replace(source, format="csv")
    content = "\ufeffday,x\n2013-01-31,1\n2013-02-01,2\n".encode()
    assert count.of_files(delivered({"a": content}), source, RUN, ["a"]).rows == 1, "a byte order mark is no letter"


MOMENTS = {  # text: whether it is of January, by what Spark makes of it; null is of any month
    "2013-01-31": True,
    "2013-02-01": False,
    " 2013-02-01 ": False,
    "2013-2-1": False,
    "2013-2-1 10:00:00": False,
    "2013-02-01T10:00:00.5+01:00": False,
    "2013-02-01T00:30:00+01:00": True,
    "20130201": True,
    "2013-W06-1": True,
    "2013-02-31": True,
    "soon": True,
}


@pytest.mark.parametrize("text", MOMENTS)
def test_texts_are_the_moments_that_spark_takes_them_for(text):
    source = replace(FLIGHTS.sources["airlines"], interval="day", format="csv", files="a")
    found = count.of_files(delivered({"a": f"day\n{text}\n".encode()}), source, RUN, ["a"])
    assert found.rows == MOMENTS[text]


class Api:
    """A requests session that answers with documents in turn."""

    def __init__(self, *documents, ok=True):
        self.documents, self.ok, self.asked = list(documents), ok, []

    def get(self, address, params, timeout):
        self.asked.append((address, params))
        answer = SimpleNamespace(ok=self.ok, url=address, status_code=500, reason="Out of order")
        answer.json = lambda: self.documents.pop(0)
        return answer


def test_an_api_says_how_many_rows_it_has():
    api, weather = Api({"total": 26115, "observations": []}), FLIGHTS.sources["weather"]
    assert count.of_pages(api, "https://api", weather, RUN, "America/New_York").rows == 26115
    ((address, query),) = api.asked
    assert address == "https://api/v1/observations"
    assert (query["from"], query["to"]) == ("2013-01-01T05:00:00Z", "2013-02-01T05:00:00Z")
    with pytest.raises(count.CountError, match="weather_api: https://api/v1/observations answers 500 Out of order"):
        count.of_pages(Api(ok=False), "https://api", weather, RUN, "UTC")


def test_linked_pages_are_counted_to_the_end():
    source = replace(FLIGHTS.sources["weather"], page=Page(next="next", most=3))
    pages = [{"observations": [1, 2], "next": "https://api/2"}, {"observations": [3], "next": None}]
    assert count.of_pages(Api(*pages), "https://api", source, RUN, "UTC").rows == 3
    with pytest.raises(count.CountError, match="more than 3 pages"):
        count.of_pages(Api(*[pages[0]] * 4), "https://api", source, RUN, "UTC")


@pytest.mark.parametrize(
    ("page", "document", "complaint"),
    [
        (
            {"next": "next"},
            {"rows": []},
            "weather_api: https://api/v1/observations has no list of rows in `observations`",
        ),
        ({"next": "next"}, [], "has no list of rows"),
        (
            {"next": "next"},
            {"observations": [1], "next": "http://api/2"},
            "weather_api: the next page is 'http://api/2'",
        ),
        ({"next": "next"}, {"observations": [1], "next": "/v1?page=2"}, "which is no URL of HTTPS"),
        (
            {"total": "meta.total", "number": "page", "size": "rows", "rows": 9},
            {"meta": []},
            "says None where `meta.total`",
        ),
    ],
)
def test_pages_that_are_not_as_declared_are_named(page, document, complaint):
    source = replace(FLIGHTS.sources["weather"], page=Page(**page))
    with pytest.raises(count.CountError, match=complaint):
        count.of_pages(Api(document), "https://api", source, RUN, "UTC")


def test_an_answer_that_is_no_json_is_named():
    api = Api()
    api.documents = SimpleNamespace(pop=lambda _: json.loads("<html>"))
    with pytest.raises(count.CountError, match="weather_api: https://api/v1/observations answers no JSON"):
        count.of_pages(api, "https://api", FLIGHTS.sources["weather"], RUN, "UTC")


class Cursor:
    """A DB-API cursor that remembers what it was asked."""

    asked = ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def cursor(self):
        return self

    def execute(self, query, arguments):
        self.asked = (query, arguments)

    def fetchone(self):
        return (42,)


def test_a_database_counts_its_query_over_the_same_bounds():
    database = Cursor()
    found = count.of_query(database, FLIGHTS.sources["flights_table"], RUN)
    assert found.rows == 42 and "flights_db" in found.how
    query, bounds = database.asked
    assert query.startswith("select count(*) from (\nselect * from flights where sched_dep >= %s and sched_dep < %s")
    assert bounds == (RUN.interval_from, RUN.interval_to)
    count.of_query(database, replace(FLIGHTS.sources["planes"], query="select 1 -- one"), RUN)
    assert database.asked == ("select count(*) from (\nselect 1 -- one\n) as counted", ())
