"""What the warehouse must publish of the TPC-H orders, computed with pandas from freshly generated data.

Independent of the product on purpose: nothing of jobs/ or roles/ is imported. Run it to see the figures as JSON:

    python -m tests.oracle.tpch_orders [SCALE]
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pandas as pd

MONEY = dict.fromkeys(("o_totalprice", "l_quantity", "l_extendedprice", "l_discount", "l_tax"), Decimal)


@dataclass
class Shop:
    """TPC-H's orders, line items and customers, with the columns of the benchmark; amounts are Decimal."""

    orders: pd.DataFrame
    lines: pd.DataFrame
    customers: pd.DataFrame

    def of(self, months: set[str]) -> "Shop":
        """The same with only the orders of some months (YYYY-MM)."""
        orders = self.orders[self.orders.o_orderdate.str[:7].isin(months)]
        return Shop(orders, self.lines[self.lines.l_orderkey.isin(orders.o_orderkey)], self.customers)


def generate(scale: str = "0.01") -> Shop:
    """The data of a scale factor, as the generator makes them."""
    program = Path(sysconfig.get_path("scripts"), "tpchgen-cli")
    with tempfile.TemporaryDirectory() as place:
        tables = "--tables=orders,lineitem,customer"
        subprocess.run(
            [program, "csv", "--quiet", f"--scale-factor={scale}", tables, f"--output-dir={place}"], check=True
        )
        read = [pd.read_csv(f"{place}/{name}.csv", converters=MONEY) for name in ("orders", "lineitem", "customer")]
    return Shop(*read)


def figures(shop: Shop) -> dict:
    """Everything that is compared: by month of order, by market segment, and what customers lack."""
    orders = shop.orders.assign(month=shop.orders.o_orderdate.str[:7])
    lines = shop.lines.merge(orders[["o_orderkey", "o_custkey", "month"]], left_on="l_orderkey", right_on="o_orderkey")
    lines = lines.merge(
        shop.customers[["c_custkey", "c_mktsegment"]], how="left", left_on="o_custkey", right_on="c_custkey"
    )
    lines["net"] = [
        price * (1 - discount) for price, discount in zip(lines.l_extendedprice, lines.l_discount, strict=True)
    ]
    segment = lines.c_mktsegment.fillna("UNKNOWN")
    return {
        "orders": orders.groupby("month").size().to_dict(),
        "total_price": orders.groupby("month").o_totalprice.sum().to_dict(),
        "finished": int((orders.o_orderstatus == "F").sum()),
        "order_keys": int(orders.o_orderkey.sum()),
        "lines": lines.groupby("month").size().to_dict(),
        "quantity": lines.groupby("month").l_quantity.sum().to_dict(),
        "net_price": lines.groupby("month").net.sum().to_dict(),
        "revenue": lines.groupby(segment).net.sum().to_dict(),
        "customers": len(shop.customers),
        "unknown_customers": sorted(set(orders.o_custkey) - set(shop.customers.c_custkey)),
    }


if __name__ == "__main__":
    json.dump(figures(generate(*sys.argv[1:])), sys.stdout, indent=2, default=str)
    print()
