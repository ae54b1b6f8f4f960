"""What pipelines declare of their tables is what the migrations make: columns, keys, partitioning, indexes, owners."""

import pytest

from jobs import declaration
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
