"""The spool of Airflow's OpenLineage events: a file each, from whatever process; what is in the ledger leaves it.

    python -m jobs.lineage.spool [DIRECTORY]

Airflow's processes only write files (airflow.cfg, [openlineage]), so no event is lost with the task, the scheduler or the
warehouse. Every run loads the spool when it ends, whatever runs the events are of; so does playbooks/lineage.yml.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psycopg

from jobs.lineage.events import enter

SPOOL = Path("/var/lib/airflow/lineage")
BEING_WRITTEN_SECONDS = 60
BATCH = 200


def load(conn: psycopg.Connection, directory: Path = SPOOL) -> int:
    """Enter the spooled events, each removed once it is committed; returns how many are new.

    A file that is no event is set aside as `<name>.broken` after a minute: until then somebody may be writing it.
    """
    paths, new = sorted(directory.glob("*.json")), 0
    for start in range(0, len(paths), BATCH):
        read = {path: event for path in paths[start : start + BATCH] if (event := _read(path)) is not None}
        new += enter(conn, read.values())
        for path in read:
            path.unlink(missing_ok=True)
    return new


def _read(path: Path) -> dict | None:
    try:
        event = json.loads(path.read_text())
        if {"eventTime", "eventType", "job", "run", "producer"} <= event.keys():
            return event
    except FileNotFoundError:
        return None  # another run that ends at this moment has loaded it
    except ValueError:
        pass
    if time.time() - path.stat().st_mtime > BEING_WRITTEN_SECONDS:
        path.rename(path.with_suffix(".broken"))
        print(f"{path} is no OpenLineage run event: kept as {path.stem}.broken", file=sys.stderr)
    return None


if __name__ == "__main__":
    with psycopg.connect("", autocommit=True) as connection:
        print(f"{load(connection, *map(Path, sys.argv[1:]))} events loaded")
