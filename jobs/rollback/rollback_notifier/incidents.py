"""The incidents in SQLite: what the notifier knows after a restart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from .audit_log import digest

OPEN = ("new", "planning", "waiting", "approved", "executing", "proposed")
SPENT = ("approved", "executing", "done")
STATUSES = (*OPEN, "done", "failed", "refused", "rejected", "expired", "dry_run")
TABLE = """
create table if not exists incident (
    id integer primary key autoincrement, rule text not null, action text not null, status text not null, target text not null,
    labels text not null, fingerprint text not null, starts_at text not null, seen integer not null default 1,
    opened_at text not null, changed_at text not null, plan text, note text
)
"""
ADD = """
insert into incident (rule, action, status, target, labels, fingerprint, starts_at, opened_at, changed_at)
values (:rule, :action, :status, :target, :labels, :fingerprint, :starts_at, :at, :at)
"""
MOVE = """
update incident set status = :status, changed_at = :at, plan = coalesce(:plan, plan), note = coalesce(:note, note) where id = :id
"""


class Incidents:
    """The incidents, each a mapping of the table's columns and `digest`, which an approval must name: of the plan, or of the
    target while there is none. A change is on disk when the call returns. Callers take turns: nothing here locks."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute(TABLE)

    def all(self, *statuses: str) -> list[dict[str, Any]]:
        """Incidents, newest first; of these statuses when any are given."""
        marks = ", ".join("?" * len(statuses))
        query = f"select * from incident {f'where status in ({marks})' if statuses else ''} order by id desc"
        return [_read(row) for row in self._database.execute(query, statuses)]

    def get(self, number: int) -> dict[str, Any]:
        """One incident; LookupError when there is none of that number."""
        row = self._database.execute("select * from incident where id = ?", (number,)).fetchone()
        if row is None:
            raise LookupError(f"there is no incident {number}")
        return _read(row)

    def count(self, status: str) -> int:
        """How many have a status."""
        return self._database.execute("select count(*) from incident where status = ?", (status,)).fetchone()[0]

    def add(self, at: datetime, target: Mapping[str, Any], labels: Mapping[str, str], **more: str) -> int:
        """Open an incident; `more` are the other columns of ADD. Returns its number."""
        row = {"at": at.isoformat(), "target": json.dumps(target), "labels": json.dumps(labels), **more}
        return self._database.execute(ADD, row).lastrowid

    def seen_again(self, number: int) -> None:
        """Count one more alert of an incident."""
        self._database.execute("update incident set seen = seen + 1 where id = ?", (number,))

    def move(self, number: int, at: datetime, status: str, plan: Mapping[str, Any] | None, note: str | None) -> None:
        """Give an incident a status; a plan or note of None leaves the one that is there."""
        text = plan and json.dumps(plan, sort_keys=True)
        row = {"id": number, "at": at.isoformat(), "status": status, "plan": text, "note": note}
        self._database.execute(MOVE, row)


def _read(row: sqlite3.Row) -> dict[str, Any]:
    found = dict(row) | {name: json.loads(row[name]) for name in ("target", "labels")}
    found["plan"] = row["plan"] and json.loads(row["plan"])
    found["digest"] = digest(row["plan"] or row["target"])[:12]
    return found
