"""What pipelines declare of their tables is what the migrations make: columns, keys, partitioning, indexes, owners."""

import re

import pytest

from jobs import check, declaration
from jobs.load.statements import LINEAGE, columns_of, key_of

TABLES = [(name, table) for name in declaration.names() for table in declaration.load(name).publish.values()]
every_table = pytest.mark.parametrize("table", [table for _, table in TABLES], ids=lambda table: table.name)


@pytest.fixture(scope="module")
def conn(server, migrated):
    """A reader of the newest level."""
    with server.connect(migrated, "etl_owner") as connection:
        yield connection


def test_every_published_table_is_declared_once(conn):
    made = conn.execute(
        "select relname from pg_class where relnamespace = 'dwh'::regnamespace and relkind in ('r', 'p')"
    )
    assert sorted(table.name for _, table in TABLES) == sorted(row[0] for row in made)


@every_table
def test_columns(conn, table):
    assert sorted(columns_of(conn, "dwh", table.name)) == sorted((*table.all_columns, *LINEAGE))


WIDER = {
    "tinyint": ("smallint", "integer", "bigint"),
    "smallint": ("smallint", "integer", "bigint"),
    "int": ("integer", "bigint"),
    "float": ("real", "double precision"),
    "string": ("text",),
}


def holds(column: str, kind: str) -> bool:
    """Whether a column of PostgreSQL keeps every value of a type of Spark as it is; COPY rounds and cuts without a word."""
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", kind):
        digits, scale = map(int, decimal.groups())
        room = re.fullmatch(r"numeric(?:\((\d+),(\d+)\))?", column)
        if room is None or room[1] is None:
            return room is not None
        return int(room[2]) >= scale and int(room[1]) - int(room[2]) >= digits - scale
    aliases = {"timestamptz": "timestamp with time zone"}
    made = check.POSTGRESQL[kind]
    return column in WIDER.get(kind, (aliases.get(made, made),))


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        ("numeric(18,4)", "decimal(18,4)", True),
        ("numeric(18,2)", "decimal(18,4)", False),
        ("numeric", "decimal(38,9)", True),
    ]
    + [("numeric(18,6)", "decimal(18,4)", False), ("bigint", "int", True), ("integer", "bigint", False)]
    + [("date", "timestamp", False), ("timestamp with time zone", "timestamp", True), ("real", "double", False)],
)
def test_what_a_column_holds(column, kind, expected):
    assert holds(column, kind) is expected


@pytest.fixture(scope="module")
def kinds():
    """Spark's types of all published columns, by table."""
    spark = check.session()
    tables = {}
    for name in declaration.names():
        tables |= check.Check(spark, declaration.load(name)).tables
    yield {name: dict(rows.dtypes) for name, rows in tables.items()}
    spark.stop()


@every_table
def test_columns_hold_what_spark_gives(conn, kinds, table):
    made = dict(
        conn.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            (f"dwh.{table.name}",),
        ).fetchall()
    )
    found = {name: (made[name], kind) for name, kind in kinds[table.name].items() if not holds(made[name], kind)}
    assert not found, "of these (PostgreSQL, Spark) values would be rounded, cut or refused"


@every_table
def test_key(conn, table):
    assert tuple(key_of(conn, table.name)) == table.key


@every_table
def test_partitioning(conn, table):
    found = conn.execute("select pg_get_partkeydef(%s::regclass)", (f"dwh.{table.name}",)).fetchone()[0]
    assert found == (f"RANGE ({table.partition_column})" if table.partition_column else None)


@every_table
def test_indexes(conn, table):
    rows = conn.execute(
        "select array(select a.attname from unnest(i.indkey) with ordinality as k (number, place)"
        " inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number order by k.place)"
        " from pg_index as i where i.indrelid = %s::regclass and not i.indisprimary",
        (f"dwh.{table.name}",),
    )
    assert sorted(tuple(row[0]) for row in rows) == sorted(table.indexes)


@every_table
def test_rights(conn, table):
    """Partitions are made by functions; in other tables the loader changes rows."""
    rights = {
        right
        for right in ("insert", "update", "delete")
        if conn.execute("select has_table_privilege('etl_load', %s, %s)", (f"dwh.{table.name}", right)).fetchone()[0]
    }
    assert rights == (set() if table.partition_column else {"insert", "update", "delete"})


@every_table
def test_comment(conn, table):
    assert conn.execute("select obj_description(%s::regclass)", (f"dwh.{table.name}",)).fetchone()[0]
