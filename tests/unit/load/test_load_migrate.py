"""Migrations on a real server: forward, back, forward; refusals; rights."""

import json
import subprocess
import sys

import psycopg
import pytest

from jobs.load import migrate


def catalogue(conn) -> list[tuple]:
    """Every column, function and index of the warehouse."""
    return conn.execute(
        """
        select table_schema || '.' || table_name || '.' || column_name as name, data_type, is_nullable
        from information_schema.columns where table_schema in ('etl', 'dwh', 'dwh_history', 'staging')
        union all
        select p.oid::regprocedure::text, md5(p.prosrc), '' from pg_proc as p where p.pronamespace::regnamespace::text = 'etl'
        union all
        select schemaname || '.' || indexname, indexdef, '' from pg_indexes where schemaname in ('etl', 'dwh', 'dwh_history')
        order by 1
        """
    ).fetchall()


def test_up_down_up(empty):
    newest = len(migrate.read())
    done = migrate.up(empty)
    assert (done["level_before"], done["level_after"], len(done["applied"])) == (0, newest, newest)
    full = catalogue(empty)
    back = migrate.down(empty, 0)
    assert (back["level_before"], back["level_after"]) == (newest, 0)
    assert {name.split(".")[1] for name, *_ in catalogue(empty)} == {"migration", "migration_pkey"}
    assert migrate.up(empty)["level_after"] == newest
    assert catalogue(empty) == full
    assert migrate.up(empty) == {"level_before": newest, "level_after": newest, "applied": []}


def test_level_by_level(empty):
    for migration in migrate.read():
        assert migrate.up(empty, migration.level)["applied"] == [str(migration)]
        assert migrate.down(empty, migration.level - 1)["applied"] == [str(migration)]
        assert migrate.up(empty, migration.level)["applied"] == [str(migration)]


def test_plan_changes_nothing(empty):
    assert migrate.up(empty, 1, plan=True) == {"level_before": 0, "level_after": 1, "applied": ["0001_ledger"]}
    assert catalogue(empty) == []


def test_every_table_and_view_is_described(warehouse):
    assert not warehouse.rows(
        "select oid::regclass from pg_class where relnamespace::regnamespace::text in ('etl', 'dwh', 'dwh_history')"
        " and relkind in ('r', 'p', 'v') and obj_description(oid) is null"
    )


@pytest.fixture
def directory(tmp_path):
    """Two migrations of which the first has a way back."""
    (tmp_path / "0001_one.up.sql").write_text("create table etl.one (id int);")
    (tmp_path / "0001_one.down.sql").write_text("-- loses: etl.one\ndrop table etl.one;")
    (tmp_path / "0002_two.up.sql").write_text("create table etl.two (id int);")
    return tmp_path


def test_down_without_a_way_back_is_refused(empty, directory):
    migrate.up(empty, directory=directory)
    with pytest.raises(migrate.MigrationError, match="0002_two has no way back"):
        migrate.down(empty, 0, directory=directory)
    assert migrate.up(empty, directory=directory)["level_before"] == 2


def test_down_that_loses_rows_is_refused(empty, directory):
    migrate.up(empty, 1, directory=directory)
    empty.execute("insert into etl.one values (1), (2)")
    with pytest.raises(migrate.MigrationError, match="0001_one back would lose 2 rows of etl.one"):
        migrate.down(empty, 0, directory=directory)
    empty.execute("delete from etl.one")
    assert migrate.down(empty, 0, directory=directory)["level_after"] == 0


def test_an_older_release_goes_back_without_the_newer_files(empty, directory):
    migrate.up(empty, 1, directory=directory)
    (directory / "0001_one.up.sql").unlink()
    (directory / "0001_one.down.sql").unlink()
    (directory / "0002_two.up.sql").unlink()
    assert migrate.up(empty, directory=directory) == {"level_before": 1, "level_after": 1, "applied": []}
    assert migrate.down(empty, 0, directory=directory)["applied"] == ["0001_one"]


def test_another_line_of_releases_goes_back_as_what_was_applied_says(empty, directory):
    """A repaired commit has a level of its own where the bad release had another one: it takes that back too."""
    migrate.up(empty, 1, directory=directory)
    (directory / "0002_two.up.sql").write_text("create table etl.bad (id integer);")
    (directory / "0002_two.down.sql").write_text("drop table etl.bad;")
    migrate.up(empty, directory=directory)
    (directory / "0002_two.up.sql").rename(directory / "0002_mended.up.sql")
    (directory / "0002_two.down.sql").unlink()
    (directory / "0002_mended.up.sql").write_text("create table etl.good (id integer);")
    assert migrate.down(empty, 1, plan=True, directory=directory)["applied"] == ["0002_two"]
    assert migrate.down(empty, 1, directory=directory)["level_after"] == 1
    assert empty.execute("select to_regclass('etl.bad')").fetchone() == (None,)
    (directory / "0001_one.up.sql").write_text("create table etl.one (id bigint);")
    with pytest.raises(migrate.MigrationError, match="0001_one.up.sql is not what was applied"):
        migrate.down(empty, 1, directory=directory)


def test_a_changed_file_is_refused(empty, directory):
    migrate.up(empty, directory=directory)
    (directory / "0002_two.up.sql").write_text("create table etl.two (id bigint);")
    with pytest.raises(migrate.MigrationError, match="0002_two.up.sql is not what was applied"):
        migrate.up(empty, directory=directory)


def test_a_failing_migration_leaves_the_level_before_it(empty, directory):
    (directory / "0003_three.up.sql").write_text("create table etl.three (id int);\nselect 1 / 0;")
    with pytest.raises(migrate.MigrationError, match=r"0003_three.up.sql: division by zero"):
        migrate.up(empty, directory=directory)
    assert empty.execute("select max(level), to_regclass('etl.three') from etl.migration").fetchone() == (2, None)


def test_levels_without_gaps(directory):
    (directory / "0004_four.up.sql").write_text("select 1;")
    with pytest.raises(migrate.MigrationError, match=r"levels are \[1, 2, 4\]"):
        migrate.read(directory)


def test_command_line(server):
    database = server.database()
    environment = {"PGHOST": str(server.directory), "PGDATABASE": database, "PGUSER": "etl_owner"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "jobs.load.migrate", *arguments], env=environment, capture_output=True, text=True
        )

    assert json.loads(run("up", "--plan").stdout)["applied"][0] == "0001_ledger"
    assert json.loads(run("up").stdout)["level_after"] == len(migrate.read())
    refused = run("up", "--to", "99")
    assert (refused.returncode, refused.stderr.startswith("migrate: there is no level 99")) == (1, True)
    environment["PGDATABASE"] = "nowhere"
    assert 'database "nowhere" does not exist' in run("up").stderr


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        ("etl_load", "delete from dwh.fact_flight"),
        ("etl_load", "drop table dwh.fact_flight"),
        ("etl_load", "create table dwh.mine (id int)"),
        ("etl_load", "update etl.partition_version set current = false"),
        ("etl_load", "select etl.attach_version(1)"),
        ("etl_load", "select etl.detach_version(1)"),
        ("etl_read", "select etl.prune_history('fact_flight', 0)"),
        ("etl_read", "create table staging.mine (id int)"),
        ("etl_read", "insert into dwh.dim_airline values ('a', 'b', 'c', 'd')"),
        ("etl_read", "select * from dwh_history.row_version"),
    ],
)
def test_least_privilege(warehouse, user, statement):
    with warehouse.connect(user) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement)


@pytest.mark.parametrize("table", ["dim_airline", "fact_flight; drop table dwh.dim_airline", "nowhere"])
def test_only_partitioned_tables_get_partitions(warehouse, table):
    with warehouse.connect("etl_load") as conn, pytest.raises(psycopg.errors.WrongObjectType):
        conn.execute("select etl.build_partition(%s, 'x_201301', '2013-01-01', '2013-02-01', 'r', 1)", (table,))


def test_readers_read_what_is_published(warehouse):
    for relation in (
        "dwh.fact_flight",
        "dwh.agg_delay_day",
        "etl.v_run",
        "etl.v_published",
        "etl.run_source",
        "etl.migration",
    ):
        warehouse.rows(f"select * from {relation}", user="etl_read")
