"""Declarations are checked before anything is made of them, and the message leads to the line."""

import re
import textwrap
from datetime import datetime

import pytest

from jobs.declaration import PIPELINES, DeclarationError, Retention, connections, load, load_all

ROOT = PIPELINES.parents[1]
FLIGHTS = (PIPELINES / "flights.yml").read_text()


@pytest.fixture
def declare(tmp_path):
    """Write a declaration that differs from the flights' and return its directory."""

    def write(*changes: tuple[str, str], name: str = "flights"):
        text = FLIGHTS
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        (tmp_path / f"{name}.yml").write_text(text)
        return tmp_path

    return write


def line_of(directory, text: str, name: str = "flights") -> int:
    lines = (directory / f"{name}.yml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_two_pipelines_with_one_port_are_refused(declare):
    directory = declare()
    declare(("pipeline: flights", "pipeline: orders"), name="orders")
    line = line_of(directory, "port: 9443", "orders")
    with pytest.raises(DeclarationError, match=rf"orders.yml:{line}: port: 9443 is that of the pipeline flights"):
        load_all(directory)


def test_a_table_of_two_pipelines_is_refused(declare):
    directory = declare()
    declare(("pipeline: flights", "pipeline: orders"), ("port: 9443", "port: 9444"), name="orders")
    line = line_of(directory, "  dim_airline:", "orders")
    with pytest.raises(
        DeclarationError, match=rf"orders.yml:{line}: publish.dim_airline: the pipeline flights publishes"
    ):
        load_all(directory)


def test_a_table_from_no_source_is_refused(declare):
    directory = declare(("from: airlines", "from: airline"))
    line = line_of(directory, "from: airline")
    with pytest.raises(
        DeclarationError,
        match=rf"flights.yml:{line}: publish.dim_airline.from: there is no source 'airline';.*did you mean airlines",
    ):
        load("flights", directory)


TWO_ORIGINS = """
  flights:
    interval: sched_dep
    key: [id]
    columns: {id: bigint, sched_dep: timestamp, origin: string, dest: string, tailnum: string}
    from:
      files: {kind: sftp, connection: landing, files: "f-%Y-%m.parquet", format: parquet, until: 2013-07-01}
      table: {kind: sql, connection: db, since: 2013-07-01, query: "select * from f where sched_dep >= ? and sched_dep < ?"}
"""


@pytest.fixture
def two_origins(declare):
    start, end = FLIGHTS.index("  flights:"), FLIGHTS.index("  weather:")

    def write(*changes):
        text = TWO_ORIGINS
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        return declare((FLIGHTS[start:end], text.lstrip("\n")))

    return write


def test_the_sources_that_the_manual_shows_are_right(tmp_path):
    """Those under "Add a source" in docs/usage.md."""
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/usage.md").read_text(), re.DOTALL)
    rest = "publish: {dim_stock: {kind: dimension, from: stock, columns: {sku: sku, pieces: pieces}, key: [sku]}}\n"
    head = "pipeline: shop\ndescription: x\nowner: x\nalerts: x@example.org\nport: 9459\nsources:\n"
    (tmp_path / "shop.yml").write_text(f"{head}{textwrap.indent(textwrap.dedent(shown), '  ')}{rest}")
    assert {source.kind for source in load("shop", tmp_path).sources.values()} == {"sql", "sftp", "rest"}


def test_origins_share_what_their_dataset_declares(two_origins):
    sources = load("flights", two_origins()).sources
    files, table = sources["flights_files"], sources["flights_table"]
    assert (files.dataset, table.dataset, sources["planes"].dataset) == ("flights", "flights", "planes")
    assert files.key == table.key == ("id",)
    assert files.columns == table.columns
    assert files.columns["sched_dep"] == "timestamp"
    year = datetime(2013, 1, 1), datetime(2014, 1, 1)
    assert files.overlap(*year) == (datetime(2013, 1, 1), datetime(2013, 7, 1))
    assert table.overlap(*year) == (datetime(2013, 7, 1), datetime(2014, 1, 1))
    assert table.overlap(datetime(2013, 2, 1), datetime(2013, 3, 1)) is None


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("since: 2013-07-01", "since: 2013-06-01", "      table:", "shares days with another origin"),
        ("key: [id]", "key: [identity]", "key: ", "'identity' is not among the columns"),
        ("key: [id]", "key: [i_d]", "key: ", "did you mean id?"),
        (" and sched_dep < ?", "", "      table:", "needs 2 bounds"),
        ("sched_dep: timestamp", "sched_dep: timestmap", "columns:", "a type of Spark SQL, such as"),
        ("until: 2013-07-01", "untill: 2013-07-01", "      files:", "unknown key: did you mean until"),
        ("kind: sftp", "kind: stfp", "      files:", "'stfp' is none of sql, sftp, directory, rest: did you mean sftp"),
        ("connection: landing, ", "", "      files:", "needs `connection`"),
        ("    columns: {id: bigint", "    colums: {id: bigint", "    colums:", "did you mean columns"),
        (
            "since: 2013-07-01",
            "since: 2013-07-08",
            "      table:",
            "no origin has the days from 2013-07-01 to 2013-07-08",
        ),
        ("f-%Y-%m.parquet", "in/f-%Y-%m.parquet", "      files:", "cannot stand here (file name without a directory"),
        ("f-%Y-%m.parquet", "f-%Y-%m-%H.parquet", "      files:", "%Y, %m and %d ask for a file of each year"),
        ("sched_dep < ?", "sched_dep < ?;", "      table:", "ends with a semicolon"),
        ("since: 2013-07-01", "since: 2013-02-30", "      table:", "there is no day 2013-02-30"),
        ("until: 2013-07-01", "since: 2014-01-01, until: 2013-07-01", "      files:", "it would never be read"),
        ("id: bigint", 'id: "decimal(40, 2)"', "columns:", "there is no decimal(40, 2): at most 38 digits"),
        ("id: bigint", 'id: "decimal(4, 8)"', "columns:", "no more after the point than in all"),
        (
            "    key: [id]\n",
            "    key: [id]\n    key: [sched_dep]\n",
            "key: [sched_dep]",
            "key is here twice, first on line",
        ),
    ],
)
def test_an_error_leads_to_its_line_and_says_what_would_be_right(two_origins, old, new, at, message):
    directory = two_origins((old, new))
    line = line_of(directory, at)
    with pytest.raises(DeclarationError) as error:
        load("flights", directory)
    assert str(error.value).startswith(f"{directory}/flights.yml:{line}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("columns: {carrier: carrier", "colums: {carrier: carrier", "unknown key: did you mean columns"),
        ("planes: {match", "aeroplanes: {match", "there is no source 'aeroplanes'.*did you mean planes"),
        (
            "unknown: [flights.tailnum]",
            "unknown: [flight.tailnum]",
            "there is no source 'flight'.*did you mean flights",
        ),
        ("unknown: [flights.tailnum]", "unknown: [tailnum]", "source.column"),
        ("from: fact_flight", "from: dim_plane", "there is no fact table 'dim_plane'; fact tables are fact_flight"),
        ("[origin, dest], [tailnum]]", "[origin, dst], [tailnum]]", "there is no column 'dst'.*did you mean dest"),
        ("{column: flight_date, by: month}", "{column: day, by: month}", "day must be among `key`"),
        ("{column: flight_date, by: month}", "{column: flight_date, by: year}", "'year' is none of month"),
        ("references: dim_airline", "references: dim_airlines", "did you mean dim_airline"),
        ("unknown: [flights.tailnum]", "unknown: [flights.tail]", "there is no column 'tail'.*did you mean tailnum"),
        (
            "timezone: America/New_York",
            "timezone: America/NewYork",
            "there is no time zone.*did you mean America/New_York",
        ),
        ("{name: airport_missing, ", "{name: carrier_missing,  ", "carrier_missing is the name of another one above"),
        ("{name: carrier_missing, ", "{name: superseded, ", "superseded is a rule that every source has"),
        ("  dim_plane:", "  clean_plane:", "names that begin with clean_ are those of cleaned sources"),
        ("      carrier: carrier\n", "      release: carrier\n", "the table has a column release of its own"),
        ("faa: faa, name: name", "known: name, faa: faa, name: name", "the table has a column known of its own"),
        ("  dim_plane:", f"  dim_{'plane' * 9}:", "a name of 49 letters; 47 at most"),
        (
            "    files: airlines.csv",
            "    encoding: latin-1\n    files: airlines.csv",
            "'latin-1' is none of utf-8, us-ascii, iso-88",
        ),
        ("total: total", "totl: total", "unknown key: did you mean total"),
        ('{from: "{from_utc}"', '{from: "{start}"', "{start} is none of {from}, {to}, {from_utc}, {to_utc}"),
        (
            "equals_rows_of: clean_flights",
            "equals_rows_of: flights",
            "there is no dataset 'flights'.*did you mean clean_flights",
        ),
        (
            "columns: [carrier], references",
            "columns: [carrier, dest], references",
            "dim_airline has a key of 1: carrier",
        ),
        ("agg_delay_day, sum: flights, ", "agg_delay_day, ", "has `equals_count_of` .an audit has one of"),
        (
            "columns: {faa: string",
            "columns: {faa: decimal(4,1)",
            "in {…} a value with a comma is in quotation marks",
        ),
        ("sum: flights", "sum: flihts", "there is no column 'flihts'.*did you mean flights"),
    ],
)
def test_a_name_that_nothing_declares_is_told_with_what_may_be_meant(declare, old, new, said):
    directory = declare((old, new))
    line = line_of(directory, new.partition("\n")[0])
    with pytest.raises(DeclarationError, match=rf"flights.yml:{line}: .*{said}"):
        load("flights", directory)


def test_unknown_members_are_known_by_one_column(declare):
    directory = declare(("    key: [tailnum]\n  fact", "    key: [tailnum, year]\n  fact"))
    line = line_of(directory, "unknown: [flights.tailnum]")
    with pytest.raises(
        DeclarationError, match=rf"flights.yml:{line}: publish.dim_plane.unknown: .* a key of one column"
    ):
        load("flights", directory)


MONTHLY = ("{column: flight_date, by: month}", "{column: flight_date, by: month, replace: months}")
GROUPED = "key: [flight_date, carrier, origin, dest] # group by\n    columns:"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [(GROUPED, "key: [carrier, origin, dest]\n    columns:\n      flight_date: max(flight_date)")],
            "flight_date must be among `key`",
        ),
        (
            [(GROUPED, f"{GROUPED}\n      flight_date: to_date(scheduled_departure)")],
            "flight_date is not flight_date as it",
        ),
        (
            [(GROUPED, f"{GROUPED}\n      flight_date: trunc(flight_date, 'month')")],
            "days a run replaces the rows of fact_f",
        ),
        ([(GROUPED, f"{GROUPED}\n      flight_date: flight_date")], None),
        ([MONTHLY, (GROUPED, f"{GROUPED}\n      flight_date: trunc(flight_date, 'month')")], None),
        (
            [MONTHLY, (GROUPED, f"{GROUPED}\n      flight_date: to_date(scheduled_departure)")],
            "is not made of flight_date",
        ),
    ],
)
def test_an_aggregate_is_replaced_by_the_days_of_its_facts(declare, changes, said):
    """By any other day a run would take rows out whose other facts it has not read."""
    directory = declare(*changes)
    if said is None:
        assert load("flights", directory)
        return
    line = line_of(directory, "    interval: flight_date")
    with pytest.raises(DeclarationError, match=rf"flights.yml:{line}: publish.agg_delay_day.interval: .*{said}"):
        load("flights", directory)


def test_an_origin_that_would_have_the_name_of_a_source_is_refused(two_origins):
    """One of both would never be read."""
    other = "  flights_table: {kind: rest, connection: c, path: /x, page: {next: n}, records: r, key: [a], columns: {a: int}}\n"
    directory = two_origins(("  flights:\n", f"{other}  flights:\n"))
    line = line_of(directory, "      table: {kind")
    with pytest.raises(
        DeclarationError, match=rf"flights.yml:{line}: sources.flights.from.table: would be flights_table"
    ):
        load("flights", directory)


def test_what_is_no_yaml_is_told_with_its_line(declare):
    directory = declare(("sources:", "sources: ["))
    with pytest.raises(DeclarationError, match=r"flights.yml:\d+: this is not YAML: expected"):
        load("flights", directory)


def test_an_unknown_pipeline_is_told_with_the_known_ones():
    with pytest.raises(DeclarationError, match="no such pipeline: did you mean flights?"):
        load("flight")


def test_retention_has_defaults_of_its_own(declare):
    assert load("flights", declare()).retention == Retention()
    retention = load("flights", declare(("audits:", "retention: {raw: 30}\n\naudits:"))).retention
    assert retention == Retention(raw=30)


def test_what_origins_connect_to_is_told_with_its_line(two_origins):
    directory = two_origins()
    told = list(connections(directory))
    line = line_of(directory, "      table:")
    assert {"connection": "db", "kind": "sql", "place": f"{directory}/flights.yml:{line}"} in told
    line = line_of(directory, "connection: planes_db")
    assert {"connection": "planes_db", "kind": "sql", "place": f"{directory}/flights.yml:{line}"} in told
    assert len(told) == len(load("flights", directory).sources)
