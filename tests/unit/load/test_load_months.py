"""A pipeline whose runs replace months: only months with new or changed rows get a version, whatever the run's interval."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from warehouse_kit import manifest

from jobs import declaration
from jobs.load import audit, ledger, publish, staging
from jobs.load.audit import AuditFailed

MONEY, SUM = pa.decimal128(15, 2), pa.decimal128(20, 4)
SCHEMAS = {
    "dim_customer": pa.schema(
        {"customer_key": pa.int64(), "name": pa.string(), "nation": pa.string(), "market_segment": pa.string()}
        | {"balance": MONEY, "known": pa.bool_()}
    ),
    "fact_order": pa.schema(
        {"order_key": pa.int64(), "order_date": pa.date32(), "customer_key": pa.int64(), "status": pa.string()}
        | {"total_price": MONEY, "priority": pa.string(), "clerk": pa.string()}
        | {"updated_at": pa.timestamp("us", "UTC"), "customer_known": pa.bool_()}
    ),
    "fact_line_item": pa.schema(
        {"order_key": pa.int64(), "line_number": pa.int32(), "order_date": pa.date32(), "customer_key": pa.int64()}
        | {"market_segment": pa.string(), "part_key": pa.int64(), "supplier_key": pa.int64(), "quantity": MONEY}
        | {"extended_price": MONEY, "discount": MONEY, "tax": MONEY, "net_price": pa.decimal128(18, 4)}
        | {"return_flag": pa.string(), "ship_date": pa.date32(), "ship_mode": pa.string(), "order_known": pa.bool_()}
    ),
    "agg_revenue_day": pa.schema(
        {"order_date": pa.date32(), "market_segment": pa.string(), "orders": pa.int32(), "lines": pa.int32()}
        | {"quantity": pa.decimal128(18, 2), "revenue": SUM}
    ),
}
JAN, FEB, MAR, MAY = (date(1995, month, 10) for month in (1, 2, 3, 5))


def tables(orders: dict[int, date], price: int = 10) -> dict[str, list[dict]]:
    """Curated rows of orders (day by key), each with one line at a price."""
    customer = {"customer_key": 1, "name": "C", "known": True}
    order = {
        "customer_key": 1,
        "status": "O",
        "total_price": Decimal(price),
        "updated_at": datetime(1999, 1, 1, tzinfo=UTC),
    }
    line = {
        "line_number": 1,
        "customer_key": 1,
        "market_segment": "BUILDING",
        "quantity": Decimal(1),
        "order_known": True,
    }
    line |= {"extended_price": Decimal(price), "net_price": Decimal(price), "discount": Decimal(0)}
    days = sorted(set(orders.values()))
    counts = {day: list(orders.values()).count(day) for day in days}
    return {
        "dim_customer": [customer],
        "fact_order": [
            order | {"order_key": key, "order_date": day, "customer_known": True} for key, day in orders.items()
        ],
        "fact_line_item": [line | {"order_key": key, "order_date": day} for key, day in orders.items()],
        "agg_revenue_day": [
            {"order_date": day, "market_segment": "BUILDING", "orders": rows, "lines": rows}
            | {"quantity": Decimal(rows), "revenue": Decimal(rows * price)}
            for day, rows in counts.items()
        ],
    }


@pytest.fixture
def shop(warehouse):
    """The warehouse with the orders pipeline, and `go`: a whole run, which returns its partitions."""
    warehouse.declaration = declaration.load("orders")
    numbers = iter(range(1, 100))

    def go(orders: dict[int, date], months: set[date], price: int = 10, deleted: int = 0) -> dict[str, int]:
        """Publish orders of `months`; `deleted` more were read and left out."""
        number = next(numbers)
        run = ledger.Run(
            f"r{number}", f"r{number}", "orders", "release1", 1, "1999-01-01 06:00:00", "1999-01-01 18:30:00"
        )
        rows = tables(orders, price)
        read = {"orders": len(orders) + deleted, "line_items": len(orders) + deleted, "customers": 1}
        ledger.start_run(warehouse.conn, run)
        for source in warehouse.declaration.sources.values():
            ledger.record_extract(warehouse.conn, run, manifest(run, source, read[source.name]))
        clean = {f"clean_{name}": {"rows_in": count, "rows_out": count} for name, count in read.items()}
        ledger.record_stage(warehouse.conn, run, {"stage": "clean_data", "datasets": clean})
        written = {}
        for name, table in warehouse.declaration.publish.items():
            prefix = f"{name}/run_id={run.run_id}"
            warehouse.lake.put(prefix, rows[name], SCHEMAS[name])
            written[name] = {"rows_in": 1, "rows_out": len(rows[name]), "prefix": f"s3a://curated/{prefix}"}
            if table.whole_months:
                written[name]["months"] = sorted(str(month.replace(day=1)) for month in months)
            if table.where:
                written[name] |= {"left_out": deleted, "left_out_of": f"clean_{table.source}"}
        ledger.record_stage(warehouse.conn, run, {"stage": "enrich_data", "datasets": written})
        staging.load(warehouse.conn, warehouse.lake, warehouse.declaration, run, 1)
        audit.check(warehouse.conn, warehouse.declaration, run)
        versions = publish.publish(warehouse.conn, warehouse.declaration, run)
        return {version["partition"]: version["rows"] for version in versions if version["table"] == "fact_order"}

    warehouse.go = go
    return warehouse


def orders(shop) -> dict[int, tuple[date, int]]:
    rows = shop.rows("select order_key, order_date, total_price::int from dwh.fact_order order by 1", user="etl_read")
    return {row[0]: row[1:] for row in rows}


def revenue(shop) -> dict[date, int]:
    return dict(shop.rows("select order_date, revenue::int from dwh.agg_revenue_day order by 1", user="etl_read"))


def test_months_that_are_not_the_runs_stay(shop):
    everything = {1: JAN, 2: JAN, 3: FEB, 4: MAY}
    assert shop.go(everything, set(everything.values())) == {
        "fact_order_199501": 2,
        "fact_order_199502": 1,
        "fact_order_199505": 1,
    }
    assert shop.go({3: FEB, 5: FEB}, {FEB}, price=20) == {"fact_order_199502": 2}
    assert orders(shop) == {1: (JAN, 10), 2: (JAN, 10), 3: (FEB, 20), 4: (MAY, 10), 5: (FEB, 20)}
    assert revenue(shop) == {JAN: 20, FEB: 40, MAY: 10}
    current = shop.rows(
        "select partition_name, version, run_id from etl.v_published where table_name = 'fact_line_item' order by 1"
    )
    assert current == [
        ("fact_line_item_199501", 1, "r1"),
        ("fact_line_item_199502", 2, "r2"),
        ("fact_line_item_199505", 1, "r1"),
    ]


def test_an_order_that_is_left_out_is_gone_and_accounted_for(shop):
    shop.go({1: JAN, 2: JAN}, {JAN})
    shop.go({2: JAN}, {JAN}, deleted=1)
    assert set(orders(shop)) == {2}
    assert shop.rows("select dataset, superseded from etl.v_balance where run_id = 'r2' order by 1") == [
        ("customers", 0),
        ("line_items", 1),
        ("orders", 1),
    ]


def test_a_month_of_which_no_order_is_left_is_empty(shop):
    shop.go({1: JAN, 2: FEB}, {JAN, FEB})
    assert shop.go({}, {JAN}, deleted=1) == {"fact_order_199501": 0}
    assert set(orders(shop)) == {2}
    assert set(revenue(shop)) == {FEB}


def test_a_run_without_changes_publishes_nothing(shop):
    shop.go({1: JAN}, {JAN})
    assert shop.go({}, set()) == {}
    assert set(orders(shop)) == {1}


def test_an_order_that_another_month_keeps_stops_the_run(shop):
    shop.go({1: JAN, 2: JAN}, {JAN})
    with pytest.raises(
        AuditFailed,
        match=r"in_one_month of fact_order: .* 1 rows that another month has too, such as \(1\) on 1995-01-10",
    ):
        shop.go({1: MAR}, {MAR})
    assert shop.go({1: MAR, 2: JAN}, {JAN, MAR}) == {"fact_order_199501": 1, "fact_order_199503": 1}


def test_a_row_of_a_month_that_the_stage_did_not_record_stops_the_run(shop):
    with pytest.raises(AuditFailed, match="inside_interval of fact_order"):
        shop.go({1: JAN, 2: FEB}, {JAN})


def test_undo_gives_every_month_of_the_run_back(shop):
    shop.go({1: JAN, 2: FEB}, {JAN, FEB})
    before = orders(shop), revenue(shop)
    shop.go({1: JAN, 3: JAN}, {JAN}, price=30)
    publish.undo(shop.conn, "r2")
    assert (orders(shop), revenue(shop)) == before
