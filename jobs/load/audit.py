"""Audits of staged rows: what must hold before they are published.

Always checked, for every table: as many rows as the stage that wrote them counted, a unique key without nulls, and days inside the
run's interval; for every source: as many rows read as its manifest counts, and the ledger's equation (etl.v_balance): what the
source itself counted = rows to be published, as they are staged, + quarantined + superseded. Further audits are those of the
declaration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from jobs.load.data_partitioning import inside, spans
from jobs.load.ledger import Run, is_replay
from jobs.load.statements import columns, columns_of, differs, key_of, require_idle, same_key, staged_name, table

# Runs of a pipeline that have published and read all their sources after a given run had read its own.
READ_LATER = """
select other.run_id from etl.run as other
where
    other.pipeline = %(pipeline)s and other.run_id <> %(run_id)s
    and exists (select from etl.publication as p where p.run_id = other.run_id and p.undone_at is null)
    and (select min(s.extracted_at) from etl.run_source as s where s.run_id = other.run_id)
    > (select max(s.extracted_at) from etl.run_source as s where s.run_id = %(run_id)s)
"""


@dataclass(frozen=True)
class Result:
    """One audit of one dataset; `expected` and `found` are for people."""

    dataset: str
    audit: str
    passed: bool
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.audit} of {self.dataset}: expected {self.expected}, found {self.found}"


class AuditFailed(RuntimeError):
    """At least one audit failed; `results` holds all, the message every failed one with what was expected and found."""

    def __init__(self, results: list[Result]) -> None:
        self.results = results
        failed = [result for result in results if not result.passed]
        super().__init__(f"{len(failed)} of {len(results)} audits failed: " + "; ".join(map(str, failed)))


def check(conn: psycopg.Connection, declaration: Any, run: Run) -> list[Result]:
    """Check the run's staged rows and enter the results in etl.audit_result.

    Returns the results; raises AuditFailed when one did not pass, after they are entered.
    """
    require_idle(conn)
    with conn.transaction():
        results = list(_results(conn, declaration, run))
        _enter(conn, run, results)
    if not all(result.passed for result in results):
        raise AuditFailed(results)
    return results


def _enter(conn: psycopg.Connection, run: Run, results: list[Result]) -> None:
    conn.execute("delete from etl.audit_result where run_id = %s", (run.run_id,))
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into etl.audit_result (run_id, dataset, audit, passed, expected, found) values (%s, %s, %s, %s, %s, %s)",
            [(run.run_id, r.dataset, r.audit, r.passed, r.expected, r.found) for r in results],
        )


def require_newest(conn: psycopg.Connection, declaration: Any, run: Run) -> None:
    """Raise AuditFailed, with the results in etl.audit_result, when rows that the run would replace are of one that read later.

    A run whose tasks are cleared does not read them again: what it has sealed may have been overtaken meanwhile. A replay is merged
    with what is published (jobs.quarantine), and a restore publishes runs in their order: neither asks.
    """
    require_idle(conn)
    with conn.transaction():
        query = conn.execute(READ_LATER, {"pipeline": run.pipeline, "run_id": run.run_id})
        later = [row[0] for row in query.fetchall()]
        tables = declaration.publish.values() if later else ()
        results = [_overtaken(conn, run, published, later) for published in tables]
        if not (passed := all(result.passed for result in results)):
            _enter(conn, run, results)
    if not passed:
        raise AuditFailed(results)


def _overtaken(conn: psycopg.Connection, run: Run, published: Any, later: list[str]) -> Result:
    if day := published.partition_column or published.interval:
        joined, replaced = sql.SQL(""), inside(day, spans(conn, published, run), "t")
    else:
        joined = sql.SQL("inner join {} as s on {}").format(_staged(run, published.name), same_key(published.key))
        replaced = differs(published, columns_of(conn, "dwh", published.name))
    rows, other = conn.execute(
        sql.SQL("select count(*), max(t.run_id) from {} as t {} where t.run_id = any({}) and {}").format(
            table("dwh", published.name), joined, later, replaced
        )
    ).fetchone()
    found = f"{_rows(rows)} of {other}: start a new run over {run.interval_from} to {run.interval_to}"
    return Result(
        published.name, "read_latest", not rows, "no rows of a run that read later", found if rows else "none"
    )


def _results(conn: psycopg.Connection, declaration: Any, run: Run) -> Iterator[Result]:
    for source in _sources(conn, declaration, run):
        yield _rows_read(conn, run, source.name)
        yield _balance(conn, declaration, run, source)
    for published in declaration.publish.values():
        yield _rows_staged(conn, run, published.name)
        yield _unique(conn, run, published)
        yield _no_bad_row(conn, run, published.name, "key_not_null", _any_null(published.key), "no null in the key")
        if day := published.partition_column or published.interval:
            replaced = spans(conn, published, run)
            outside = sql.SQL("not {}").format(inside(day, replaced))
            expected = f"{day} " + ", ".join(f"from {start} to before {end}" for start, end in replaced)
            yield _no_bad_row(conn, run, published.name, "inside_interval", outside, expected)
            if published.partition_column and published.whole_months:
                yield _in_one_month(conn, run, published, replaced)
    for audit in declaration.audits:
        yield _declared(conn, declaration, run, audit)


def _sources(conn: psycopg.Connection, declaration: Any, run: Run) -> list[Any]:
    """The sources that a run has rows of: those with days of its interval; of a replay those whose quarantined rows it takes up."""
    if not is_replay(conn, run):
        return [s for s in declaration.sources.values() if s.overlap(run.interval_from, run.interval_to)]
    rows = conn.execute(
        "select distinct dataset from etl.quarantine_replay where replay_run_id = %s order by 1", (run.run_id,)
    )
    return [declaration.sources[row[0]] for row in rows.fetchall()]


def _rows_read(conn: psycopg.Connection, run: Run, source: str) -> Result:
    manifest = conn.execute(
        "select row_count from etl.run_source where run_id = %s and dataset = %s", (run.run_id, source)
    ).fetchone()
    if manifest is None:
        return Result(source, "rows_read", False, "a sealed manifest", "none in the ledger")
    read = _stage_rows(conn, run, "rows_in", f"clean_{source}", source)
    if manifest[0] is None:
        return Result(source, "rows_read", read is not None, "rows of files taken as they are", _rows(read))
    return Result(source, "rows_read", read == manifest[0], _rows(manifest[0]), _rows(read))


def _balance(conn: psycopg.Connection, declaration: Any, run: Run, origin: Any) -> Result:
    """Count the source's rows among the staged ones, enter that, and hold it against the source's own count."""
    source = origin.name
    facts = [one for one in declaration.publish.values() if one.kind != "aggregate" and one.source == origin.dataset]
    name = facts[0].name if facts else None
    cleaned = {
        s.name: _stage_rows(conn, run, "rows_out", f"clean_{s.name}")
        for s in _sources(conn, declaration, run)
        if s.dataset == origin.dataset
    }
    if name and None not in cleaned.values():
        # Unknown members of a dimension are rows of no source.
        known = sql.SQL("known") if "known" in columns_of(conn, "dwh", name) else sql.SQL("true")
        published = conn.execute(
            sql.SQL("select count(*) from {} where {} and run_id = {}").format(_staged(run, name), known, run.run_id)
        ).fetchone()[0]
        # what the other sources of the dataset have in the table
        published -= sum(rows for other, rows in cleaned.items() if other != source)
    else:
        published = cleaned[source]
    if published is None:
        return Result(source, "balance", False, "cleaned rows", "none recorded")
    conn.execute(
        "insert into etl.run_published (run_id, dataset, table_name, row_count) values (%s, %s, %s, %s)"
        " on conflict (run_id, dataset) do update set table_name = excluded.table_name, row_count = excluded.row_count",
        (run.run_id, source, name, published),
    )
    row = conn.execute(
        "select balanced, extracted, counted_by, quarantined, superseded from etl.v_balance where run_id = %s and dataset = %s",
        (run.run_id, source),
    ).fetchone()
    if row is None:
        return Result(source, "balance", False, "a sealed manifest", "none in the ledger")
    balanced, extracted, how, quarantined, superseded = row
    parts = f"{published} published + {quarantined} quarantined + {superseded} superseded"
    return Result(
        source, "balance", bool(balanced), f"{_rows(extracted)} ({how or 'not counted at the source'})", parts
    )


def _rows_staged(conn: psycopg.Connection, run: Run, name: str) -> Result:
    written = _merged(conn, run, name, _stage_rows(conn, run, "rows_out", name))
    staged = _own(conn, run, name)
    return Result(name, "rows_staged", staged == written, _rows(written), _rows(staged))


def _unique(conn: psycopg.Connection, run: Run, published: Any) -> Result:
    twice = conn.execute(
        sql.SQL("select count(*) over (), {0} from {1} group by {0} having count(*) > 1 limit 1").format(
            columns(published.key), _staged(run, published.name)
        )
    ).fetchone()
    found = f"{twice[0]} keys more than once, such as {tuple(map(str, twice[1:]))}" if twice else "unique"
    return Result(published.name, "key_unique", twice is None, f"({', '.join(published.key)}) unique", found)


def _in_one_month(conn: psycopg.Connection, run: Run, published: Any, replaced: list[tuple[date, date]]) -> Result:
    """No row is published in a month that the run does not replace as well: a source has moved it from there to another."""
    day = published.partition_column
    names = [name for name in published.key if name != day]
    moved = conn.execute(
        sql.SQL(
            "select count(*), min(({row})::text), min(t.{day}) from {staged} as s inner join {target} as t on {same} where not {replaced}"
        ).format(
            row=sql.SQL("row({})").format(columns(names, "s")),
            day=sql.Identifier(day),
            staged=_staged(run, published.name),
            target=table("dwh", published.name),
            same=same_key(names),
            replaced=inside(day, replaced, "t"),
        )
    ).fetchone()
    found = (
        f"{moved[0]} rows that another month has too, such as {moved[1]} on {moved[2]}: run over an interval with a change of that month"
        if moved[0]
        else "every row so"
    )
    return Result(published.name, "in_one_month", not moved[0], f"({', '.join(names)}) in one month", found)


def _declared(conn: psycopg.Connection, declaration: Any, run: Run, audit: dict[str, Any]) -> Result:
    """One audit of the declaration; its kind is told by its keys (see the schema)."""
    name, dataset = audit["name"], audit["table"]
    if other := audit.get("equals_rows_of"):
        parts = [f"clean_{s.name}" for s in _sources(conn, declaration, run) if f"clean_{s.dataset}" == other] or [
            other
        ]
        written = [_merged(conn, run, part, _stage_rows(conn, run, "rows_out", part)) for part in parts]
        expected = None if None in written else sum(written)
        found = _own(conn, run, dataset)
        return Result(dataset, name, found == expected, f"{_rows(expected)} as {other}", _rows(found))
    if other := audit.get("equals_count_of"):
        total = conn.execute(
            sql.SQL("select coalesce(sum({}), 0)::bigint from {}").format(
                sql.Identifier(audit["sum"]), _staged(run, dataset)
            )
        ).fetchone()[0]
        expected = _count(conn, _staged(run, other))
        return Result(
            dataset, name, total == expected, f"sum of {audit['sum']} {expected} as rows of {other}", str(total)
        )
    if other := audit.get("references"):
        return _references(conn, run, name, dataset, audit["columns"], other)
    if required := audit.get("not_null"):
        return _no_bad_row(conn, run, dataset, name, _any_null(required), f"no null in {', '.join(required)}")
    return _no_bad_row(
        conn, run, dataset, name, sql.SQL("({}) is not true").format(sql.SQL(audit["check"])), audit["check"]
    )


def _references(conn: psycopg.Connection, run: Run, name: str, dataset: str, names: list[str], other: str) -> Result:
    """Every row whose columns are not null finds its key among the staged or the published rows of another table."""
    key = key_of(conn, other)
    pairs = list(zip(key, names, strict=True))
    match = sql.SQL(" and ").join(sql.SQL("d.{} = s.{}").format(sql.Identifier(k), sql.Identifier(n)) for k, n in pairs)
    lost = conn.execute(
        sql.SQL(
            "select count(*), min(({row})::text) from {staged} as s where ({present})"
            " and not exists (select from {fresh} as d where {match}) and not exists (select from {kept} as d where {match})"
        ).format(
            row=sql.SQL("row({})").format(columns(names, "s")),
            staged=_staged(run, dataset),
            present=sql.SQL(" and ").join(sql.SQL("s.{} is not null").format(sql.Identifier(n)) for n in names),
            fresh=_staged(run, other),
            kept=table("dwh", other),
            match=match,
        )
    ).fetchone()
    found = f"{lost[0]} rows without, such as {lost[1]}" if lost[0] else "all there"
    return Result(dataset, name, lost[0] == 0, f"{', '.join(names)} in {other}", found)


def _no_bad_row(
    conn: psycopg.Connection, run: Run, dataset: str, name: str, bad: sql.Composable, expected: str
) -> Result:
    key = columns(key_of(conn, dataset))
    query = sql.SQL("select count(*), min((row({}))::text) from {} where {}").format(key, _staged(run, dataset), bad)
    rows, example = conn.execute(query).fetchone()
    found = f"{_rows(rows)} against it, such as {example}" if rows else "every row so"
    return Result(dataset, name, rows == 0, expected, found)


def _any_null(names) -> sql.Composed:
    return sql.SQL(" or ").join(sql.SQL("{} is null").format(sql.Identifier(name)) for name in names)


def _count(conn: psycopg.Connection, relation: sql.Identifier) -> int:
    return conn.execute(sql.SQL("select count(*) from {}").format(relation)).fetchone()[0]


def _own(conn: psycopg.Connection, run: Run, name: str) -> int:
    """Staged rows that are the run's own: all of them, but for those that a replay merges with."""
    query = sql.SQL("select count(*) from {} where run_id = {}").format(_staged(run, name), run.run_id)
    return conn.execute(query).fetchone()[0]


def _merged(conn: psycopg.Connection, run: Run, dataset: str, rows: int | None) -> int | None:
    """What is left of a stage's rows once those are out that a merge found published."""
    gone = conn.execute(
        "select coalesce(sum(row_count), 0)::bigint from etl.run_reject where run_id = %s and dataset = %s and stage = 'merge'",
        (run.run_id, dataset),
    ).fetchone()[0]
    return None if rows is None else rows - gone


def _stage_rows(conn: psycopg.Connection, run: Run, column: str, *datasets: str) -> int | None:
    """A count of the latest stage that reports one of the datasets; None when no stage does."""
    row = conn.execute(
        sql.SQL(
            "select {} from etl.run_stage where run_id = %s and dataset = any(%s) order by recorded_at desc limit 1"
        ).format(sql.Identifier(column)),
        (run.run_id, list(datasets)),
    ).fetchone()
    return row[0] if row else None


def _staged(run: Run, name: str) -> sql.Identifier:
    return table("staging", staged_name(name, run.run_id))


def _rows(number: int | None) -> str:
    return "none recorded" if number is None else f"{number} rows"
