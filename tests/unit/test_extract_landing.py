"""Which files a run takes: names by month, all of them there, none of them still being written."""

from dataclasses import replace
from datetime import datetime

import pytest

from jobs.declaration import load
from jobs.extract.landing import Entry, FilesMisnamed, FilesMissing, FilesUnsettled, choose, period_of, periods, settled

AIRLINES = load("flights").sources["airlines"]
FLIGHTS = load("flights").sources["flights_files"]
JANUARY, MARCH = datetime(2013, 1, 1), datetime(2013, 3, 1)


def named(*names):
    return {name: Entry(1, 0.0) for name in names}


@pytest.mark.parametrize(
    ("pattern", "start", "end", "names"),
    [
        ("f-%Y-%m.csv", datetime(2012, 12, 15), datetime(2013, 2, 1), ["f-2012-12.csv", "f-2013-01.csv"]),
        ("f-%Y-%m.csv", datetime(2013, 1, 10), datetime(2013, 1, 11), ["f-2013-01.csv"]),
        (
            "f-%Y%m%d*.csv",
            datetime(2013, 2, 27),
            datetime(2013, 3, 2),
            ["f-20130227*.csv", "f-20130228*.csv", "f-20130301*.csv"],
        ),
        ("f-%Y.csv", datetime(2013, 6, 1), datetime(2014, 1, 1), ["f-2013.csv"]),
        ("f.csv", JANUARY, MARCH, ["f.csv"]),
    ],
)
def test_a_pattern_names_what_the_interval_touches(pattern, start, end, names):
    assert list(periods(pattern, start, end)) == names


def test_a_file_is_about_the_whole_month_that_it_is_named_for():
    period = period_of("flights-2013-02.parquet", FLIGHTS, datetime(2013, 2, 10), datetime(2013, 2, 20))
    assert period == (datetime(2013, 2, 1), MARCH)
    assert period_of("airlines.csv", AIRLINES, JANUARY, MARCH) is None
    with pytest.raises(ValueError, match=r"flights-2013-07.parquet is not of the interval"):
        period_of("flights-2013-07.parquet", FLIGHTS, JANUARY, MARCH)


def test_every_month_needs_its_file():
    listed = named("flights-2013-01.parquet", "flights-2013-03.parquet", "other.csv")
    with pytest.raises(FilesMissing, match=r"flights_files: landing has no file flights-2013-02.parquet$"):
        choose(FLIGHTS, listed, JANUARY, MARCH)
    listed |= named("flights-2013-02.parquet")
    assert list(choose(FLIGHTS, listed, JANUARY, MARCH)) == ["flights-2013-01.parquet", "flights-2013-02.parquet"]


def test_a_file_whose_name_no_request_may_have_is_named():
    """NiFi would refuse the request without a word about which it is."""
    source = replace(AIRLINES, files="a-*.csv")
    with pytest.raises(
        FilesMisnamed, match=r"airlines: landing has 'a-1 \(copy\).csv', 'a-é.csv': a name is of letters"
    ):
        choose(source, named("a-1.csv", "a-é.csv", "a-1 (copy).csv", "other one.csv"), JANUARY, MARCH)


def test_a_file_is_taken_once_it_stays_the_same():
    looks = iter([named("airlines.csv") | {"airlines.csv": Entry(size, size)} for size in (10, 20, 30, 30)])
    pauses = []
    files = settled(AIRLINES, lambda: next(looks), JANUARY, MARCH, sleep=pauses.append)
    assert files == [{"name": "airlines.csv", "size": 30}]
    assert pauses == [AIRLINES.settle] * 3


def test_a_new_name_that_matches_is_waited_for_as_well():
    source = replace(AIRLINES, files="airlines*.csv")
    looks = iter(
        [named("airlines.csv"), named("airlines.csv", "airlines-2.csv"), named("airlines.csv", "airlines-2.csv")]
    )
    assert len(settled(source, lambda: next(looks), JANUARY, MARCH, sleep=lambda _: None)) == 2


def test_a_file_that_never_settles_is_named():
    sizes = iter(range(100))
    with pytest.raises(
        FilesUnsettled, match=r"airlines: landing is still being written: airlines.csv changed within 2 s"
    ):
        settled(
            AIRLINES,
            lambda: {"airlines.csv": Entry(next(sizes), 0.0)},
            JANUARY,
            MARCH,
            patience=5,
            sleep=lambda _: None,
        )
