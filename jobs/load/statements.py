"""The named statements of load_to_dwh.sql, and small helpers that every loading module shares."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq, sql

from jobs.validation import KNOWN, LINEAGE

_FILE = Path(__file__).resolve().with_name("load_to_dwh.sql")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


@cache
def texts(path: Path = _FILE) -> dict[str, str]:
    """The statements of a file by the name that the comment above each gives."""
    parts = re.split(r"^-- name: (\w+)\n", path.read_text(), flags=re.MULTILINE)[1:]
    return {name: text.strip().rstrip(";") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def statement(name: str, /, **parts: Any) -> sql.Composed:
    """A statement of load_to_dwh.sql; a part is a psycopg.sql object, or a value that becomes a literal."""
    pieces = _PLACEHOLDER.split(texts()[name])
    given = [
        sql.SQL(piece)
        if index % 2 == 0
        else parts[piece]
        if isinstance(parts[piece], sql.Composable)
        else sql.Literal(parts[piece])
        for index, piece in enumerate(pieces)
    ]
    return sql.Composed(given)


def table(schema: str, name: str) -> sql.Identifier:
    """Quoted schema.name."""
    return sql.Identifier(schema, name)


def columns(names, prefix: str | None = None) -> sql.Composed:
    """Quoted names, comma-separated, each as prefix.name when a prefix is given."""
    return sql.SQL(", ").join(sql.Identifier(prefix, name) if prefix else sql.Identifier(name) for name in names)


def same_key(key, left: str = "t", right: str = "s") -> sql.Composed:
    """left.key = right.key for every column of a key."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )


def differs(published: Any, names: list[str]) -> sql.Composed:
    """Whether a staged row s of a dimension with the columns `names` takes the place of the published row t of its key."""
    values = [name for name in names if name not in (*published.key, *LINEAGE)]
    other = sql.SQL("row({}) is distinct from row({})").format(columns(values, "t"), columns(values, "s"))
    if KNOWN not in values:
        return other
    return sql.SQL("({} or not {}) and {}").format(sql.Identifier("s", KNOWN), sql.Identifier("t", KNOWN), other)


def columns_of(conn: psycopg.Connection, schema: str, name: str) -> list[str]:
    """Columns of a table in their order; empty when there is no such table."""
    rows = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        " and attnum > 0 and not attisdropped order by attnum",
        (schema, name),
    )
    return [row[0] for row in rows.fetchall()]


def key_of(conn: psycopg.Connection, name: str) -> list[str]:
    """Columns of the primary key of dwh.name, in their order."""
    rows = conn.execute(
        "select a.attname from pg_index as i inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
        " where i.indrelid = to_regclass(format('dwh.%%I', %s::text)) and i.indisprimary"
        " order by array_position(i.indkey::int2[], a.attnum)",
        (name,),
    )
    return [row[0] for row in rows.fetchall()]


def staged_name(dataset: str, run_id: str) -> str:
    """Name in schema staging of a dataset's rows of one run."""
    return f"{dataset[:52]}__{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def require_idle(conn: psycopg.Connection) -> None:
    """Raise ProgrammingError when the connection is inside a transaction: these functions commit their own."""
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("the connection is inside a transaction: commit or roll back first")
