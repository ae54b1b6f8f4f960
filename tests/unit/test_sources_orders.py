"""The orders that the lab's sources are loaded from: TPC-H as generated, nations by name."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/sources/files/export_orders.py"
sys.path.insert(0, str(SCRIPT.parent))  # as it has when it is run
spec = importlib.util.spec_from_file_location("export_orders", SCRIPT)
export_orders = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export_orders)


def test_customers_have_their_nation_by_name():
    customer = 'c_custkey,c_name,c_address,c_nationkey,c_acctbal,c_mktsegment\n7,Seven,"a, b",1,-12.50,BUILDING\n'
    assert export_orders.customers(customer, "n_nationkey,n_name\n0,ALGERIA\n1,ARGENTINA\n") == (
        "customer_key,name,nation,market_segment,balance\n7,Seven,ARGENTINA,BUILDING,-12.50\n"
    )


@pytest.fixture
def run(tmp_path):
    """Runs the script over one cache; returns its manifest."""

    def export(scale: str = "0.001") -> dict:
        done = subprocess.run(
            [sys.executable, SCRIPT, "--cache", tmp_path, "--scale", scale], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return export


def test_an_export_is_made_once_and_counts_its_rows(run):
    first, again = run(), run()
    assert (first["fresh"], again["fresh"]) == (True, False)
    assert first["files"] == again["files"]
    assert {name: file["rows"] for name, file in first["files"].items() if name != "line_items.csv.gz"} == {
        "orders.csv.gz": 1500,
        "customers.csv": 150,
    }
    assert run("0.002")["files"]["orders.csv.gz"]["rows"] == 3000
