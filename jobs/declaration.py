"""Pipelines as declared in jobs/pipelines/<name>.yml, checked against jobs/pipelines/schema.json.

>>> declaration = load("flights")
>>> declaration.sources["flights"].connection
'flights_db'
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

PIPELINES = Path(__file__).resolve().parent / "pipelines"


class DeclarationError(ValueError):
    """A declaration that breaks the schema; the message names file, line, what is wrong and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """A row for which `reject_if` (Spark SQL) is true goes to quarantine with `reason`."""

    name: str
    reject_if: str
    reason: str


@dataclass(frozen=True)
class Source:
    """One dataset: an SQL query or files over SFTP."""

    name: str
    kind: str
    connection: str
    key: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    interval: str | None = None
    query: str | None = None
    files: str | None = None
    format: str = "avro"
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One published table. `partition_column` is set for facts (monthly ranges), `source` where each of its rows becomes one here."""

    name: str
    kind: str
    key: tuple[str, ...]
    source: str | None = None
    partition_column: str | None = None
    interval: str | None = None
    history: int = 3


@dataclass(frozen=True)
class Retention:
    """Days that what nothing published needs stays, by kind."""

    raw: int = 365
    curated: int = 30
    quarantine: int = 365
    attempts: int = 7
    staging: int = 7
    ledger: int = 730


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
    """Read and check one declaration.

    Raises DeclarationError naming file and line when it breaks the schema.
    """
    path = directory / f"{name}.yml"
    text = path.read_text()
    document = yaml.safe_load(text)
    schema = json.loads((PIPELINES / "schema.json").read_text())
    if error := best_match(Draft202012Validator(schema).iter_errors(document)):
        where = list(error.absolute_path)
        raise DeclarationError(
            f"{path}:{_line(text, where)}: {'.'.join(map(str, where)) or 'document'}: {error.message}"
        )
    for table, value in document["publish"].items():
        if "from" in value and value["from"] not in document["sources"]:
            raise DeclarationError(
                f"{path}:{_line(text, ['publish', table, 'from'])}: publish.{table}.from: there is no source {value['from']}; "
                f"sources are {', '.join(document['sources'])}"
            )
    return Declaration(
        pipeline=document["pipeline"],
        description=document["description"],
        owner=document["owner"],
        alerts=document["alerts"],
        port=document["port"],
        timezone=document.get("timezone", "UTC"),
        sources={key: _source(key, value) for key, value in document["sources"].items()},
        publish={key: _table(key, value) for key, value in document["publish"].items()},
        audits=tuple(document.get("audits", ())),
        retention=Retention(**document.get("retention", {})),
    )


def load_all(directory: Path = PIPELINES) -> list[Declaration]:
    """Read and check all declarations, also against each other. Raises DeclarationError."""
    owners: dict[int, str] = {}
    found = [load(path.stem, directory) for path in sorted(directory.glob("*.yml"))]
    for declaration in found:
        owner = owners.setdefault(declaration.port, declaration.pipeline)
        if owner != declaration.pipeline:
            path = directory / f"{declaration.pipeline}.yml"
            raise DeclarationError(
                f"{path}:{_line(path.read_text(), ['port'])}: port: {declaration.port} is that of the pipeline {owner}; "
                f"every pipeline has its own"
            )
    return found


def _source(name: str, value: dict[str, Any]) -> Source:
    given = dict(value)
    return Source(
        name=name,
        key=tuple(given.pop("key")),
        rules=tuple(Rule(**rule) for rule in given.pop("rules", ())),
        **given,
    )


def _table(name: str, value: dict[str, Any]) -> Table:
    return Table(
        name=name,
        kind=value["kind"],
        key=tuple(value["key"]),
        source=value.get("from"),
        partition_column=value.get("partition", {}).get("column"),
        interval=value.get("interval"),
        history=value.get("history", 3),
    )


def _line(text: str, where: list[str | int]) -> int:
    """Line (from 1) of the node at path `where`, or of its nearest ancestor."""
    node = yaml.compose(text)
    for step in where:
        children = (
            {key.value: value for key, value in node.value}
            if isinstance(node, yaml.MappingNode)
            else dict(enumerate(node.value))
        )
        if step not in children:
            break
        node = children[step]
    return node.start_mark.line + 1
