"""Check declared pipelines as far as that goes without a host: python -m jobs.check [pipeline …] [--draft]

What can be said by looking alone jobs.declaration says. Here Spark analyses every rule, join and column over rows of the declared
types, of which there are none, as the stages will over real ones. --draft prints the migration that makes the tables, to begin with.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import dedent

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DateType

from jobs.declaration import PIPELINES, Declaration, DeclarationError, Source, Table, error_at, load, load_all, names
from jobs.transform.spark.aggregate_data import aggregate
from jobs.transform.spark.enrich_data import join, shape
from jobs.transform.spark.hooks import hook
from jobs.transform.spark.session import SETTINGS

POSTGRESQL = {
    "string": "text",
    "boolean": "boolean",
    "tinyint": "smallint",
    "smallint": "smallint",
    "int": "integer",
    "bigint": "bigint",
    "float": "real",
    "double": "double precision",
    "date": "date",
    "timestamp": "timestamptz",
}


class Check:
    """What Spark makes of a declaration.

    errors: what is wrong, in the declaration's order. tables: rows of each published table, of which there are none; without those
    that cannot be analysed: something is wrong, or a query does not declare its columns.
    """

    def __init__(self, spark: SparkSession, declaration: Declaration):
        self.declaration = declaration
        self.errors: list[DeclarationError] = []
        self.tables: dict[str, DataFrame] = {}
        datasets = {source.dataset: source for source in declaration.sources.values()}
        self._rows = {name: _empty(spark, source) for name, source in datasets.items() if source.columns}
        for name, rows in self._rows.items():
            for number, rule in enumerate(datasets[name].rules):
                self._right(["sources", name, "rules", number, "reject_if"], rows.where, rule.reject_if)
        for table in declaration.publish.values():
            rows = self._added_up(table) if table.kind == "aggregate" else self._looked_up(table)
            if rows is not None:
                made = hook(declaration.pipeline, table.name)
                self.tables[table.name] = made(rows) if made else rows

    def _right(self, where: list[str | int], look: Callable, *given) -> bool:
        """Whether Spark can do that; if not, its reason is kept as the error at `where`."""
        try:
            look(*given)
        except PySparkException as error:
            self._wrong(where, _said(error))
            return False
        return True

    def _wrong(self, where: list[str | int], what: str) -> None:
        self.errors.append(error_at(PIPELINES / f"{self.declaration.pipeline}.yml", where, what))

    def _looked_up(self, table: Table) -> DataFrame | None:
        """The rows of a fact or dimension."""
        here: list[str | int] = ["publish", table.name]
        if not {table.source, *(joined.source for joined in table.joins.values())} <= set(self._rows):
            return None
        rows = self._rows.__getitem__
        for number, alias in enumerate(table.joins, 1):
            first = replace(table, joins=dict(list(table.joins.items())[:number]))
            if not self._right([*here, "joins", alias], join, first, rows):
                return None
        joined = join(table, rows)
        right = not table.where or self._right([*here, "where"], joined.where, table.where)
        for name, value in table.columns.items():
            right &= self._right([*here, "columns", name], joined.selectExpr, value)
        # all at once, which a sum among columns does not stand
        if not right or not self._right([*here, "columns"], shape, table, joined, rows):
            return None
        shaped = shape(table, joined, rows)
        self._days(table, shaped, table.partition_column)
        return shaped

    def _added_up(self, table: Table) -> DataFrame | None:
        """The rows of an aggregate."""
        facts = self.tables.get(table.source)
        if facts is None:
            return None
        key = {name: value for name, value in table.columns.items() if name in table.key}
        right = True
        for name, value in table.columns.items():
            alone = replace(table, columns={**key, name: value})
            right &= self._right(["publish", table.name, "columns", name], aggregate, alone, facts)
        ungrouped = [name for name in table.key if name not in (*table.columns, *facts.columns)]
        for name in ungrouped:
            self._wrong(["publish", table.name, "key"], f"{table.source} has no column {name!r}")
        if not right or ungrouped:
            return None
        rows = aggregate(table, facts)
        self._days(table, rows, table.interval)
        return rows

    def _days(self, table: Table, rows: DataFrame, name: str | None) -> None:
        """What a run replaces goes by days."""
        if name and not isinstance(kind := rows.schema[name].dataType, DateType):
            where = ["publish", table.name, "columns", name]
            self._wrong(where, f"is a {kind.simpleString()}; what a run replaces goes by a date: to_date(…)")


def session() -> SparkSession:
    """A Spark session of this process, enough to look at expressions."""
    # What is wrong is told once, by us.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config(map=SETTINGS)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    return spark


def draft(check: Check) -> Iterator[str]:
    """The migration that makes a pipeline's tables, by the types that Spark gives them."""
    for table in check.declaration.publish.values():
        kinds = dict(check.tables[table.name].dtypes)
        required = {*table.key, *(["known"] if table.unknown else [])}
        columns = [f"{name} {_postgresql(kinds[name])}{' not null' * (name in required)}" for name in table.all_columns]
        columns += ["run_id text not null", "release text not null", f"primary key ({', '.join(table.key)})"]
        partition = f" partition by range ({table.partition_column})" if table.partition_column else ""
        yield f"create table dwh.{table.name} (\n    " + ",\n    ".join(columns) + f"\n){partition};"
        yield f"comment on table dwh.{table.name} is '…';"
        yield from (f"create index on dwh.{table.name} ({', '.join(index)});" for index in table.indexes)
        yield ""
    changed = [f"dwh.{table.name}" for table in check.declaration.publish.values() if not table.partition_column]
    if changed:
        yield f"grant insert, update, delete on {', '.join(changed)} to etl_load;"


def _postgresql(kind: str) -> str:
    decimal = re.fullmatch(r"decimal\((\d+),(\d+)\)", kind)
    return f"numeric({decimal[1]}, {decimal[2]})" if decimal else POSTGRESQL.get(kind, f"… -- {kind}")


def _empty(spark: SparkSession, source: Source) -> DataFrame:
    return spark.createDataFrame([], ", ".join(f"`{name}` {kind}" for name, kind in source.columns.items()))


def _said(error: PySparkException) -> str:
    """Spark's own words, without its plan, the place in a query that it made up, and codes."""
    text = (error.getMessage() or str(error)).strip().split("\n")[0]
    return re.sub(r"^\[[\w.]+\] |\.? SQLSTATE: .*$", "", text)


def main(argv: list[str]) -> int:
    """Print every error, or what was checked; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m jobs.check", description=dedent(__doc__))
    parser.add_argument("pipeline", nargs="*", help="default: all")
    parser.add_argument("--draft", action="store_true", help="print a migration for the tables")
    given = parser.parse_args(argv)
    try:
        declarations = [load(name) for name in given.pipeline or names()]
        load_all()
    except DeclarationError as error:
        print(error, file=sys.stderr)
        return 1
    spark = session()
    wrong = 0
    for declaration in declarations:
        check = Check(spark, declaration)
        wrong += len(check.errors)
        for error in check.errors:
            print(error, file=sys.stderr)
        if unseen := [] if check.errors else [name for name in declaration.publish if name not in check.tables]:
            print(
                f"{declaration.pipeline}: {', '.join(unseen)} not checked: a query without `columns`", file=sys.stderr
            )
        if given.draft and len(check.tables) == len(declaration.publish):
            print("\n".join(draft(check)))
        elif not check.errors:
            counts = f"{len(declaration.sources)} sources, {len(declaration.publish)} tables, {len(declaration.audits)} audits"
            print(f"{declaration.pipeline}: right ({counts})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
