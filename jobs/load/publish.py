"""Publishing and taking back: everything a run changes becomes visible in one transaction.

First the new versions of the partitions are built beside the published ones. Then, in one transaction: dimensions are merged and
aggregates of the interval replaced (writers wait, readers do not), and at its end, under a short exclusive lock, the partitions
are swapped. A waiting exclusive lock queues every new reader behind it, hence the short lock_timeout and the retries.

Guarantee: every statement (READ COMMITTED) sees all published tables before the run, or all of them after it, never a mix.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row

from jobs import quarantine
from jobs.load import staging
from jobs.load.data_partitioning import build, inside, months, spans
from jobs.load.ledger import Run, is_replay
from jobs.load.statements import (
    LINEAGE,
    columns,
    columns_of,
    differs,
    key_of,
    require_idle,
    same_key,
    staged_name,
    statement,
    table,
)

PATIENCE = 300.0  # seconds
VERSIONS = """
select table_name as table, partition_name as partition, version, row_count as rows, run_id, replaces, published_at
from etl.partition_version where publication_id = %s order by partition_name
"""
UNDONE = """
select table_name as table, partition_name as partition, version, row_count as rows, run_id, replaces, published_at
from etl.partition_version
where current and partition_name in (select partition_name from etl.partition_version where publication_id = any(%s))
order by partition_name
"""
# Publications that stand on those of the given runs: made later, for some of the same days or on top of the same partition.
LATER = """
select distinct own.run_id, other.run_id
from etl.publication as taken
inner join etl.run as own on taken.run_id = own.run_id
inner join etl.publication as p on p.publication_id > taken.publication_id and p.undone_at is null
inner join etl.run as other on p.run_id = other.run_id
where
    own.run_id = any(%(run_ids)s)
    and taken.undone_at is null
    and other.run_id <> all(%(run_ids)s)
    and (
        (other.pipeline = own.pipeline and other.interval_from < own.interval_to and other.interval_to > own.interval_from)
        or exists (
            select from etl.partition_version as below
            inner join etl.partition_version as above on below.partition_name = above.partition_name
            where below.publication_id = taken.publication_id and above.publication_id = p.publication_id
        )
    )
order by 1, 2
"""


class PublishRefused(RuntimeError):
    """Nothing was published (or taken back), and why."""


class PublishLocked(PublishRefused):
    """The tables stayed locked by others for as long as the caller would wait; the message names them."""


def publish(
    conn: psycopg.Connection,
    declaration: Any,
    run: Run,
    *,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """Publish the run's staged and audited rows; returns the partition versions {table, partition, version, rows, ...}.

    Called again after it succeeded it returns the same without doing anything: staged rows are published once. `patience` is how
    long, in seconds, it tries for its locks. Raises PublishRefused when the run is not staged as a whole or its audits did not
    all pass, PublishLocked when others kept the tables locked.
    """
    require_idle(conn)
    staged = _staged(conn, declaration, run)
    if not staged:
        return _published(conn, run)
    if missing := sorted(set(declaration.publish) - staged):
        raise PublishRefused(f"run {run.run_id} has no staged rows of {', '.join(missing)}: load it again")
    _require_audited(conn, run)
    facts = [published for published in declaration.publish.values() if published.partition_column]
    with _turn(conn, [fact.name for fact in facts], patience):
        if _is_replay(conn, run):
            quarantine.require_unchanged(conn, declaration, run)
        versions = [
            version_id
            for fact in facts
            for span in _spans(conn, fact, run)
            for partition in months(fact.name, *span)
            if (version_id := build(conn, partition, fact.partition_column, run, span)) is not None
        ]
        publication_id = _swap(conn, declaration, run, versions, patience, sleep)
        _forget(conn, declaration)
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(VERSIONS, (publication_id,)).fetchall()


def undo(
    conn: psycopg.Connection,
    run_ids: str | Sequence[str],
    *,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
    record: Callable[[list[dict[str, Any]]], None] = lambda versions: None,
) -> list[dict[str, Any]]:
    """Take back all that a run, or several, published: former partitions, dimension rows and aggregate rows are published again.

    Several runs are taken back in one transaction, the newest publication first. Returns the versions that their partitions have
    now (none where there was none before); called again it returns []. `record` is called with them before the commit. Raises
    PublishRefused when a run has published nothing, when another run published later on top of it, or when former rows are no
    longer kept. Rows that a run added to dimensions stay when others have published since.
    """
    require_idle(conn)
    run_ids = [run_ids] if isinstance(run_ids, str) else list(run_ids)
    with conn.transaction():
        publications = [publication_id for publication_id, _ in _undoable(conn, run_ids)]
        facts, others = (
            [row[0] for row in conn.execute(query, (publications,)).fetchall()]
            for query in (
                "select distinct table_name from etl.partition_version where publication_id = any(%s)",
                "select distinct table_name from dwh_history.row_version where publication_id = any(%s)",
            )
        )
    if not publications:
        return []

    def swap_back() -> None:
        for publication_id in publications:
            conn.execute("select etl.undo_publication(%s)", (publication_id,))

    with _turn(conn, facts, patience), conn.transaction():
        _holding(conn, others, "write", patience, sleep)
        # Once more: somebody may have published while this waited for its turn.
        undoable = _undoable(conn, run_ids)
        if [publication_id for publication_id, _ in undoable] != publications:
            raise PublishRefused(f"what {', '.join(run_ids)} published changed meanwhile: look again")
        for publication_id, run_id in undoable:
            newest = conn.execute(
                "select not exists (select from etl.publication"
                " where publication_id > %s and undone_at is null and publication_id <> all(%s))",
                (publication_id, publications),
            ).fetchone()[0]
            for name in others:
                _restore(conn, name, publication_id, run_id, newest, publications)
        _holding(conn, facts, "swap", patience, sleep, swap_back)
        conn.execute("update etl.publication set undone_at = now() where publication_id = any(%s)", (publications,))
        conn.execute("update etl.run set state = 'undone' where run_id = any(%s)", ([run for _, run in undoable],))
        with conn.cursor(row_factory=dict_row) as cursor:
            versions = cursor.execute(UNDONE, (publications,)).fetchall()
        record(versions)
        return versions


def _is_replay(conn: psycopg.Connection, run: Run) -> bool:
    with conn.transaction():
        return is_replay(conn, run)


def _spans(conn: psycopg.Connection, published: Any, run: Run) -> list[tuple[date, date]]:
    with conn.transaction():
        return spans(conn, published, run)


def _staged(conn: psycopg.Connection, declaration: Any, run: Run) -> set[str]:
    with conn.transaction():
        return {name for name in declaration.publish if columns_of(conn, "staging", staged_name(name, run.run_id))}


def _published(conn: psycopg.Connection, run: Run) -> list[dict[str, Any]]:
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        last = conn.execute(
            "select max(publication_id) from etl.publication where run_id = %s and undone_at is null", (run.run_id,)
        ).fetchone()[0]
        if last is None:
            raise PublishRefused(f"run {run.run_id} has neither staged nor published rows: load it first")
        return cursor.execute(VERSIONS, (last,)).fetchall()


def _require_audited(conn: psycopg.Connection, run: Run) -> None:
    with conn.transaction():
        audits, failed = conn.execute(
            "select count(*), string_agg(format('%%s of %%s', audit, dataset), ', ') filter (where not passed)"
            " from etl.audit_result where run_id = %s",
            (run.run_id,),
        ).fetchone()
    if not audits:
        raise PublishRefused(f"the staged rows of run {run.run_id} have not been audited")
    if failed:
        raise PublishRefused(f"audits of run {run.run_id} failed: {failed}")


@contextmanager
def _turn(conn: psycopg.Connection, facts: list[str], patience: float) -> Iterator[None]:
    """One run at a time builds and swaps versions of a table; the next waits."""
    held: list[str] = []
    try:
        for name in sorted(facts):
            try:
                with conn.transaction():
                    conn.execute(
                        "select set_config('lock_timeout', %s, true)", (f"{max(1, round(patience * 1000))}ms",)
                    )
                    conn.execute("select pg_advisory_lock(hashtext('etl.publish'), hashtext(%s))", (name,))
            except errors.LockNotAvailable:
                raise PublishLocked(f"another run has been publishing dwh.{name} for {patience:.0f} s") from None
            held.append(name)
        yield
    finally:
        if not conn.closed:
            with conn.transaction():
                for name in held:
                    conn.execute("select pg_advisory_unlock(hashtext('etl.publish'), hashtext(%s))", (name,))


def _swap(
    conn: psycopg.Connection,
    declaration: Any,
    run: Run,
    versions: list[int],
    patience: float,
    sleep: Callable[[float], None],
) -> int:
    """The publishing transaction; returns its id in etl.publication."""
    with conn.transaction():
        publication_id = conn.execute(
            "insert into etl.publication (run_id, attempt) values (%s, %s) returning publication_id",
            (run.run_id, run.attempt),
        ).fetchone()[0]
        facts = [published.name for published in declaration.publish.values() if published.partition_column]
        others = [published for published in declaration.publish.values() if not published.partition_column]
        _holding(conn, [published.name for published in others], "write", patience, sleep)
        for published in others:
            (_replace_interval if published.interval else _merge)(conn, published, run, publication_id)

        def swap() -> None:
            for version_id in versions:
                conn.execute("select etl.publish_partition(%s, %s)", (version_id, publication_id))

        _holding(conn, facts, "swap", patience, sleep, swap)
        # In the same transaction: staged rows are there until they are published, and never published twice.
        staging.drop(conn, declaration, run)
    return publication_id


def _holding(
    conn: psycopg.Connection,
    names: list[str],
    mode: str,
    patience: float,
    sleep: Callable[[float], None],
    work: Callable[[], None] = lambda: None,
) -> None:
    """Lock tables until the end of the transaction and do `work`; give way and try again while others hold them."""
    began, tries = time.monotonic(), 0
    while names:
        try:
            with conn.transaction():
                # Beyond a second the server also takes the lock from its own autovacuum.
                conn.execute("select set_config('lock_timeout', %s, true)", (f"{min(500 * 2**tries, 2000)}ms",))
                conn.execute("select etl.lock_published(%s, %s)", (names, mode))
                work()
                return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() - began > patience:
                raise PublishLocked(
                    f"{', '.join(names)} locked for {patience:.0f} s by {_holders(conn, names)}"
                ) from None
        sleep(min(0.2 * 2**tries, 5) * random.uniform(0.5, 1))
        tries += 1


def _holders(conn: psycopg.Connection, names: list[str]) -> str:
    relations = sql.Literal([f"dwh.{name}" for name in names])
    return conn.execute(statement("lock_holders", relations=relations)).fetchone()[0] or "nobody any more"


def _parts(conn: psycopg.Connection, published: Any, run: Run, publication_id: int) -> dict[str, Any]:
    """What the statements about one unpartitioned table are made of."""
    return {
        "publication_id": publication_id,
        "name": published.name,
        "target": table("dwh", published.name),
        "staged": table("staging", staged_name(published.name, run.run_id)),
        "columns": columns(columns_of(conn, "dwh", published.name)),
        "key_object": sql.SQL(", ").join(
            sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier("s", name)) for name in published.key
        ),
    }


def _merge(conn: psycopg.Connection, published: Any, run: Run, publication_id: int) -> None:
    names = columns_of(conn, "dwh", published.name)
    values = [name for name in names if name not in (*published.key, *LINEAGE)]
    parts = _parts(conn, published, run, publication_id) | {
        "same_key": same_key(published.key),
        "differs": differs(published, names),
        "assignments": sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier("s", name)) for name in (*values, *LINEAGE)
        ),
        "staged_columns": columns(names, "s"),
    }
    for name in ("remember_replaced", "remember_introduced", "merge_dimension"):
        conn.execute(statement(name, **parts))


def _replace_interval(conn: psycopg.Connection, published: Any, run: Run, publication_id: int) -> None:
    replaced = inside(published.interval, spans(conn, published, run))
    parts = _parts(conn, published, run, publication_id) | {"replaced": replaced}
    for name in ("remember_interval", "delete_interval", "insert_staged"):
        conn.execute(statement(name, **parts))


def _forget(conn: psycopg.Connection, declaration: Any) -> None:
    """Keep as much history of every table as the declaration says."""
    for published in declaration.publish.values():
        with conn.transaction():
            if published.partition_column:
                conn.execute("select etl.prune_history(%s, %s)", (published.name, published.history))
            else:
                conn.execute(statement("forget_rows", name=published.name, keep=published.history))


def _undoable(conn: psycopg.Connection, run_ids: list[str]) -> list[tuple[int, str]]:
    """The runs' publications that are not undone and their runs, newest first; raises PublishRefused when they cannot be."""
    rows = conn.execute(
        "select publication_id, run_id, undone_at is not null, rows_kept from etl.publication"
        " where run_id = any(%s) order by 1 desc",
        (run_ids,),
    ).fetchall()
    if missing := sorted(set(run_ids) - {row[1] for row in rows}):
        raise PublishRefused(f"run {', '.join(missing)} has published nothing")
    open_ones = [row for row in rows if not row[2]]
    if pruned := sorted({row[1] for row in open_ones if not row[3]}):
        raise PublishRefused(f"the rows that run {', '.join(pruned)} replaced are no longer kept")
    for run_id, later in conn.execute(LATER, {"run_ids": run_ids}).fetchall():
        raise PublishRefused(f"run {later} published some of the same days or months after run {run_id}: undo it first")
    return [(row[0], row[1]) for row in open_ones]


def _restore(
    conn: psycopg.Connection, name: str, publication_id: int, run_id: str, newest: bool, publications: list[int]
) -> None:
    names, target, key = columns_of(conn, "dwh", name), table("dwh", name), key_of(conn, name)
    parts = {"target": target, "name": name, "publication_id": publication_id}
    same = same_key(key, "t", "r")
    conn.execute(statement("undo_rows", same_key=same, run_id=run_id, newest=newest, **parts))
    conn.execute(statement("restore_rows", columns=columns(names), restored_columns=columns(names, "r"), **parts))
    same_content = sql.SQL(" and ").join(
        sql.SQL("later.content -> {0} = own.content -> {0}").format(sql.Literal(column)) for column in key
    )
    conn.execute(
        statement(
            "bypass_undone",
            name=name,
            publication_id=publication_id,
            run_id=run_id,
            publications=publications,
            same_content=same_content,
        )
    )
