"""Brings the warehouse's schema to a level: migrations/NNNN_name.{up,down}.sql, each in its own transaction.

    python -m jobs.load.migrate up [--to N] [--plan]
    python -m jobs.load.migrate down --to N [--plan]

Connects as etl_owner with libpq's own means (PGSERVICE, PGHOST, PGUSER, PGPASSFILE, PGSSLMODE, ...) and prints
{"level_before", "level_after", "applied"} as JSON. The way back is kept in the database with each applied migration, so that an
older release, which lacks the newer files, can still go back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

DIRECTORY = Path(__file__).resolve().parent / "migrations"
NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.(up|down)\.sql")
LOSES = re.compile(r"^-- loses:(.*)$", re.MULTILINE)
LOCK = "select pg_advisory_lock(hashtext('etl.migration'))"
BOOTSTRAP = """
create schema if not exists etl;
comment on schema etl is 'Ledger: releases, runs, counts, audits, published versions';
create table if not exists etl.migration (
    level integer primary key,
    name text not null,
    checksum text not null,
    down_sql text,
    applied_at timestamptz not null default now(),
    applied_by text not null default session_user
);
comment on table etl.migration is 'Applied migrations, each with its way back';
"""


class MigrationError(RuntimeError):
    """A migration that cannot be applied or taken back; the message says why."""


@dataclass(frozen=True)
class Migration:
    """One level of the schema. `down` is None where there is no way back."""

    level: int
    name: str
    checksum: str
    up: str
    down: str | None

    def __str__(self) -> str:
        return f"{self.level:04d}_{self.name}"


def read(directory: Path = DIRECTORY) -> list[Migration]:
    """The migrations of a directory by level; raises MigrationError unless levels are 1, 2, 3, ... and names fit."""
    ups, downs = {}, {}
    for path in sorted(directory.glob("*.sql")):
        match = NAME.fullmatch(path.name)
        if not match:
            raise MigrationError(f"{path}: not named NNNN_name.up.sql or NNNN_name.down.sql")
        level, name, way = int(match[1]), match[2], match[3]
        kind = ups if way == "up" else downs
        if level in kind:
            raise MigrationError(f"{path}: level {level} is there twice")
        kind[level] = (name, path.read_text())
    if sorted(ups) != list(range(1, len(ups) + 1)):
        raise MigrationError(f"{directory}: levels are {sorted(ups)}, not 1 to {len(ups)}")
    if orphans := [level for level in downs if level not in ups or downs[level][0] != ups[level][0]]:
        raise MigrationError(f"{directory}: no up file of the same name for the down files of levels {orphans}")
    return [
        Migration(level, name, hashlib.sha256(text.encode()).hexdigest(), text, downs.get(level, (None, None))[1])
        for level, (name, text) in sorted(ups.items())
    ]


def up(conn: psycopg.Connection, target: int | None = None, plan: bool = False, directory: Path = DIRECTORY) -> dict:
    """Apply what is missing up to level `target` (default: all).

    Returns {"level_before", "level_after", "applied": [names]}; with `plan` nothing is changed. A database that is ahead of the
    files is left as it is. Raises MigrationError when an applied file has changed since.
    """
    with _locked(conn, write=not plan):
        files, applied = read(directory), _applied(conn)
        _unchanged(files, applied)
        before = max(applied, default=0)
        target = len(files) if target is None else target
        if target > len(files):
            raise MigrationError(f"there is no level {target}: {directory} ends at {len(files)}")
        todo = [migration for migration in files if before < migration.level <= target]
        for migration in todo if not plan else ():
            with conn.transaction(), _explained(migration, "up"):
                conn.execute(migration.up)
                conn.execute(
                    "insert into etl.migration (level, name, checksum, down_sql) values (%s, %s, %s, %s)",
                    (migration.level, migration.name, migration.checksum, migration.down),
                )
        return _result(before, max(before, target), todo)


def down(conn: psycopg.Connection, target: int, plan: bool = False, directory: Path = DIRECTORY) -> dict:
    """Take back everything above level `target`, newest first.

    Of a level that the files lack, or have otherwise (another line of releases), the way back is the one that is kept in the
    database. Returns the same as `up`. Raises MigrationError, before anything is changed, when a level has no way back or rows would
    be lost: tables that a down file names in a line `-- loses: schema.table, ...` must be empty.
    """
    with _locked(conn, write=not plan):
        files, applied = {migration.level: migration for migration in read(directory)}, _applied(conn)
        _unchanged((migration for migration in files.values() if migration.level <= target), applied)
        before = max(applied, default=0)
        if target < 0:
            raise MigrationError(f"there is no level {target}")
        todo = [
            files[level] if level in files and files[level].checksum == applied[level].checksum else applied[level]
            for level in sorted(applied, reverse=True)
            if level > target
        ]
        for migration in todo:
            if migration.down is None:
                raise MigrationError(f"{migration} has no way back (no down file)")
            _loses_nothing(conn, migration)
        for migration in todo if not plan else ():
            with conn.transaction(), _explained(migration, "down"):
                conn.execute(migration.down)
                conn.execute("delete from etl.migration where level = %s", (migration.level,))
        return _result(before, min(before, target), todo)


def _result(before: int, after: int, migrations: list[Migration]) -> dict:
    return {"level_before": before, "level_after": after, "applied": [str(migration) for migration in migrations]}


@contextmanager
def _locked(conn: psycopg.Connection, write: bool) -> Iterator[None]:
    """One runner at a time, waiting a minute at most."""
    conn.autocommit = True
    conn.execute("set lock_timeout = '60s'")
    try:
        conn.execute(LOCK)
    except psycopg.errors.LockNotAvailable:
        raise MigrationError(
            "another migration has been running for a minute: wait for it, or look for its session"
        ) from None
    try:
        if write:
            with conn.transaction():
                conn.execute("set local client_min_messages = 'warning'")
                conn.execute(BOOTSTRAP)
        yield
    finally:
        if not conn.broken:
            conn.execute("select pg_advisory_unlock_all()")


@contextmanager
def _explained(migration: Migration, way: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise MigrationError(f"{migration}.{way}.sql: {error}") from error


def _applied(conn: psycopg.Connection) -> dict[int, Migration]:
    if conn.execute("select to_regclass('etl.migration')").fetchone()[0] is None:
        return {}
    rows = conn.execute("select level, name, checksum, '', down_sql from etl.migration order by level").fetchall()
    return {row[0]: Migration(*row) for row in rows}


def _unchanged(files, applied: dict[int, Migration]) -> None:
    for migration in files:
        known = applied.get(migration.level)
        if known and (known.name, known.checksum) != (migration.name, migration.checksum):
            raise MigrationError(
                f"{migration}.up.sql is not what was applied as {known} "
                f"(sha256 {migration.checksum[:12]}, applied {known.checksum[:12]}): add a new migration instead of changing one"
            )


def _loses_nothing(conn: psycopg.Connection, migration: Migration) -> None:
    for line in LOSES.findall(migration.down):
        for name in filter(None, (part.strip() for part in line.split(","))):
            if conn.execute("select to_regclass(%s)", (name,)).fetchone()[0] is None:
                continue
            table = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
            rows = conn.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()[0]
            if rows:
                raise MigrationError(f"taking {migration} back would lose {rows} rows of {name}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.load.migrate", description="Migrate the warehouse's schema.")
    parser.add_argument("direction", choices=("up", "down"))
    parser.add_argument("--to", type=int, metavar="N", help="level to end at (up: default the newest)")
    parser.add_argument("--plan", action="store_true", help="print what would be applied, change nothing")
    parser.add_argument(
        "--dsn-service", metavar="NAME", help="libpq service to connect to (default: the PG* environment)"
    )
    arguments = parser.parse_args(argv)
    if arguments.direction == "down" and arguments.to is None:
        parser.error("down needs --to N")
    try:
        with psycopg.connect(
            f"service={arguments.dsn_service}" if arguments.dsn_service else "", autocommit=True
        ) as conn:
            way = up if arguments.direction == "up" else down
            print(json.dumps(way(conn, arguments.to, arguments.plan)))
    except (MigrationError, psycopg.OperationalError) as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
