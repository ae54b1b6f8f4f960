#!/usr/bin/python3
"""Leaves for node_exporter what pgBackRest knows of its backups, and how much of the log waits to be archived.

etl-pgbackrest-metrics DIRECTORY DIRECTORY_OF_THE_CLUSTERS

DIRECTORY gets pgbackrest_wal.prom, which is there also while the repository does not answer, and pgbackrest.prom.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

METRICS = {
    "pgbackrest_last_backup_timestamp_seconds": "When the newest backup of a type ended (absent: there is none)",
    "pgbackrest_last_backup_duration_seconds": "How long it took",
    "pgbackrest_last_backup_size_bytes": "Size of the cluster that it holds",
    "pgbackrest_last_backup_failed": "1 when a file's checksum did not hold while it was made",
    "pgbackrest_oldest_restore_timestamp_seconds": "The earliest moment to which the cluster can be restored",
    "pgbackrest_backups": "Backups in the repository",
    "pgbackrest_repository_bytes": "What they take there, without the archived log",
    "pgbackrest_stanza_status": "0: all is well; other: pgBackRest's own code",
    "pgbackrest_wal_waiting_files": "Segments of the log that wait to be archived",
}


def waiting(clusters: Path) -> list[tuple[str, dict[str, str], float]]:
    """(metric, labels, value) for every cluster's log."""
    return [
        ("pgbackrest_wal_waiting_files", {"stanza": path.parents[1].name}, len(list(path.glob("*.ready"))))
        for path in sorted(clusters.glob("*/pg_wal/archive_status"))
    ]


def samples(stanza: dict) -> list[tuple[str, dict[str, str], float]]:
    """(metric, labels, value) for one stanza of `pgbackrest info` in JSON."""
    labels, backups = {"stanza": stanza["name"]}, stanza["backup"]
    found = [
        ("pgbackrest_stanza_status", labels, stanza["status"]["code"]),
        ("pgbackrest_backups", labels, len(backups)),
        ("pgbackrest_repository_bytes", labels, sum(backup["info"]["repository"]["delta"] for backup in backups)),
    ]
    if backups:
        first = min(backup["timestamp"]["stop"] for backup in backups)
        found.append(("pgbackrest_oldest_restore_timestamp_seconds", labels, first))
    newest = {backup["type"]: backup for backup in sorted(backups, key=lambda backup: backup["timestamp"]["stop"])}
    for kind, backup in newest.items():
        of_type, time = labels | {"type": kind}, backup["timestamp"]
        found += [
            ("pgbackrest_last_backup_timestamp_seconds", of_type, time["stop"]),
            ("pgbackrest_last_backup_duration_seconds", of_type, time["stop"] - time["start"]),
            ("pgbackrest_last_backup_size_bytes", of_type, backup["info"]["size"]),
            ("pgbackrest_last_backup_failed", of_type, int(bool(backup.get("error")))),
        ]
    return found


def exposition(found: list[tuple[str, dict[str, str], float]]) -> str:
    """Samples in Prometheus' text format."""
    lines = []
    for name, text in METRICS.items():
        values = [(labels, value) for metric, labels, value in found if metric == name]
        if values:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for labels, value in values:
            pairs = ",".join(f'{key}="{content}"' for key, content in labels.items())
            lines.append(f"{name}{{{pairs}}} {value}")
    return "\n".join(lines) + "\n"


def replace(target: Path, text: str) -> None:
    """Write a file as a whole."""
    new = target.with_suffix(".new")
    new.write_text(text)
    os.replace(new, target)


def main(directory: Path, clusters: Path) -> None:
    """Measure the log, then ask the repository."""
    replace(directory / "pgbackrest_wal.prom", exposition(waiting(clusters)))
    command = ["/usr/bin/pgbackrest", "--log-level-file=off", "--output=json", "info"]
    stanzas = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    replace(
        directory / "pgbackrest.prom",
        exposition([sample for stanza in stanzas for sample in samples(stanza)]),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
