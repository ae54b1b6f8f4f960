"""Generate TPC-H orders, line items and customers as the lab's sources serve them.

The data are those of `tpchgen-cli` for a scale factor, unchanged: `orders.csv.gz` and `line_items.csv.gz` (for COPY: header, the columns of
TPC-H) and `customers.csv` (key, name, nation, segment and balance of each). The same package, script and scale give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.metadata
import io
import json
import subprocess
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

from kept_export import kept

PACKAGE = "tpchgen-cli"
CUSTOMER = {
    "customer_key": "c_custkey",
    "name": "c_name",
    "nation": "n_name",
    "market_segment": "c_mktsegment",
    "balance": "c_acctbal",
}


def generate(directory: Path, scale: str) -> None:
    """Write orders.csv, lineitem.csv, customer.csv and nation.csv of TPC-H into a directory."""
    program = Path(sysconfig.get_path("scripts"), PACKAGE)
    tables = "--tables=orders,lineitem,customer,nation"
    subprocess.run(
        [program, "csv", f"--scale-factor={scale}", tables, f"--output-dir={directory}", "--quiet"], check=True
    )


def customers(customer: str, nation: str) -> str:
    """customers.csv from TPC-H's tables, nations by name."""
    nations = {row["n_nationkey"]: row["n_name"] for row in csv.DictReader(io.StringIO(nation))}
    out = io.StringIO()
    writer = csv.DictWriter(out, CUSTOMER, lineterminator="\n")
    writer.writeheader()
    for row in csv.DictReader(io.StringIO(customer)):
        row["n_name"] = nations[row["c_nationkey"]]
        writer.writerow({name: row[theirs] for name, theirs in CUSTOMER.items()})
    return out.getvalue()


def export(directory: Path, scale: str) -> dict:
    """Write all files into `directory` and return the manifest: per file its rows and the SHA-256 of its content."""
    with tempfile.TemporaryDirectory() as place:
        generate(Path(place), scale)
        text = {path.stem: path.read_text() for path in Path(place).glob("*.csv")}
    contents = {
        "orders.csv.gz": text["orders"],
        "line_items.csv.gz": text["lineitem"],
        "customers.csv": customers(text["customer"], text["nation"]),
    }
    files = {}
    for name, content in contents.items():
        data = gzip.compress(content.encode(), mtime=0) if name.endswith(".gz") else content.encode()
        (directory / name).write_bytes(data)
        files[name] = {"rows": content.count("\n") - 1, "sha256": hashlib.sha256(data).hexdigest()}
    return {"version": importlib.metadata.version(PACKAGE), "scale": scale, "files": files}


def main() -> None:
    """Export once per package version, version of this script and scale; print the manifest with the directory it is in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="directory that keeps the exports")
    parser.add_argument("--scale", required=True, help="scale factor: 1 is a gigabyte of all TPC-H tables")
    given = parser.parse_args()
    print(json.dumps(kept(given.cache, __file__, PACKAGE, partial(export, scale=given.scale), given.scale)))


if __name__ == "__main__":
    main()
