"""Prints what the platform costs: minutes of the make targets, seconds of each stage, memory of each host. Asserts nothing.

    python benchmarks/report.py -i inventories/local/hosts.yml [--deploy]

--deploy also times a site.yml that has nothing to change.
"""

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "ansible/bin"))

import psycopg  # noqa: E402
from environment import Environment  # noqa: E402
from psycopg.rows import dict_row  # noqa: E402

STAGES = """
    select
        r.run_id, r.interval_from::date || ' to ' || r.interval_to::date as interval, s.stage,
        sum(s.rows_out)::bigint as rows, max(s.seconds)::float8 as seconds
    from (
        select * from etl.run where state = 'published' order by interval_to - interval_from desc, started_at desc limit 1
    ) as r
    inner join etl.run_stage as s on r.run_id = s.run_id
    group by 1, 2, 3
    order by min(s.recorded_at)
"""


def timings() -> None:
    """First and last successful timing of each make target: the first one on a machine fills the caches."""
    path = ROOT / ".cache/timings.tsv"
    print("\nmake target      first (cold)    last (warm)   minutes; recorded in .cache/timings.tsv")
    if not path.exists():
        print("  nothing recorded yet")
        return
    kept: dict[str, list[float]] = {}
    for _, name, minutes, status in csv.reader(path.open(), delimiter="\t"):
        if status == "0":
            kept.setdefault(name, []).append(float(minutes))
    for name, values in kept.items():
        print(f"{name:16} {values[0]:12.1f} {values[-1]:14.1f}")


def stages(environment: Environment) -> None:
    """Seconds and rows per second of every stage of the longest interval that was published last."""
    with psycopg.connect(**environment.warehouse(), row_factory=dict_row) as connection:
        rows = connection.execute(STAGES).fetchall()
        whole = connection.execute(
            "select extract(epoch from duration)::float8 as seconds, rows_extracted from etl.v_run where run_id = %s",
            (rows[0]["run_id"] if rows else None,),
        ).fetchone()
    print("\nstage                   seconds         rows       rows/s" + (f"   {rows[0]['interval']}" if rows else ""))
    for row in rows:
        speed = f"{row['rows'] / row['seconds']:12,.0f}" if row["seconds"] else " " * 12
        print(f"{row['stage']:20} {row['seconds'] or 0:10.1f} {row['rows']:12,} {speed}")
    if whole:
        print(f"{'whole run':20} {whole['seconds']:10.1f} {whole['rows_extracted']:12,}")


def memory(environment: Environment) -> None:
    """Proportional memory of every host's processes in MiB, and the largest units."""
    # Pss counts a page that n processes share as 1/n: the sum is what the host really takes.
    command = (
        "for p in /proc/[0-9]*; do "
        "u=$(sed -n 's|.*/\\([^/]*\\.service\\).*|\\1|p' $p/cgroup 2>/dev/null | head -1); "
        "k=$(awk '/^Pss:/ {print $2}' $p/smaps_rollup 2>/dev/null); "
        '[ -n "$k" ] && echo "$k ${u:-other}"; done; exit 0'
    )
    print("\nhost           MiB   largest units")
    for host in environment.hosts():
        shown = subprocess.run(
            [*environment.ssh(host), "sudo sh -s"], input=command, capture_output=True, text=True, check=True
        ).stdout
        units: dict[str, float] = {}
        for line in shown.splitlines():
            kilobytes, unit = line.split(maxsplit=1)
            units[unit] = units.get(unit, 0) + int(kilobytes) / 1024
        largest = sorted(units.items(), key=lambda item: -item[1])[:4]
        print(f"{host:12} {sum(units.values()):6.0f}   " + ", ".join(f"{unit} {size:.0f}" for unit, size in largest))


def deploy(environment: Environment) -> None:
    """Minutes of a site.yml that finds everything as it should be."""
    start = time.monotonic()
    subprocess.run(
        [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(environment.inventory), "site.yml"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    print(f"\nsite.yml with nothing to change: {(time.monotonic() - start) / 60:.1f} minutes")


def main() -> None:
    """Parse the command line and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", default=ROOT / "inventories/local/hosts.yml")
    parser.add_argument("--deploy", action="store_true")
    options = parser.parse_args()
    environment = Environment(options.inventory)
    timings()
    if options.deploy:
        deploy(environment)
    memory(environment)
    stages(environment)


if __name__ == "__main__":
    main()
