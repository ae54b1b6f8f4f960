"""The orders pipeline on a deployed platform: late changes touch their months alone, held against pandas over generated data."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal

import pandas as pd
import pytest

from tests.oracle import tpch_orders
from tests.oracle.tpch_orders import Shop

pytestmark = pytest.mark.slow
PERIOD = ("1994-01-01", "1995-01-01")
MONTHS = {f"1994-{month:02}" for month in range(1, 13)}
CHANGES = ("1999-01-01", "1999-01-02")  # long after the last order
OVERLAPPING = ("1998-12-31", "1999-01-02")
CHANGED, DELETED, LATE = "1994-03", "1994-07", "1994-11"  # months
NEW_ORDER, NEW_CUSTOMER = 90_000_001, 999_999


@dataclass(frozen=True)
class Changes:
    """What happens at the source on the day CHANGES: an order changes, one is deleted, one of long ago comes in."""

    changed: int
    deleted: int

    @property
    def sql(self) -> str:
        """The changes as the source sees them."""
        day = f"updated_at = '{CHANGES[0]} 08:00:00'"
        return f"""
            begin;
            update orders set status = 'P', total_price = total_price + 100, {day} where order_key = {self.changed};
            update line_items set quantity = quantity + 1 where order_key = {self.changed} and line_number = 1;
            update orders set deleted = true, {day} where order_key = {self.deleted};
            insert into orders (order_key, customer_key, status, total_price, order_date, updated_at)
            values ({NEW_ORDER}, {NEW_CUSTOMER}, 'O', 90.00, '{LATE}-15', '{CHANGES[0]} 09:00:00');
            insert into line_items (order_key, line_number, quantity, extended_price, discount, tax)
            values ({NEW_ORDER}, 1, 3, 100.00, 0.10, 0.00);
            commit;
        """

    def of(self, shop: Shop) -> Shop:
        """The changes once more, in pandas."""
        orders, lines = shop.orders.copy(), shop.lines.copy()
        row = orders.o_orderkey == self.changed
        orders.loc[row, "o_orderstatus"] = "P"
        orders.loc[row, "o_totalprice"] = [price + 100 for price in orders[row].o_totalprice]
        row = (lines.l_orderkey == self.changed) & (lines.l_linenumber == 1)
        lines.loc[row, "l_quantity"] = [quantity + 1 for quantity in lines[row].l_quantity]
        order = {"o_orderkey": NEW_ORDER, "o_custkey": NEW_CUSTOMER, "o_orderstatus": "O", "o_orderdate": f"{LATE}-15"}
        line = {"l_orderkey": NEW_ORDER, "l_linenumber": 1, "l_quantity": Decimal(3), "l_extendedprice": Decimal(100)}
        orders = pd.concat(
            [orders[orders.o_orderkey != self.deleted], pd.DataFrame([order | {"o_totalprice": Decimal(90)}])]
        )
        lines = pd.concat(
            [lines[lines.l_orderkey != self.deleted], pd.DataFrame([line | {"l_discount": Decimal("0.10")}])]
        )
        return replace(shop, orders=orders, lines=lines)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return tpch_orders.generate()


@pytest.fixture(scope="module")
def changes(shop) -> Changes:
    first = shop.orders.groupby(shop.orders.o_orderdate.str[:7]).o_orderkey.min()
    return Changes(int(first[CHANGED]), int(first[DELETED]))


@pytest.fixture(scope="module")
def source(platform):
    """Runs SQL at the source of the orders, which has its first data before and after the tests."""
    host = platform.environment.hosts("sources")[0]

    def psql(arguments: str) -> None:
        platform.run(host, f"cd / && runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -d orders {arguments}")

    def load() -> None:
        psql("-f /var/lib/etl-sources/orders.sql")
        psql("-c 'grant select on orders, line_items to etl_extract'")

    load()
    yield lambda sql: psql(f'-c "{sql}"')
    load()


def published(warehouse) -> dict:
    """The figures of the oracle, as a reader finds them for MONTHS."""
    of = "order_date >= '1994-01-01' and order_date < '1995-01-01'"

    def by(key: str, value: str, table: str) -> dict:
        rows = warehouse.rows(f"select {key} as key, {value} as value from dwh.{table} where {of} group by 1")
        return {row["key"]: row["value"] for row in rows}

    month = "to_char(order_date, 'YYYY-MM')"
    customers = warehouse.one("select count(*) filter (where known) as known from dwh.dim_customer")
    unknown = warehouse.rows(
        f"select distinct customer_key as key from dwh.fact_order where {of} and not customer_known order by 1"
    )
    whole = warehouse.one(f"""
        select count(*) filter (where status = 'F') as finished, sum(order_key)::bigint as order_keys from dwh.fact_order where {of}
    """)
    return {
        "orders": by(month, "count(*)", "fact_order"),
        "total_price": by(month, "sum(total_price)", "fact_order"),
        **whole,
        "lines": by(month, "count(*)", "fact_line_item"),
        "quantity": by(month, "sum(quantity)", "fact_line_item"),
        "net_price": by(month, "sum(net_price)", "fact_line_item"),
        "revenue": by("market_segment", "sum(revenue)", "agg_revenue_day"),
        "customers": customers["known"],
        "unknown_customers": [row["key"] for row in unknown],
    }


def versions(warehouse) -> dict[str, int]:
    """The published version of every partition of the pipeline."""
    rows = warehouse.rows("select partition_name, version from etl.v_published where pipeline = 'orders'")
    return {row["partition_name"]: row["version"] for row in rows}


def touched(warehouse, run_id: str) -> dict[str, int]:
    """Rows of each partition that a run has made a version of."""
    rows = warehouse.rows("select partition_name, row_count from etl.partition_version where run_id = %s", run_id)
    return {row["partition_name"]: row["row_count"] for row in rows}


def partitions(*months: str) -> set[str]:
    return {f"{fact}_{month.replace('-', '')}" for fact in ("fact_order", "fact_line_item") for month in months}


@pytest.fixture(scope="module")
def period(source, run_pipeline):
    """The run that published all of PERIOD."""
    run = run_pipeline("orders", *PERIOD, "-e", "again=true")
    assert run.play.returncode == 0, run.play.failed or run.play.stderr
    return run


@pytest.fixture(scope="module")
def backfill(period, warehouse):
    """What was published then: figures, versions, and what the run touched."""
    return published(warehouse), versions(warehouse), touched(warehouse, period.ledger["run_id"])


@pytest.fixture(scope="module")
def two_runs(backfill, source, changes, run_pipeline):
    """Two runs over the changes, asked for at the same time, over intervals that overlap; in the order they began."""
    source(changes.sql)
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(run_pipeline, "orders", *interval, "-e", "again=true") for interval in (CHANGES, OVERLAPPING)
        ]
        runs = [run.result() for run in asked]
    for run in runs:
        assert run.play.returncode == 0, run.play.failed or run.play.stderr
    return sorted(runs, key=lambda run: run.ledger["started_at"])


def test_a_backfill_publishes_the_oracles_figures(backfill, shop):
    assert backfill[0] == tpch_orders.figures(shop.of(MONTHS))


def test_a_backfill_touches_its_months(backfill):
    assert set(backfill[2]) == partitions(*MONTHS)


def test_every_row_is_accounted_for(period, two_runs, warehouse):
    for run in (period, *two_runs):
        balance = warehouse.rows(
            "select dataset, balanced, superseded from etl.v_balance where run_id = %s", run.ledger["run_id"]
        )
        assert {row["dataset"]: row["balanced"] for row in balance} == dict.fromkeys(
            ("orders", "line_items", "customers"), True
        )


def test_late_changes_touch_their_months_alone(backfill, two_runs, warehouse):
    months = partitions(CHANGED, DELETED, LATE)
    assert [set(touched(warehouse, run.ledger["run_id"])) for run in two_runs] == [months, months]
    before, after = backfill[1], versions(warehouse)
    assert {name for name in after if after[name] != before.get(name)} == months


def test_changed_late_and_deleted_orders_are_as_the_oracle_has_them(two_runs, shop, changes, warehouse):
    expected = tpch_orders.figures(changes.of(shop.of(MONTHS)))
    assert expected != tpch_orders.figures(shop.of(MONTHS)), "the changes can be seen"
    assert published(warehouse) == expected


def test_of_two_runs_at_once_the_second_waits_and_publishes_the_same(two_runs, warehouse):
    first, second = (run.ledger for run in two_runs)
    assert first["finished_at"] <= second["started_at"]
    assert touched(warehouse, first["run_id"]) == touched(warehouse, second["run_id"])
    assert f"it waits for run {first['dag_run_id']}" in two_runs[1].play.stderr
