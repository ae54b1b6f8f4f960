#!/usr/bin/python3
"""Leaves for node_exporter how many log lines wait for Elasticsearch, and how many it refused.

etl-log-metrics DIRECTORY rsyslog STATISTICS REFUSED COUNTED
etl-logstash-metrics DIRECTORY logstash URL

DIRECTORY gets log_shipper.prom, the same from both shippers. STATISTICS are impstats', REFUSED is omelasticsearch's error file,
COUNTED is kept from one run to the next; URL is Logstash's API. A shipper that starts or is away is not measured: the file
grows old, and the alert LogShipperUnseen says so.
"""

import contextlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

WAITING = re.compile(rb'"name": "ship", .*"size": (\d+),')
# A document that Elasticsearch had already does not count.
REFUSAL = re.compile(rb'"error": \{ "type": "(?!version_conflict_engine_exception")')


def refused(file: Path, counted: Path) -> int:
    """How many documents were ever refused: the total goes on when their file is rotated, emptied or deleted.

    `counted` has the total, and by inode how many were seen in the file and in the one that was put aside last.
    """
    known = {}
    if counted.exists():
        for line in counted.read_text().splitlines():
            name, number = line.split()[:2]  # earlier releases wrote a third column
            known[name] = int(number)
    seen = {}
    for path in (file, file.with_name(f"{file.name}.1")):  # in this order one that is just renamed is not missed
        with contextlib.suppress(FileNotFoundError), path.open("rb") as opened:
            inode = str(os.fstat(opened.fileno()).st_ino)
            seen[inode] = sum(len(REFUSAL.findall(line)) for line in opened)
    total = known.get("total", 0)
    for inode, number in seen.items():
        before = known.get(inode, 0)
        total += number - before if number >= before else number  # fewer: it was emptied
    replace(counted, "".join(f"{name} {number}\n" for name, number in {"total": total, **seen}.items()))
    return total


def rsyslog(statistics: str, file: str, counted: str) -> tuple[int, int] | None:
    """(waiting, refused) as rsyslog's own files say."""
    path = Path(statistics)
    sizes = WAITING.findall(path.read_bytes()) if path.exists() else []
    return (int(sizes[-1]), refused(Path(file), Path(counted))) if sizes else None


def logstash(url: str) -> tuple[int, int] | None:
    """(waiting, refused) as Logstash says; documents that Elasticsearch had already are failures of another kind there."""
    try:
        with urllib.request.urlopen(f"{url}/_node/stats/pipelines/main", timeout=10) as answer:
            pipeline = json.load(answer)["pipelines"].get("main")
    except urllib.error.URLError:
        return None
    if not pipeline:
        return None
    outputs = [output.get("documents", {}) for output in pipeline["plugins"]["outputs"]]
    return pipeline["queue"]["events_count"], sum(documents.get("dlq_routed", 0) for documents in outputs)


def replace(target: Path, text: str) -> None:
    """Write a file as a whole."""
    new = target.with_name(f"{target.name}.new")
    new.write_text(text)
    os.replace(new, target)


def main(directory: str, shipper: str, *arguments: str) -> None:
    """Measure the shipper and leave what was found."""
    found = {"rsyslog": rsyslog, "logstash": logstash}[shipper](*arguments)
    if found:
        replace(
            Path(directory) / "log_shipper.prom",
            f"""\
# HELP etl_log_waiting_lines Log lines that wait on disk for Elasticsearch
# TYPE etl_log_waiting_lines gauge
etl_log_waiting_lines {found[0]}
# HELP etl_log_rejected_total Log lines that Elasticsearch refused
# TYPE etl_log_rejected_total counter
etl_log_rejected_total {found[1]}
""",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
