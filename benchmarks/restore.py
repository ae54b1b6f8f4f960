#!/usr/bin/env python3
"""What restoring the warehouse from its backups costs, beside reading and copying the same bytes. Prints figures, asserts nothing.

    benchmarks/restore.py [-i inventories/local/hosts.yml] [--cluster dwh]

On the warehouse's host, into directories of its own; the running cluster is not touched. The newest backup is restored over the
oldest, as a restore of a damaged cluster does (what differs is read), then into an empty directory (every byte is read).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "ansible/bin"))

from environment import Environment  # noqa: E402

SCRIPT = """
set -eu
scratch=$(mktemp -d /var/lib/postgresql/bench.XXXXXX); trap 'rm -rf "$scratch"' EXIT
chown postgres: "$scratch"; cd /
install -d -o postgres -g postgres -m 700 "$scratch/data"
labels=$(runuser -u postgres -- pgbackrest --stanza={cluster} --output=json info \\
  | python3 -c 'import json, sys; b = json.load(sys.stdin)[0]["backup"]; print(b[0]["label"], b[-1]["label"])')
restore() {{
  runuser -u postgres -- pgbackrest --stanza={cluster} --pg1-path="$scratch/data" --type=none \\
    --log-level-console=detail "$@" restore > "$scratch/log"
}}
clock() {{ sync; local t=$(date +%s.%N); "$@"; echo "seconds $(echo "$(date +%s.%N) $t" | awk '{{print $1 - $2}}')"; }}
size() {{ echo "bytes $(du -sb "$scratch/data" | cut -f1)"; }}
set -- $labels; echo "labels $1 $2"
echo "step oldest"; clock restore --set=$1
echo "step delta"; clock restore --delta --set=$2; size
grep 'restore file ' "$scratch/log" | grep -v 'exists and ' | sed 's/^/file /'
echo "step copy"; clock cp -a "$scratch/data" "$scratch/copy"
rm -rf "$scratch/data"; install -d -o postgres -g postgres -m 700 "$scratch/data"
echo "step full"; clock restore --set=$2; size
"""
UNITS = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", default=ROOT / "inventories/local/hosts.yml")
    parser.add_argument("--cluster", default="dwh")
    given = parser.parse_args()
    environment = Environment(given.inventory)
    host = environment.hosts("pgbackrest")[0]
    shown = subprocess.run(
        [*environment.ssh(host), "sudo bash -s"],
        input=SCRIPT.format(cluster=given.cluster),
        capture_output=True,
        text=True,
    )
    if shown.returncode:
        sys.exit(shown.stderr or shown.stdout)
    seconds, sizes, changed, files, step, labels = {}, {}, 0.0, 0, "", ""
    for line in shown.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "step":
            step = rest
        elif word == "seconds":
            seconds[step] = float(rest)
        elif word == "bytes":
            sizes[step] = int(rest)
        elif word == "labels":
            labels = rest
        elif word == "file" and (found := re.search(r"([\d.]+)([KMG]?B), [\d.]+%", rest)):
            changed, files = changed + float(found[1]) * UNITS[found[2]], files + 1
    mega = 1024**2
    rate = sizes["full"] / seconds["full"]
    print(f"cluster {given.cluster}, backups {labels}")
    print(f"full restore    {seconds['full']:7.1f} s  {sizes['full'] / mega:8.1f} MiB  {rate / mega:7.1f} MiB/s")
    print(f"copy (cp -a)    {seconds['copy']:7.1f} s  {sizes['full'] / mega:8.1f} MiB")
    print(f"delta restore   {seconds['delta']:7.1f} s  {changed / mega:8.1f} MiB changed, {files} files")
    print(f"full restore / copy: {seconds['full'] / seconds['copy']:.2f}")
    if changed:
        print(
            f"delta restore / reading the changed files at the full restore's rate: {seconds['delta'] / (changed / rate):.2f}"
        )


if __name__ == "__main__":
    main()
