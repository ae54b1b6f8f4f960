"""Load, audit, publish and undo on a real server: what readers see, before, during and after."""

import random
import threading
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import psycopg
import pytest
from warehouse_kit import SCHEMAS, delays, flight, flights, manifest

from jobs.load import audit, ledger, publish, staging
from jobs.load.audit import AuditFailed
from jobs.load.publish import PublishLocked, PublishRefused
from jobs.load.staging import StagingError

JAN, FEB, MAR, APR = (date(2013, month, 1) for month in (1, 2, 3, 4))
PUBLISHED = ("fact_flight", "agg_delay_day", "dim_airline", "dim_airport", "dim_plane")


def load(warehouse, run, *args, **kwargs):
    """Everything up to a passed audit."""
    warehouse.prepare(run, *args, **kwargs)
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    audit.check(warehouse.conn, warehouse.declaration, run)


def go(warehouse, run, *args, **kwargs):
    """A whole run; returns the published versions."""
    load(warehouse, run, *args, **kwargs)
    versions = publish.publish(warehouse.conn, warehouse.declaration, run)
    ledger.finish_run(warehouse.conn, run, "published")
    return versions


def content(warehouse, lineage=True) -> dict[str, list]:
    """All published rows as JSON, without the columns that name the run unless `lineage`."""
    drop = "" if lineage else " - 'run_id' - 'release'"
    return {
        name: warehouse.rows(f"select to_jsonb(t){drop} as r from dwh.{name} as t order by r") for name in PUBLISHED
    }


def leftovers(warehouse) -> list[str]:
    return [row[0] for row in warehouse.rows("select tablename from pg_tables where schemaname = 'staging'")]


def test_a_first_run(warehouse):
    facts = flights(JAN, MAR) + [flight(1, FEB, None)]
    versions = go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), facts)
    assert [(v["table"], v["partition"], v["version"], v["rows"]) for v in versions] == [
        ("fact_flight", "fact_flight_201301", 1, 62),
        ("fact_flight", "fact_flight_201302", 1, 57),
    ]
    (row,) = warehouse.rows("select * from dwh.fact_flight where flight_id = 1", user="etl_read")
    assert (
        row[:2] == (1, FEB) and row[2].isoformat() == "2013-02-01T12:30:00+00:00" and row[16:18] == ("r1", "release1")
    )
    assert row[8] is None and row[12] is True
    assert warehouse.rows("select name from dwh.dim_airline") == [('United, "Air" Lines',)]
    assert warehouse.rows("select name, lat, dst from dwh.dim_airport order by faa") == [
        ("", None, None),
        ("Los Angeles", 33.94, None),
    ]
    assert leftovers(warehouse) == []
    (seen,) = warehouse.rows(
        "select state, rows_extracted, rows_rejected, audits_failed, partitions_published from etl.v_run",
        user="etl_read",
    )
    assert seen == ("published", 123, 0, 0, 2)
    indexes = warehouse.rows("select count(*) from pg_inherits where inhparent::regclass::text like '%fact_flight%'")
    assert indexes == [(2 + 2 * 4,)], "partitions, and for each the key and three indexes, all attached"


def test_memory_stays_at_a_row_group(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-03-01")
    warehouse.prepare(run, flights(JAN, MAR))
    counts = staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    assert counts == {"fact_flight": 118, "agg_delay_day": 59, "dim_airline": 1, "dim_airport": 2, "dim_plane": 1}
    assert warehouse.lake.ranges >= 2 * len(SCHEMAS)


def test_a_second_run_replaces_with_identical_content(warehouse):
    facts = flights(JAN, MAR)
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), facts)
    first = content(warehouse, lineage=False)
    versions = go(warehouse, warehouse.run("r2", "2013-01-01", "2013-03-01"), facts)
    assert content(warehouse, lineage=False) == first
    assert [v["version"] for v in versions] == [2, 2]
    assert warehouse.rows("select distinct run_id from dwh.fact_flight") == [("r2",)]
    # A row that did not change tells since when it has been so.
    assert warehouse.rows("select distinct run_id from dwh.dim_plane") == [("r1",)]


def test_the_same_run_again(warehouse):
    facts = flights(JAN, FEB)
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    versions = go(warehouse, run, facts)
    before = content(warehouse)
    assert publish.publish(warehouse.conn, warehouse.declaration, run) == versions, "already published: nothing to do"
    assert content(warehouse) == before
    assert [v["version"] for v in go(warehouse, run, facts)] == [2]
    assert content(warehouse) == before


def test_the_attempt_of_a_stage_that_recorded_no_prefix(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    warehouse.prepare(run, flights(JAN, FEB))
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_stage set prefix = null")
    with pytest.raises(
        StagingError, match=r"s3://curated/dim_airline/dt=2013-01-01/run_id=r1/attempt=2 is not complete"
    ):
        staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, 2)
    assert staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, 3)["fact_flight"] == 62


def test_a_month_covered_in_part_keeps_its_other_days(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    middle = flights(date(2013, 1, 10), date(2013, 2, 5), delay=60, per_day=3)
    go(warehouse, warehouse.run("r2", "2013-01-10", "2013-02-05"), middle)
    expected = {fact["flight_id"]: 60 for fact in middle}
    for fact in flights(JAN, date(2013, 1, 10)) + flights(date(2013, 2, 5), MAR):
        expected[fact["flight_id"]] = 5
    assert dict(warehouse.rows("select flight_id, dep_delay_minutes from dwh.fact_flight")) == expected
    assert warehouse.rows("select run_id, count(*) from dwh.fact_flight group by 1 order by 1") == [
        ("r1", 66),
        ("r2", 78),
    ]
    assert warehouse.rows("select sum(flights) from dwh.agg_delay_day") == [(len(expected),)]


def test_days_that_lost_their_rows_lose_them(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    versions = go(warehouse, warehouse.run("r2", "2013-02-01", "2013-04-01"), [])
    assert [(v["partition"], v["rows"]) for v in versions] == [("fact_flight_201302", 0)], (
        "no partition without any reason"
    )
    assert warehouse.rows("select max(flight_date) from dwh.fact_flight") == [(date(2013, 1, 31),)]
    assert warehouse.rows("select max(flight_date) from dwh.agg_delay_day") == [(date(2013, 1, 31),)]


def test_dimensions_are_merged(warehouse):
    go(
        warehouse,
        warehouse.run("r1", "2013-01-01", "2013-02-01"),
        flights(JAN, FEB),
        {
            "dim_plane": [
                {"tailnum": "N1", "year": 1999, "known": True},
                {"tailnum": "N2", "known": False},
                {"tailnum": "N3", "year": 2003, "known": True},
            ]
        },
    )
    go(
        warehouse,
        warehouse.run("r2", "2013-02-01", "2013-03-01"),
        flights(FEB, MAR),
        {
            "dim_plane": [
                {"tailnum": "N1", "year": 2000, "known": True},
                {"tailnum": "N2", "year": 2002, "known": True},
                {"tailnum": "N3", "known": False},
            ]
        },
    )
    assert warehouse.rows("select tailnum, year, known, run_id from dwh.dim_plane order by 1") == [
        ("N1", 2000, True, "r2"),
        ("N2", 2002, True, "r2"),
        ("N3", 2003, True, "r1"),
    ], "a described member is not lost to an unknown one"


BAD = {
    "key_unique": lambda facts: facts + [facts[0]],
    "inside_interval": lambda facts: facts + [flight(9, date(2013, 3, 1))],
    "destination_known": lambda facts: facts + [flight(9, JAN, dest="XYZ")],
    "plane_known": lambda facts: facts + [flight(9, JAN, tailnum="N404")],
    "carrier_known": lambda facts: facts + [flight(9, JAN, carrier="??")],
    "required": lambda facts: facts + [flight(9, JAN, origin=None)],
    "key_not_null": lambda facts: facts + [flight(None, JAN)],
    "delay_range": lambda facts: facts + [flight(9, JAN, delay=5000)],
    "cancelled_has_no_delay": lambda facts: facts + [flight(9, JAN, cancelled=True)],
}


@pytest.mark.parametrize("name", BAD)
def test_a_failed_audit_publishes_nothing(warehouse, name):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    before = content(warehouse)
    run = warehouse.run("r2", "2013-01-01", "2013-02-01")
    facts = BAD[name](flights(JAN, FEB, delay=7))
    with pytest.raises(AuditFailed, match=f"{name} of fact_flight: expected .*, found") as failed:
        load(warehouse, run, facts, aggregates=delays(flights(JAN, FEB)))
    assert name in {result.audit for result in failed.value.results if not result.passed}
    assert (name, False) in warehouse.rows("select audit, passed from etl.audit_result where run_id = 'r2'")
    with pytest.raises(PublishRefused, match=name):
        publish.publish(warehouse.conn, warehouse.declaration, run)
    assert content(warehouse) == before
    assert warehouse.rows("select count(*) from etl.partition_version") == [(1,)]


@pytest.mark.parametrize(
    ("name", "key"),
    [("required", "(9,2013-01-01)"), ("delay_range", "(9,2013-01-01)"), ("key_not_null", "(,2013-01-01)")],
)
def test_a_failed_audit_names_a_row(warehouse, name, key):
    with pytest.raises(AuditFailed) as failed:
        load(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), BAD[name](flights(JAN, FEB)))
    (result,) = [one for one in failed.value.results if (one.dataset, one.audit) == ("fact_flight", name)]
    assert result.found == f"1 rows against it, such as {key}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            "update etl.run_stage set rows_out = 63 where dataset = 'fact_flight'",
            "rows_staged of fact_flight: expected 63 rows, found 62 rows",
        ),
        (
            "update etl.run_stage set rows_in = 61 where dataset = 'clean_flights_files'",
            "rows_read of flights_files: expected 62 rows, found 61 rows",
        ),
        (
            "update etl.run_stage set rows_out = 63 where dataset = 'clean_flights_files'",
            "fact_rows of fact_flight: expected 63 rows as clean_flights",
        ),
        (
            "delete from etl.run_source where dataset = 'planes'",
            "rows_read of planes: expected a sealed manifest, found none in the ledger",
        ),
        ("delete from etl.run_stage", "rows_staged of dim_plane: expected none recorded, found 1 rows"),
    ],
)
def test_counts_that_disagree(warehouse, change, complaint):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    with warehouse.connect("etl_owner") as conn:
        conn.execute(change)
    with pytest.raises(AuditFailed, match=complaint):
        audit.check(warehouse.conn, warehouse.declaration, run)


def test_totals_that_disagree(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    with pytest.raises(
        AuditFailed,
        match="aggregate_total of agg_delay_day: expected sum of flights 62 as rows of fact_flight, found 60",
    ):
        load(warehouse, run, flights(JAN, FEB), aggregates=delays(flights(JAN, date(2013, 1, 31))))


def test_what_was_not_audited_is_not_published(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    with pytest.raises(PublishRefused, match="neither staged nor published"):
        publish.publish(warehouse.conn, warehouse.declaration, run)
    load(warehouse, run, flights(JAN, FEB))
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    with pytest.raises(PublishRefused, match="have not been audited"):
        publish.publish(warehouse.conn, warehouse.declaration, run)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda lake, key: lake.objects.pop(("curated", f"{key}/_SUCCESS")), "is not complete: it has no _SUCCESS"),
        (
            lambda lake, key: lake.put(key, [{"carrier": "UA"}], SCHEMAS["fact_flight"]),
            "columns missing: name; unexpected: air_time",
        ),
    ],
)
def test_curated_rows_that_do_not_fit(warehouse, spoil, complaint):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    warehouse.prepare(run, flights(JAN, FEB))
    spoil(warehouse.lake, "dim_airline/dt=2013-01-01/run_id=r1/attempt=3")
    with pytest.raises(StagingError, match=complaint):
        staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)


def test_an_interval_of_parts_of_days_is_refused(warehouse):
    run = warehouse.run("r1", "2013-01-01 06:00:00", "2013-02-01")
    with pytest.raises(ValueError, match="must start and end at midnight"):
        load(warehouse, run, flights(JAN, FEB))


def test_a_transaction_of_the_caller_is_refused(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    warehouse.conn.execute("select 1")
    with pytest.raises(psycopg.ProgrammingError, match="inside a transaction"):
        publish.publish(warehouse.conn, warehouse.declaration, run)


def watch(warehouse, work) -> list[tuple]:
    """Everything two readers see of the three kinds of table, each time in one statement, while `work` runs."""
    query = """
        select
            (select (min(dep_delay_minutes), max(dep_delay_minutes), count(*))::text from dwh.fact_flight),
            (select (min(mean_dep_delay_minutes), max(mean_dep_delay_minutes), sum(flights))::text from dwh.agg_delay_day),
            (select (min(year), max(year), 118 * count(*))::text from dwh.dim_plane)
    """
    seen, errors, done = [], [], threading.Event()

    def read():
        try:
            with warehouse.connect("etl_read") as conn:
                while not done.is_set():
                    seen.append(conn.execute(query).fetchone())
        except psycopg.Error as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        work()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not errors
    return seen


def state(warehouse, number):
    """A run in which every delay and every plane's year is `number`."""
    run = warehouse.run(f"r{number}", "2013-01-01", "2013-03-01")
    planes = [{"tailnum": "N1", "year": number, "known": True}]
    go(warehouse, run, flights(JAN, MAR, delay=number), {"dim_plane": planes})


def test_readers_see_the_old_or_the_new(warehouse):
    state(warehouse, 0)
    seen = watch(warehouse, lambda: [state(warehouse, number) for number in range(1, 6)])
    assert {row for row in seen if len(set(row)) > 1} == set(), "a mix of old and new"
    assert {row[0] for row in seen} <= {f"({number},{number},118)" for number in range(6)}
    assert len(set(seen)) > 2, "the readers saw several states"


def test_the_readers_would_notice_a_mix(warehouse):
    """A publisher of two transactions is found out."""
    state(warehouse, 0)

    def careless():
        with warehouse.connect("etl_owner") as conn:
            for number in range(1, 6):
                conn.execute(f"update dwh.fact_flight set dep_delay_minutes = {number}")
                conn.execute(f"update dwh.agg_delay_day set mean_dep_delay_minutes = {number}; select pg_sleep(0.05)")

    assert {row for row in watch(warehouse, careless) if len(set(row)) > 1}


def test_a_locked_table_is_tried_again(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    with warehouse.connect("etl_read", autocommit=False) as reader:
        reader.execute("select count(*) from dwh.fact_flight")
        waits = []

        def sleep(seconds):
            waits.append(seconds)
            assert warehouse.rows("select count(*) from dwh.fact_flight") == [(0,)], (
                "others read while the publisher sleeps"
            )
            if len(waits) == 2:
                reader.commit()

        versions = publish.publish(warehouse.conn, warehouse.declaration, run, sleep=sleep)
    assert len(waits) == 2
    assert [v["rows"] for v in versions] == [62]
    assert warehouse.rows("select count(*) from etl.publication") == [(1,)]


def test_a_table_that_stays_locked(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    with warehouse.connect("etl_read", autocommit=False) as reader:
        reader.execute("select count(*) from dwh.fact_flight")
        with pytest.raises(PublishLocked, match=r"fact_flight locked for 0 s by etl_read pid \d+"):
            publish.publish(warehouse.conn, warehouse.declaration, run, patience=0)
    assert warehouse.rows("select count(*) from dwh.dim_plane") == [(0,)], "all or nothing"
    assert [v["rows"] for v in publish.publish(warehouse.conn, warehouse.declaration, run)] == [62]
    assert len(warehouse.rows("select 1 from pg_tables where tablename like 'fact_flight_2%'")) == 1, (
        "nothing left over"
    )


def test_a_second_publisher_waits_for_its_turn(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    load(warehouse, run, flights(JAN, FEB))
    with warehouse.connect("etl_load") as other:
        other.execute("select pg_advisory_lock(hashtext('etl.publish'), hashtext('fact_flight'))")
        with pytest.raises(PublishLocked, match="another run has been publishing dwh.fact_flight"):
            publish.publish(warehouse.conn, warehouse.declaration, run, patience=0.2)
    assert publish.publish(warehouse.conn, warehouse.declaration, run)


def test_two_runs_at_once_lose_nothing(warehouse):
    """Each replaces its own half of a month, built from the published rows of the other half."""
    halves = [("2013-01-01", "2013-01-16"), ("2013-01-16", "2013-02-01")]
    runs = [warehouse.run(f"r{number}", *half) for number, half in enumerate(halves)]
    for run in runs:
        load(warehouse, run, flights(run.interval_from.date(), run.interval_to.date()))

    def go_on(run):
        with warehouse.connect("etl_load", autocommit=False) as conn:
            publish.publish(conn, warehouse.declaration, run)

    threads = [threading.Thread(target=go_on, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warehouse.rows("select run_id, count(*) from dwh.fact_flight group by 1 order by 1") == [
        ("r0", 30),
        ("r1", 32),
    ]


class Killed(Exception):
    """Stands for a process that dies."""


def test_interrupted_at_every_statement(warehouse, monkeypatch):
    """Publishing dies at its first, second, third ... statement until it survives; readers see all or nothing of it."""
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    before = content(warehouse)
    facts = flights(date(2013, 1, 10), MAR, delay=9)
    run = warehouse.run("r2", "2013-01-10", "2013-03-01")
    load(warehouse, run, facts)
    for step in range(1, 200):
        with warehouse.connect("etl_load", autocommit=False) as conn:
            count, execute = 0, psycopg.Connection.execute

            def dying(self, *args, conn=conn, step=step, execute=execute, **kwargs):
                nonlocal count
                if self is conn:
                    count += 1
                    if count == step:
                        conn.close()
                        raise Killed
                return execute(self, *args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(psycopg.Connection, "execute", dying)
                try:
                    publish.publish(conn, warehouse.declaration, run)
                    break
                except Killed:
                    pass
        now = content(warehouse)
        if now != before:
            assert leftovers(warehouse) == [], "published: what follows is keeping house"
    else:
        pytest.fail("never survived")
    assert step > 20
    assert warehouse.rows("select count(*) from etl.publication") == [(2,)]
    assert warehouse.rows("select run_id, count(*) from dwh.fact_flight group by 1 order by 1") == [
        ("r1", 18),
        ("r2", len(facts)),
    ]
    assert warehouse.rows("select count(*) from pg_tables where tablename like 'fact_flight_2%'") == [(4,)]


def test_what_ended_without_a_word_is_closed_by_the_next_run(warehouse):
    """Killed before it published, killed after it, still going, and one that Airflow knows nothing of."""
    for name in ("dead", "live", "unknown"):
        ledger.start_run(warehouse.conn, warehouse.run(name, "2013-01-01", "2013-02-01"))
    done = warehouse.run("done", "2013-01-01", "2013-02-01")
    load(warehouse, done, flights(JAN, FEB))
    publish.publish(warehouse.conn, warehouse.declaration, done)
    ends = {"manual__dead": "failed", "manual__done": "failed", "manual__live": None}
    run = warehouse.run("next", "2013-01-01", "2013-02-01")
    ledger.start_run(warehouse.conn, run)
    assert ledger.close_ended(warehouse.conn, run, ends.get) == ["dead", "done"]
    assert ledger.close_ended(warehouse.conn, run, ends.get) == []
    rows = warehouse.rows("select run_id, state, error, finished_at is null from etl.run order by 1")
    assert rows == [
        ("dead", "failed", "ended as failed in Airflow without a word here; seen by run next", False),
        ("done", "published", None, False),
        ("live", "running", None, True),
        ("next", "running", None, True),
        ("unknown", "running", None, True),
    ]


@pytest.mark.parametrize(
    ("given", "id_of_run"),
    [
        ("flights_2013-01-01_2014-01-01", "flights_2013-01-01_2014-01-01"),
        ("scheduled__2013-01-01T05:00:00+00:00", "orders.scheduled__2013-01-01T05_00_00_00_00"),
        ("manual__2013-01-01T05:00:00.5+00:00_x9", "orders.manual__2013-01-01T05_00_00.5_00_00_x9"),
        ("backfill__2013", "orders.backfill__2013"),
        ("manually started", "manually_started"),
    ],
)
def test_names_that_airflow_gives_are_told_apart_by_their_dag(given, id_of_run):
    assert ledger.run_id_of("orders", given) == id_of_run


def test_a_run_of_another_pipeline_with_the_same_id_is_refused_and_changes_nothing(warehouse):
    """People gave two runs one name."""
    first = warehouse.run("january", "2013-01-01", "2013-02-01")
    go(warehouse, first, flights(JAN, FEB))
    other = replace(first, pipeline="orders")
    with pytest.raises(
        ledger.RunIdTaken, match=f"{first.run_id} of orders cannot be opened: .* of flights has this id"
    ):
        ledger.start_run(warehouse.conn, other)
    warehouse.conn.rollback()
    ledger.finish_run(warehouse.conn, other, "failed", "start: the id is taken")
    with pytest.raises(ledger.RunIdTaken):
        ledger.start_run(warehouse.conn, replace(first, dag_run_id="another that is spelt alike"))
    warehouse.conn.rollback()
    assert warehouse.rows("select pipeline, state, error from etl.run") == [("flights", "published", None)]


def read_at(warehouse, run_id, moment):
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_source set extracted_at = %s where run_id = %s", (moment, run_id))


def test_a_run_that_another_has_overtaken_does_not_bring_old_rows_back(warehouse):
    """One whose tasks are cleared: what it has sealed is of the day on which it began."""
    run, days = warehouse.run("r1", "2013-01-01", "2013-02-01"), (date(2013, 1, 10), date(2013, 1, 20))
    plane = {"tailnum": "N1", "year": 2000, "known": True}
    go(warehouse, run, flights(JAN, FEB))
    go(warehouse, warehouse.run("r2", *map(str, days)), flights(*days, delay=60), {"dim_plane": [plane]})
    load(warehouse, run, flights(JAN, FEB))
    audit.require_newest(warehouse.conn, warehouse.declaration, run)
    read_at(warehouse, "r2", "2026-01-02")
    with pytest.raises(AuditFailed) as failed:
        audit.require_newest(warehouse.conn, warehouse.declaration, run)
    assert {result.dataset: result.found.partition(":")[0] for result in failed.value.results if not result.passed} == {
        "fact_flight": "20 rows of r2",
        "agg_delay_day": "10 rows of r2",
        "dim_plane": "1 rows of r2",
    }
    assert "read_latest of fact_flight" in str(failed.value) and "start a new run over 2013-01-01" in str(failed.value)
    with pytest.raises(PublishRefused, match="read_latest of fact_flight"):
        publish.publish(warehouse.conn, warehouse.declaration, run)
    publish.undo(warehouse.conn, "r2")
    audit.require_newest(warehouse.conn, warehouse.declaration, run)


def test_what_a_later_run_read_of_other_days_overtakes_nobody(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    go(warehouse, warehouse.run("r2", "2013-02-01", "2013-03-01"), flights(FEB, MAR))
    load(warehouse, run, flights(JAN, FEB))
    read_at(warehouse, "r2", "2026-01-02")
    audit.require_newest(warehouse.conn, warehouse.declaration, run)


def test_history_is_kept_as_long_as_declared(warehouse):
    for number in range(6):
        go(warehouse, warehouse.run(f"r{number}", "2013-01-01", "2013-02-01"), flights(JAN, FEB, delay=number))
    kept = warehouse.rows(
        "select tablename from pg_tables where schemaname = 'dwh_history' and tablename like 'fact%' order by 1"
    )
    assert [name for (name,) in kept] == [f"fact_flight_201301__v000{number}" for number in (3, 4, 5)]
    assert warehouse.rows("select count(*) from etl.partition_version where dropped_at is not null") == [(2,)]
    assert (
        len(
            warehouse.rows(
                "select distinct publication_id from dwh_history.row_version where table_name = 'agg_delay_day'"
            )
        )
        == 3
    )


def test_undo_restores_what_was_there(warehouse):
    first = warehouse.run("r1", "2013-01-01", "2013-02-01")
    go(warehouse, first, flights(JAN, FEB), {"dim_plane": [{"tailnum": "N1", "year": 1999, "known": True}]})
    before = content(warehouse)
    go(
        warehouse,
        warehouse.run("r2", "2013-01-10", "2013-03-01"),
        flights(date(2013, 1, 10), MAR, delay=60, per_day=1),
        {"dim_plane": [{"tailnum": "N1", "year": 2000, "known": True}, {"tailnum": "N2", "known": False}]},
    )
    assert content(warehouse) != before
    back = publish.undo(warehouse.conn, "r2")
    assert [(v["partition"], v["version"], v["run_id"]) for v in back] == [("fact_flight_201301", 1, "r1")]
    assert content(warehouse) == before
    assert publish.undo(warehouse.conn, "r2") == [], "undone already"
    assert warehouse.rows("select state from etl.run order by run_id") == [("published",), ("undone",)]
    publish.undo(warehouse.conn, "r1")
    assert content(warehouse) == {name: [] for name in PUBLISHED}


def test_undo_of_a_run_that_published_twice(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    before = content(warehouse)
    run = warehouse.run("r2", "2013-01-01", "2013-02-01")
    go(warehouse, run, flights(JAN, FEB, delay=1))
    go(warehouse, run, flights(JAN, FEB, delay=2))
    publish.undo(warehouse.conn, "r2")
    assert content(warehouse) == before


def test_after_an_undo_the_next_run_publishes(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    run = warehouse.run("r2", "2013-01-01", "2013-02-01")
    go(warehouse, run, flights(JAN, FEB, delay=1))
    publish.undo(warehouse.conn, "r2")
    versions = go(warehouse, run, flights(JAN, FEB, delay=1))
    assert [v["version"] for v in versions] == [3]
    assert warehouse.rows("select distinct dep_delay_minutes from dwh.fact_flight") == [(1,)]


def test_undo_refuses_below_a_later_run(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    go(warehouse, warehouse.run("r2", "2013-02-01", "2013-04-01"), flights(FEB, APR))
    before = content(warehouse)
    with pytest.raises(
        PublishRefused, match="run r2 published some of the same days or months after run r1: undo it first"
    ):
        publish.undo(warehouse.conn, "r1")
    assert content(warehouse) == before
    with pytest.raises(PublishRefused, match="run r9 has published nothing"):
        publish.undo(warehouse.conn, "r9")


def test_undo_refuses_below_a_later_run_of_other_days_of_the_month(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-01-10"), flights(JAN, date(2013, 1, 10)))
    go(warehouse, warehouse.run("r2", "2013-01-10", "2013-02-01"), flights(date(2013, 1, 10), FEB))
    with pytest.raises(PublishRefused, match="run r2 published some of the same days or months after run r1"):
        publish.undo(warehouse.conn, "r1")


def test_undo_of_several_runs_is_one_step(warehouse):
    """r2 published below and above r3: neither can be taken back alone, both can together."""
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    before = content(warehouse)
    second, third = warehouse.run("r2", "2013-01-01", "2013-02-01"), warehouse.run("r3", "2013-01-10", "2013-03-01")
    go(warehouse, second, flights(JAN, FEB, delay=1))
    go(warehouse, third, flights(date(2013, 1, 10), MAR, delay=2))
    go(warehouse, second, flights(JAN, FEB, delay=3))
    for run_id in ("r2", "r3"):
        with pytest.raises(PublishRefused):
            publish.undo(warehouse.conn, run_id)
    seen = []
    back = publish.undo(warehouse.conn, ["r3", "r2"], record=seen.append)
    assert [(v["partition"], v["version"]) for v in back] == [("fact_flight_201301", 1)] and seen == [back]
    assert content(warehouse) == before


def test_rows_of_an_undone_run_do_not_come_back(warehouse):
    """Two runs of different months change one plane; whichever way they are taken back, the first run's row is left."""
    planes = [{"dim_plane": [{"tailnum": "N1", "year": year, "known": True}]} for year in (1999, 2000, 2001)]
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB), planes[0])
    before = content(warehouse)
    go(warehouse, warehouse.run("r2", "2013-02-01", "2013-03-01"), flights(FEB, MAR), planes[1])
    go(warehouse, warehouse.run("r3", "2013-03-01", "2013-04-01"), flights(MAR, APR), planes[2])
    publish.undo(warehouse.conn, "r2")
    assert warehouse.rows("select year, run_id from dwh.dim_plane") == [(2001, "r3")], "what came later stays"
    publish.undo(warehouse.conn, "r3")
    assert content(warehouse) == before


def test_undo_keeps_dimension_rows_that_others_may_use(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    go(warehouse, warehouse.run("r2", "2013-02-01", "2013-03-01"), flights(FEB, MAR))
    publish.undo(warehouse.conn, "r1")
    assert warehouse.rows("select min(flight_date), max(flight_date) from dwh.fact_flight") == [
        (FEB, date(2013, 2, 28))
    ]
    assert warehouse.rows("select count(*) from dwh.dim_airport") == [(2,)]


def test_undo_refuses_what_is_no_longer_kept(warehouse):
    for number in range(6):
        go(warehouse, warehouse.run(f"r{number}", "2013-01-01", "2013-02-01"), flights(JAN, FEB, delay=number))
    for number in (5, 4, 3):
        publish.undo(warehouse.conn, f"r{number}")
    assert warehouse.rows("select distinct dep_delay_minutes from dwh.fact_flight") == [(2,)]
    with pytest.raises(PublishRefused, match="the rows that run r2 replaced are no longer kept"):
        publish.undo(warehouse.conn, "r2")


def test_random_runs_agree_with_a_plain_model(warehouse):
    """Ten random intervals over three months, some undone: the warehouse equals a dict of days."""
    generator = random.Random(7)
    model, states = {}, []
    days = [date.fromordinal(JAN.toordinal() + offset) for offset in range(90)]
    for number in range(10):
        first, last = sorted(generator.sample(range(90), 2))
        start, end = days[first], days[last]
        states.append(dict(model))
        facts = flights(start, end, delay=number, per_day=generator.randint(0, 2))
        for day in days[first:last]:
            model[day] = [fact["flight_id"] for fact in facts if fact["flight_date"] == day]
        go(warehouse, warehouse.run(f"r{number}", str(start), str(end)), facts)
        if generator.random() < 0.4:
            publish.undo(warehouse.conn, f"r{number}")
            model = states[-1]
        expected = sorted((day, flight_id) for day, ids in model.items() for flight_id in ids)
        assert warehouse.rows("select flight_date, flight_id from dwh.fact_flight order by 1, 2") == expected
        assert warehouse.rows("select coalesce(sum(flights), 0) from dwh.agg_delay_day") == [(len(expected),)]


BALANCE = """
    select dataset, extracted, published, quarantined, superseded, difference, balanced, published_in
    from etl.v_balance order by dataset
"""


def test_every_source_is_in_balance(warehouse):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    assert warehouse.rows(BALANCE, user="etl_read") == [
        ("airlines", 1, 1, 0, 0, 0, True, "dim_airline"),
        ("airports", 2, 2, 0, 0, 0, True, "dim_airport"),
        ("flights_files", 62, 62, 0, 0, 0, True, "fact_flight"),
        ("planes", 1, 1, 0, 0, 0, True, "dim_plane"),
        ("weather", 0, 0, 0, 0, 0, True, None),
    ]


def counted(warehouse, run, rows, before=None):
    count = SimpleNamespace(rows=rows, how="the test")
    ledger.record_count(warehouse.conn, run, "flights_files", count, SimpleNamespace(rows=before) if before else count)


def test_quarantined_and_superseded_rows_are_in_the_balance(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    facts = flights(JAN, FEB)
    warehouse.prepare(run, facts)
    stage = {"rows_in": 67, "rows_out": 62, "rejected": {"carrier_missing": 2, "superseded": 3}}
    ledger.record_stage(
        warehouse.conn,
        run,
        {"stage": "clean_data", "datasets": {"clean_flights_files": stage}, "seconds": 1, "attempt": 4},
    )
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update etl.run_source set row_count = 67 where dataset = 'flights_files'")
        conn.execute("delete from etl.run_stage where stage = 'clean' and dataset = 'clean_flights_files'")
        conn.execute("delete from etl.run_reject where stage = 'clean'")
    counted(warehouse, run, 67)
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    audit.check(warehouse.conn, warehouse.declaration, run)
    assert warehouse.rows(BALANCE)[2] == ("flights_files", 67, 62, 2, 3, 0, True, "fact_flight")
    assert warehouse.rows("select dataset, rule, row_count, attempt, released_by from etl.v_quarantine") == [
        ("flights_files", "carrier_missing", 2, 4, None)
    ]
    assert warehouse.rows("select rows_rejected from etl.v_run") == [(2,)]


@pytest.mark.parametrize("rows", [61, 63])
def test_a_row_that_only_the_source_knows_of_or_does_not_know_of_is_seen(warehouse, rows):
    """Manifest, stages and staged rows agree with each other; the source says otherwise."""
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    warehouse.prepare(run, flights(JAN, FEB))
    counted(warehouse, run, rows)
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    with pytest.raises(
        AuditFailed, match=rf"1 of \d+ .* balance of flights_files: expected {rows} rows .*found 62 published"
    ):
        audit.check(warehouse.conn, warehouse.declaration, run)
    with pytest.raises(PublishRefused, match="balance of flights_files"):
        publish.publish(warehouse.conn, warehouse.declaration, run)
    assert [row[6] for row in warehouse.rows(BALANCE)] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("before", "after", "passes"), [(60, 64, True), (62, 99, True), (63, 99, False), (60, 61, False)]
)
def test_a_source_that_changed_while_it_was_read(warehouse, before, after, passes):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    warehouse.prepare(run, flights(JAN, FEB))
    counted(warehouse, run, after, before)
    staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, run.attempt)
    if passes:
        audit.check(warehouse.conn, warehouse.declaration, run)
    else:
        with pytest.raises(AuditFailed, match="balance of flights_files"):
            audit.check(warehouse.conn, warehouse.declaration, run)


def test_a_retry_that_extracts_nothing_keeps_the_count_of_the_extraction(warehouse):
    run = warehouse.run("r1", "2013-01-01", "2013-02-01")
    warehouse.prepare(run, flights(JAN, FEB))
    counted(warehouse, run, 64, 60)
    ledger.record_count(warehouse.conn, run, "flights_files", SimpleNamespace(rows=90, how="later"))
    ledger.record_extract(warehouse.conn, run, manifest(run, warehouse.declaration.sources["flights_files"], 62))
    assert warehouse.rows(
        "select source_rows_before, source_rows, counted_by from etl.run_source where dataset = 'flights_files'"
    ) == [(60, 64, "the test")]


def test_rows_of_files_are_those_that_their_source_counts(warehouse):
    """A manifest knows how many files it has, not how many rows are in them."""
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    assert warehouse.rows("select count(*) > 0 from etl.run_source where row_count is null") == [(True,)]
    extracted = warehouse.rows("select sum(extracted)::bigint from etl.v_balance")
    assert warehouse.rows("select rows_extracted from etl.v_run") == extracted != [(31,)]
