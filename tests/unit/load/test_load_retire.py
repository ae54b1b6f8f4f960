"""A pipeline that is taken away leaves no table, no version and nothing that readers or alerts take for published."""

from datetime import date

import psycopg
import pytest
from test_load_publish import PUBLISHED, content, go
from warehouse_kit import flights

from jobs.load import ledger

JAN, FEB = date(2013, 1, 1), date(2013, 2, 1)
RETIRE = "select etl.retire_pipeline('flights', %s)"


@pytest.fixture
def owner(warehouse):
    """Whoever migrates, after two runs over one month."""
    for run_id in ("r1", "r2"):
        go(warehouse, warehouse.run(run_id, "2013-01-01", "2013-02-01"), flights(JAN, FEB))
    with warehouse.connect("etl_owner") as conn:
        yield conn


def test_nothing_of_it_is_left(warehouse, owner):
    assert owner.execute(RETIRE, (list(PUBLISHED),)).fetchone() == (2,)
    made = (
        "select count(*) from pg_tables where schemaname in ('dwh', 'dwh_history')"
        " and tablename ~ '^(fact_flight|agg_delay|dim_(airline|airport|plane))'"
    )
    assert warehouse.rows(made) == [(0,)]
    assert warehouse.rows("select count(*) from etl.v_published where pipeline = 'flights'") == [(0,)]
    assert warehouse.rows("select count(*) from dwh_history.row_version") == [(0,)]
    assert warehouse.rows("select count(*) from etl.publication where undone_at is null or rows_kept") == [(0,)]
    assert warehouse.rows("select run_id from etl.run order by 1") == [("r1",), ("r2",)], "the ledger remembers"
    assert warehouse.rows("select count(*) from pg_tables where schemaname = 'dwh' and tablename = 'fact_order'") == [
        (1,)
    ]


def test_a_run_that_is_not_over_is_waited_for(warehouse, owner):
    ledger.start_run(warehouse.conn, warehouse.run("r3", "2013-01-01", "2013-02-01"))
    before = content(warehouse)
    with pytest.raises(psycopg.errors.ObjectInUse, match="a run of flights is not over"):
        owner.execute(RETIRE, (list(PUBLISHED),))
    assert content(warehouse) == before


def test_a_table_of_another_pipeline_stays(warehouse, owner):
    before = content(warehouse)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="dwh.fact_flight is not of the pipeline orders"):
        owner.execute("select etl.retire_pipeline('orders', array['agg_revenue_day', 'fact_flight'])")
    assert content(warehouse) == before
    assert warehouse.rows("select count(*) from dwh.agg_revenue_day") == [(0,)]


def test_only_a_migration_may(warehouse, owner):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        warehouse.conn.execute(RETIRE, (list(PUBLISHED),))
