"""What only Spark can say of a declaration is said before anything is deployed, and the message leads to the line."""

import logging
import re
from dataclasses import replace

import pytest

from jobs import check
from jobs.declaration import PIPELINES, DeclarationError, Rule, load, names
from tests.deployed import ROOT


@pytest.fixture(scope="module")
def spark():
    level = logging.getLogger("SQLQueryContextLogger").level
    session = check.session()
    yield session
    session.stop()
    logging.getLogger("SQLQueryContextLogger").setLevel(level)


@pytest.fixture(scope="module")
def checked(spark):
    return {name: check.Check(spark, load(name)) for name in names()}


@pytest.mark.parametrize("name", names())
def test_declarations_are_right(checked, name):
    assert checked[name].errors == []
    assert list(checked[name].tables) == list(load(name).publish)


def test_the_worked_example_is_right(spark, tmp_path):
    """What docs/worked-example.md tells to write."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/worked-example.md").read_text(), re.DOTALL)
    (tmp_path / "energy.yml").write_text(text)
    energy = load("energy", tmp_path)
    assert energy.port not in {load(name).port for name in names()}
    example = check.Check(spark, energy)
    assert example.errors == [] and list(example.tables) == list(energy.publish)
    assert ("cost", "decimal(18,4)") in example.tables["agg_energy_day"].dtypes


def changed(declaration, table, **columns):
    """The declaration with other expressions for columns of a table."""
    tables = declaration.publish
    return replace(
        declaration, publish={**tables, table: replace(tables[table], columns=tables[table].columns | columns)}
    )


def line(text):
    return next(n for n, one in enumerate((PIPELINES / "orders.yml").read_text().splitlines(), 1) if text in one)


ORDERS = load("orders")


@pytest.mark.parametrize(
    ("declaration", "place", "text", "said"),
    [
        (
            replace(
                ORDERS,
                sources={
                    **ORDERS.sources,
                    "customers": replace(ORDERS.sources["customers"], rules=(Rule("r", "kee is null", ""),)),
                },
            ),
            "sources.customers.rules.0.reject_if",
            "name: customer_key_missing",
            "`kee` cannot be resolved",
        ),
        (
            changed(ORDERS, "fact_order", clerk="trim(clerk"),
            "publish.fact_order.columns.clerk",
            "clerk: clerk",
            "missing ')'",
        ),
        (
            changed(ORDERS, "fact_order", clerk="trimm(clerk)"),
            "publish.fact_order.columns.clerk",
            "clerk: clerk",
            "`trimm`",
        ),
        (
            changed(ORDERS, "fact_line_item", order_date="updated_at"),
            "publish.fact_line_item.columns.order_date",
            "line_number: line_number",
            "is a timestamp; what a run replaces goes by a date",
        ),
        (
            changed(ORDERS, "fact_order", clerk="max(clerk)"),
            "publish.fact_order.columns",
            "where: not deleted # the",
            "GROUP BY",
        ),
        (
            changed(ORDERS, "agg_revenue_day", revenue="sum(net)"),
            "publish.agg_revenue_day.columns.revenue",
            "revenue: cast(sum(net_price)",
            "`net` cannot be resolved",
        ),
    ],
    ids=["rule", "syntax", "function", "day", "sum", "aggregate"],
)
def test_an_error_leads_to_its_line(spark, declaration, place, text, said):
    (error,) = [str(e) for e in check.Check(spark, declaration).errors if f": {place}: " in str(e)]
    number = line(text) + (text.startswith(("line_number", "where")))
    assert error.startswith(f"{PIPELINES}/orders.yml:{number}: {place}: ")
    assert said in error and "SQLSTATE" not in error and "\n" not in error


def test_a_join_that_cannot_be_made(spark):
    fact = ORDERS.publish["fact_order"]
    joins = {"customers": replace(fact.joins["customers"], match="customer_key = customers.key")}
    declaration = replace(ORDERS, publish={**ORDERS.publish, "fact_order": replace(fact, joins=joins)})
    (error,) = check.Check(spark, declaration).errors
    assert isinstance(error, DeclarationError)
    assert "publish.fact_order.joins.customers: " in str(error) and "`key`" in str(error)


def test_the_draft_of_a_migration_makes_the_declared_tables(checked):
    sql = "\n".join(check.draft(checked["orders"]))
    assert "create table dwh.dim_customer (\n    customer_key bigint not null,\n    name text,\n" in sql
    assert "    balance numeric(15, 2),\n    known boolean not null,\n    run_id text not null," in sql
    assert "    primary key (order_key, order_date)\n) partition by range (order_date);" in sql
    assert "create index on dwh.fact_line_item (part_key);" in sql
    assert sql.endswith("grant insert, update, delete on dwh.dim_customer, dwh.agg_revenue_day to etl_load;")
