"""The loader killed (SIGKILL) before every statement and every write of COPY, while a reader looks on as in tests/system/test_chaos.py."""

import json
import multiprocessing
import os
import signal
from datetime import date
from itertools import count

import psycopg
import pytest
from test_load_publish import content, flights, go, leftovers
from warehouse_kit import delays

from jobs.load import audit, ledger, publish, staging
from tests import chaos, chaos_statements

JAN, FEB = date(2013, 1, 1), date(2013, 2, 1)
MONTH = {"partition": "fact_flight_201301", "start": "2013-01-01", "end": "2013-02-01"}


@pytest.fixture
def seen(warehouse):
    """Looks at what is published, in one snapshot, each time that it is called; returns all that was seen."""
    seen = chaos.Seen()
    with warehouse.connect("etl_read", autocommit=False) as conn:

        def look() -> chaos.Seen:
            chaos.poll(conn, MONTH, seen)
            return seen

        yield look


def die(warehouse, work, step: int, place) -> bool:
    """Do some work in a process that dies at a step of it; whether it died."""
    place.write_text(json.dumps({"from": "", "count": "", "step": step}))

    def child() -> None:
        chaos_statements.PLAN = str(place)
        chaos_statements.counting(psycopg)
        with warehouse.connect("etl_load", autocommit=False) as conn:
            work(conn)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def test_killed_at_every_statement_of_every_task(warehouse, seen, tmp_path):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    run, facts = warehouse.run("r2", "2013-01-01", "2013-02-01"), flights(JAN, FEB, delay=9)
    warehouse.prepare(run, facts)
    declared, lake = warehouse.declaration, warehouse.lake
    tasks = {
        "staging": lambda conn: staging.load(conn, lake, declared, run, run.attempt),
        "audit": lambda conn: audit.check(conn, declared, run),
        "publish": lambda conn: publish.publish(conn, declared, run),
        "finish": lambda conn: ledger.finish_run(conn, run, "published"),
    }
    killed = {}
    for name, work in tasks.items():
        for step in count(1):
            if not die(warehouse, work, step, tmp_path / "plan"):
                break
            killed[name] = step
            seen()
    assert seen().mixes == []
    assert seen().runs == ["r1", "r2"]
    assert min(killed["staging"], killed["publish"]) > 30 and min(killed["audit"], killed["finish"]) > 3
    assert leftovers(warehouse) == []
    found = content(warehouse, lineage=False)
    assert len(found["fact_flight"]) == len(facts) and len(found["agg_delay_day"]) == len(delays(facts))
    assert {row[0]["dep_delay_minutes"] for row in found["fact_flight"]} == {9}
    go(warehouse, warehouse.run("r3", "2013-01-01", "2013-02-01"), facts)
    assert content(warehouse, lineage=False) == found, "as an undisturbed run has it"
    balance = warehouse.rows("select distinct difference from etl.v_balance where run_id in ('r2', 'r3')")
    assert balance == [(0,)]
    assert warehouse.rows("select state from etl.run where run_id = 'r2'") == [("published",)]


def test_the_reader_sees_a_mix_and_rows_that_do_not_add_up(warehouse, seen):
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    assert seen().mixes == []
    with warehouse.connect("etl_owner") as conn:
        conn.execute("update dwh.agg_delay_day set run_id = 'other' where flight_date = '2013-01-05'")
        assert {mix[1] for mix in seen().mixes} == {"r1", "other"}
        conn.execute("update dwh.agg_delay_day set run_id = 'r1'")
        seen().mixes.clear()
        conn.execute("delete from dwh.fact_flight where flight_date = '2013-01-07' and flight_id % 2 = 0")
        assert [mix[0] for mix in seen().mixes] == [date(2013, 1, 7)]
