"""Pipelines as declared in jobs/pipelines/<name>.yml, checked against jobs/pipelines/schema.json.

`python -m jobs.declaration` checks them and prints what they connect to, as JSON.

>>> declaration = load("flights")
>>> declaration.sources["planes"].connection
'planes_db'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from jobs.validation import (
    DeclarationError,
    DuplicateKey,
    StrictLoader,
    error_at,
    line_of,
    meant,
    problems,
    schema,
    ungrouped,
)

PIPELINES = Path(__file__).resolve().parent / "pipelines"


@dataclass(frozen=True)
class Rule:
    """A row for which `reject_if` (Spark SQL) is true goes to quarantine with `reason`."""

    name: str
    reject_if: str
    reason: str


@dataclass(frozen=True)
class Drift:
    """What happens when a source's columns are not the declared ones: accept, quarantine or stop."""

    added: str = "accept"
    gone: str = "stop"
    retyped: str = "stop"


@dataclass(frozen=True)
class Page:
    """How a REST API pages: by number until `total` rows are there, or along the URLs at `next`."""

    number: str | None = None
    size: str | None = None
    rows: int | None = None
    total: str | None = None
    next: str | None = None
    most: int = 10_000


@dataclass(frozen=True)
class Source:
    """What is extracted and cleaned by itself: a query, files or pages.

    `dataset` is what its rows belong to: its own name, or that of the source whose `from` lists it (name: <dataset>_<origin>).
    `since` and `until`, local time, bound the rows that it has.
    """

    name: str
    kind: str
    connection: str
    key: tuple[str, ...]
    dataset: str = ""
    rules: tuple[Rule, ...] = ()
    interval: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    drift: Drift = Drift()
    since: datetime = datetime.min
    until: datetime = datetime.max
    query: str | None = None
    files: str | None = None
    format: str = "avro"
    encoding: str = "utf-8"
    settle: int = 2
    path: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    records: str | None = None
    page: Page | None = None

    @property
    def several_files(self) -> bool:
        """Whether the declared name stands for a number of files."""
        return self.files is not None and any(letter in self.files for letter in "*?%")

    def overlap(self, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
        """The part of [start, end) for which this source is asked; None when it has nothing in it."""
        start, end = max(start, self.since), min(end, self.until)
        return (start, end) if start < end else None


@dataclass(frozen=True)
class Join:
    """A source that a fact or dimension looks things up in: at most one of its rows fits `match` (Spark SQL)."""

    source: str
    match: str


@dataclass(frozen=True)
class Table:
    """One published table. Each cleaned row of `source` becomes one row here; an aggregate adds up the fact table `source`.

    columns: Spark SQL by name. where: Spark SQL, true for rows that are published. unknown: (source, column) pairs whose values
    become members with known = false when the dimension has none of that key. `partition_column` is set for facts (monthly
    ranges). whole_months: a run replaces every month that its rows are in, not the days of its interval.
    """

    name: str
    kind: str
    key: tuple[str, ...]
    source: str
    columns: dict[str, str]
    joins: dict[str, Join] = field(default_factory=dict)
    where: str | None = None
    unknown: tuple[tuple[str, str], ...] = ()
    partition_column: str | None = None
    whole_months: bool = False
    interval: str | None = None
    indexes: tuple[tuple[str, ...], ...] = ()
    history: int = 3

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Names of the columns, but for those of lineage (run_id, release) that every published table has."""
        return (*ungrouped(self.kind, self.key, self.columns), *self.columns, *(("known",) if self.unknown else ()))


@dataclass(frozen=True)
class Retention:
    """Days that what nothing published needs stays, by kind; how many files of a table a needed run keeps in curated."""

    raw: int = 365
    curated: int = 30
    quarantine: int = 365
    attempts: int = 7
    staging: int = 7
    ledger: int = 730
    files: int = 32


@dataclass(frozen=True)
class Declaration:
    """One pipeline; NiFi takes its extract requests on `port`, `publish` keeps the order in which tables are locked."""

    pipeline: str
    description: str
    owner: str
    alerts: str
    port: int
    timezone: str
    sources: dict[str, Source]
    publish: dict[str, Table]
    audits: tuple[dict[str, Any], ...]
    retention: Retention = Retention()


def names() -> list[str]:
    """Names of all declared pipelines."""
    return sorted(path.stem for path in PIPELINES.glob("*.yml"))


def load(name: str, directory: Path = PIPELINES) -> Declaration:
    """Read and check one declaration. Raises DeclarationError."""
    path = directory / f"{name}.yml"
    try:
        text = path.read_text()
        document = yaml.load(text, Loader=StrictLoader)
    except FileNotFoundError:
        raise DeclarationError(
            f"{path}: there is no such pipeline{meant(name, names())}; declared are {', '.join(names())}"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = (
            error.problem
            if isinstance(error, DuplicateKey)
            else f"this is not YAML: {error.problem} {error.context or ''}"
        )
        raise DeclarationError(f"{path}:{line}: {what}") from None
    for where, what in problems(document, name):
        raise error_at(path, where, what)
    return Declaration(
        pipeline=document["pipeline"],
        description=document["description"],
        owner=document["owner"],
        alerts=document["alerts"],
        port=document["port"],
        timezone=document.get("timezone", "UTC"),
        sources={source.name: source for key, value in document["sources"].items() for source in _sources(key, value)},
        publish={
            key: _table(key, value, document["publish"].get(value["from"], value))
            for key, value in document["publish"].items()
        },
        audits=tuple(document.get("audits", ())),
        retention=Retention(**document.get("retention", {})),
    )


def load_all(directory: Path = PIPELINES) -> list[Declaration]:
    """Read and check all declarations, also against each other. Raises DeclarationError."""
    ports: dict[int, str] = {}
    tables: dict[str, str] = {}
    found = [load(path.stem, directory) for path in sorted(directory.glob("*.yml"))]
    for declaration in found:
        path = directory / f"{declaration.pipeline}.yml"
        owner = ports.setdefault(declaration.port, declaration.pipeline)
        if owner != declaration.pipeline:
            allowed = schema()["properties"]["port"]
            free = {*range(allowed["minimum"], allowed["maximum"] + 1)} - {other.port for other in found}
            which = f"{min(free)} is free" if free else "none is free"
            what = f"{declaration.port} is that of the pipeline {owner}; every pipeline has its own: {which}"
            raise error_at(path, ["port"], what)
        for table in declaration.publish:
            owner = tables.setdefault(table, declaration.pipeline)
            if owner != declaration.pipeline:
                raise error_at(path, ["publish", table], f"the pipeline {owner} publishes a table of that name")
    return found


def connections(directory: Path = PIPELINES) -> Iterator[dict[str, str]]:
    """What every origin of every pipeline connects to: {"connection", "kind", "place": file and line}."""
    for declaration in load_all(directory):
        path = directory / f"{declaration.pipeline}.yml"
        text = path.read_text()
        for source in declaration.sources.values():
            origin = source.name.removeprefix(f"{source.dataset}_")
            where = [
                "sources",
                source.dataset,
                *(["from", origin] if source.name != source.dataset else []),
                "connection",
            ]
            yield {"connection": source.connection, "kind": source.kind, "place": f"{path}:{line_of(text, where)}"}


def _sources(name: str, value: dict[str, Any]) -> Iterator[Source]:
    """A declared source as its parts, each with one origin."""
    shared = dict(value)
    for origin, more in shared.pop("from", {"": {}}).items():
        given = shared | more
        if given["kind"] == "rest":
            given["format"] = "json"
        yield Source(
            name=f"{name}_{origin}" if origin else name,
            dataset=name,
            key=tuple(given.pop("key")),
            rules=tuple(Rule(**rule) for rule in given.pop("rules", ())),
            drift=Drift(**given.pop("drift", {})),
            page=Page(**given.pop("page")) if "page" in given else None,
            since=datetime.fromisoformat(given.pop("since", "0001-01-01")),
            until=datetime.fromisoformat(given.pop("until")) if "until" in given else datetime.max,
            **given,
        )


def _table(name: str, value: dict[str, Any], fact: dict[str, Any]) -> Table:
    """`fact`: the declared table that an aggregate adds up, which says what a run replaces; else the table itself."""
    return Table(
        name=name,
        kind=value["kind"],
        key=tuple(value["key"]),
        source=value["from"],
        columns=value["columns"],
        joins={alias: Join(join.get("source", alias), join["match"]) for alias, join in value.get("joins", {}).items()},
        where=value.get("where"),
        unknown=tuple(tuple(column.split(".")) for column in value.get("unknown", ())),
        partition_column=value.get("partition", {}).get("column"),
        whole_months=fact.get("partition", {}).get("replace") == "months",
        interval=value.get("interval"),
        indexes=tuple(tuple(columns) for columns in value.get("indexes", ())),
        history=value.get("history", 3),
    )


if __name__ == "__main__":
    try:
        print(json.dumps(list(connections())))
    except DeclarationError as wrong:
        sys.exit(str(wrong))
