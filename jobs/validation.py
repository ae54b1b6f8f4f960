"""What is wrong with a declaration, where, and what would be right. jobs.declaration reads by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import date
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

SCHEMA = Path(__file__).resolve().parent / "pipelines/schema.json"
BOUNDS = ("from", "to", "from_utc", "to_utc")  # of a run, as a parameter of a REST API may have them
LONGEST_TABLE = 47  # letters that leave room for what names of staging tables and of kept versions add
MOST_DIGITS = 38  # of a decimal
LINEAGE = ("run_id", "release")  # columns that every published table has
# A dimension's boolean column of this name is false for members that facts name and no source describes:
# such a row never takes the place of a described one.
KNOWN = "known"
# Rules that every source has.
BUILT_IN = {
    "unreadable_row": "The row could not be parsed",
    "unreadable_encoding": "A value is not in the declared encoding",
    "huge_value": "A value is too long",
    "outside_period": "A row is not of the time that its file is named for",
    "drift_added": "The file has a column that is not declared",
    "drift_gone": "The file lacks a declared column",
    "drift_retyped": "A column has another type than declared",
    "unreadable_value": "A value does not have its column's type",
    "key_missing": "A row lacks a part of its key",
    "superseded": "A later row has the same key",
}
PLACEHOLDER = re.compile(r"{(\w*)}")


class DeclarationError(ValueError):
    """A declaration that is wrong; the message names file, line, what is wrong and what would be right."""


def error_at(path: Path, where: list[str | int], what: str) -> DeclarationError:
    """The error that leads to the place `where` (keys and numbers) of a declaration."""
    place = ".".join(map(str, where)) or "the declaration"
    return DeclarationError(f"{path}:{line_of(path.read_text(), where)}: {place}: {what}")


class DuplicateKey(yaml.MarkedYAMLError):
    """A key that a mapping has twice: YAML would take the last and say nothing."""


class StrictLoader(yaml.SafeLoader):
    """YAML without dates (they are text until the schema has seen them) and without keys that come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises DuplicateKey at the second of two equal keys."""
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                what = f"{key.value} is here twice, first on line {lines[key.value]}"
                raise DuplicateKey(problem=what, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def ungrouped(kind: str, key: Iterable[str], columns: Iterable[str]) -> tuple[str, ...]:
    """Key columns that an aggregate takes from its facts as they are."""
    return tuple(name for name in key if kind == "aggregate" and name not in columns)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of a declaration."""
    return json.loads(SCHEMA.read_text())


def problems(document: Any, name: str) -> Iterator[tuple[list[str | int], str]]:
    """(where, what is wrong and what would be right), the most telling first."""
    root = schema()
    yield from _unknown_keys(root, root, document, [])
    errors = Draft202012Validator(root).iter_errors(document)
    if error := best_match(error for error in errors if error.validator != "unevaluatedProperties"):
        yield list(error.absolute_path), _told(error)
        return
    if document["pipeline"] != name:
        yield ["pipeline"], f"the file is {name}.yml, so it must be {name}"
    zone = document.get("timezone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        yield ["timezone"], f"there is no time zone {zone!r}{meant(zone, available_timezones())}"
    for key, source in document["sources"].items():
        yield from _source_problems(["sources", key], source)
        for origin in source.get("from", ()):
            if f"{key}_{origin}" in document["sources"]:
                yield ["sources", key, "from", origin], f"would be {key}_{origin}, which is another source here"
    for key, table in document["publish"].items():
        yield from _table_problems(["publish", key], table, document)
    for number, audit in enumerate(document.get("audits", ())):
        yield from _audit_problems(["audits", number], audit, document)
    yield from _twice(["audits"], document.get("audits", ()))


def _told(error: ValidationError) -> str:
    """What the schema has against a value, and what it wants instead."""
    description = error.schema.get("description")
    what = error.message
    if error.validator == "required":
        lacking = [key for key in error.validator_value if key not in error.instance]
        what = f"needs {' and '.join(f'`{key}`' for key in lacking)}"
        description = None
    elif error.validator == "enum":
        what = f"{error.instance!r} is none of {', '.join(map(str, error.validator_value))}"
        what += meant(error.instance, error.validator_value)
    elif error.validator == "pattern":
        what = f"{error.instance!r} cannot stand here"
    elif error.validator == "oneOf":  # of audits
        given = [f"`{key}`" for key in error.instance if key not in ("name", "table")]
        what = f"has {' and '.join(given) or 'nothing to check'}"
    return f"{what} ({description})" if description else what


def _twice(where: list[str | int], named: Iterable[dict[str, Any]]) -> Iterator[tuple[list[str | int], str]]:
    """Names that more than one rule or audit has: counts by name would say nothing of either."""
    seen: set[str] = set()
    for number, one in enumerate(named):
        if one["name"] in seen:
            yield [*where, number, "name"], f"{one['name']} is the name of another one above"
        seen.add(one["name"])


def _table_problems(
    where: list[str | int], table: dict[str, Any], document: dict[str, Any]
) -> Iterator[tuple[list[str | int], str]]:
    """Names that a table uses and nothing declares."""
    sources = document["sources"]
    if table["kind"] == "aggregate":
        facts = [name for name, other in document["publish"].items() if other["kind"] == "fact"]
        yield from _absent([*where, "from"], table["from"], "fact table", facts)
    else:
        yield from _absent([*where, "from"], table["from"], "source", sources)
    for alias, join in table.get("joins", {}).items():
        yield from _absent([*where, "joins", alias], join.get("source", alias), "source", sources)
    for number, column in enumerate(table.get("unknown", ())):
        source, _, name = column.partition(".")
        yield from _absent([*where, "unknown", number], source, "source", sources)
        if known := sources.get(source, {}).get("columns"):
            yield from _absent([*where, "unknown", number], name, "column", known)
    if "unknown" in table and len(table["key"]) > 1:
        yield [*where, "unknown"], "a dimension with unknown members has a key of one column"
    if len(name := str(where[-1])) > LONGEST_TABLE:
        yield (
            where,
            f"a name of {len(name)} letters; {LONGEST_TABLE} at most, as versions and staging tables are named after it",
        )
    if name.startswith("clean_"):
        yield where, f"names that begin with clean_ are those of cleaned sources: {name.removeprefix('clean_')}, say"
    for taken in (*LINEAGE, *([KNOWN] if "unknown" in table else [])):
        if taken in table["columns"]:
            yield [*where, "columns", taken], f"the table has a column {taken} of its own"
    columns = _columns(table)
    for part, names in {"key": table["key"], "interval": [table["interval"]] if "interval" in table else []}.items():
        for name in names:
            yield from _absent([*where, part], name, "column", columns)
    for number, names in enumerate(table.get("indexes", ())):
        for name in names:
            yield from _absent([*where, "indexes", number], name, "column", columns)
    if table["kind"] == "aggregate":
        yield from _interval_problems(where, table, document["publish"].get(table["from"], {}).get("partition"))
    if "partition" in table and table["partition"]["column"] not in table["key"]:
        what = f"{table['partition']['column']} must be among `key`: PostgreSQL keeps a key within a partition"
        yield [*where, "partition", "column"], what


def _interval_problems(
    where: list[str | int], table: dict[str, Any], partition: dict[str, Any] | None
) -> Iterator[tuple[list[str | int], str]]:
    """Rows of an aggregate that a run would replace though it has not all of their facts."""
    if partition is None:
        return
    name, day = table["interval"], partition["column"]
    made_of = table["columns"].get(name, name)
    if name not in table["key"]:
        yield [*where, "interval"], f"{name} must be among `key`: a run replaces whole rows of the aggregate"
    elif partition.get("replace") == "months":
        if not re.search(rf"\b{day}\b", made_of):
            what = f"{name} is not made of {day}, by whose months a run replaces the rows of {table['from']}"
            yield [*where, "interval"], what
    elif made_of.strip("` ") != day:
        what = f"{name} is not {day} as it is, by whose days a run replaces the rows of {table['from']}"
        yield [*where, "interval"], f"{what}; coarser sums are those of a view over this one"


def _audit_problems(
    where: list[str | int], audit: dict[str, Any], document: dict[str, Any]
) -> Iterator[tuple[list[str | int], str]]:
    """Names that an audit uses and nothing declares."""
    publish = document["publish"]
    if counted := audit.get("equals_rows_of"):
        datasets = [*(f"clean_{source}" for source in document["sources"]), *publish]
        yield from _absent([*where, "equals_rows_of"], counted, "dataset", datasets)
    key = publish.get(audit.get("references"), {}).get("key", audit.get("columns", ()))
    if len(key) != len(audit.get("columns", ())):
        yield [*where, "columns"], f"{audit['references']} has a key of {len(key)}: {', '.join(key)}"
    for part in ("table", "references", "equals_count_of"):
        if part in audit:
            yield from _absent([*where, part], audit[part], "table", publish)
    columns = _columns(publish.get(audit["table"], {"kind": "", "key": (), "columns": {}}))
    for part in ("columns", "not_null", "sum"):
        given = audit.get(part, [])
        for name in [given] if isinstance(given, str) else given:
            yield from _absent([*where, part], name, "column", columns)


def _columns(table: dict[str, Any]) -> list[str]:
    """Names of a declared table's columns."""
    grouped_by = ungrouped(table["kind"], table["key"], table["columns"])
    return [*grouped_by, *table["columns"], *([KNOWN] if "unknown" in table else [])]


def _absent(
    where: list[str | int], name: str, what: str, known: Iterable[str]
) -> Iterator[tuple[list[str | int], str]]:
    """The problem that nothing of that name is declared, if so."""
    if name not in known:
        yield where, f"there is no {what} {name!r}; {what}s are {', '.join(known)}{meant(name, known)}"


def _source_problems(where: list[str | int], source: dict[str, Any]) -> Iterator[tuple[list[str | int], str]]:
    """What a schema cannot say of one source."""
    columns = source.get("columns")
    for part, names in {"key": source["key"], "interval": [source["interval"]] if "interval" in source else []}.items():
        for name in names:
            if columns and name not in columns:
                yield [*where, part], f"{name!r} is not among the columns{meant(name, columns)}"
    origins = {(*where, "from", key): value for key, value in source.get("from", {}).items()} or {tuple(where): source}
    for here, origin in origins.items():
        if origin["kind"] != "sql" and not columns:
            yield list(here), f"a source of kind {origin['kind']} needs `columns`: the names and types that are read"
        bounds = 2 if "interval" in source else 0
        if origin["kind"] == "sql" and origin["query"].count("?") != bounds:
            yield (
                [*here, "query"],
                (
                    f"needs {bounds} bounds (?), has {origin['query'].count('?')}: "
                    "`interval` asks for two of them, `where column >= ? and column < ?`, and without it there are none"
                ),
            )
        if origin["kind"] == "sql" and origin["query"].rstrip().endswith(";"):
            yield [*here, "query"], "ends with a semicolon; it is a part of other queries, without one"
        for name, text in origin.get("parameters", {}).items():
            for given in PLACEHOLDER.findall(text):
                if given not in BOUNDS:
                    yield [*here, "parameters", name], f"{{{given}}} is none of {', '.join(f'{{{b}}}' for b in BOUNDS)}"
    for name, kind in (columns or {}).items():
        digits, scale = map(int, re.findall(r"\d+", kind) or (1, 0))
        if not (1 <= digits <= MOST_DIGITS and scale <= digits):
            yield (
                [*where, "columns", name],
                f"there is no {kind}: at most {MOST_DIGITS} digits, and no more after the point than in all",
            )
    for number, rule in enumerate(source.get("rules", ())):
        if rule["name"] in BUILT_IN:
            what = f"{rule['name']} is a rule that every source has ({BUILT_IN[rule['name']]}): its rows could not be told from these"
            yield [*where, "rules", number, "name"], what
    yield from _twice([*where, "rules"], source.get("rules", ()))
    for here, origin in origins.items():
        for part in ("since", "until"):
            if part in origin and not _is_day(origin[part]):
                yield [*here, part], f"there is no day {origin[part]}"
        if "since" in origin and origin["since"] >= origin.get("until", "9999"):
            yield (
                [*here, "until"],
                f"nothing is from {origin['since']} and before {origin['until']}: it would never be read",
            )
    spans = sorted((value.get("since", ""), value.get("until", "9999"), here) for here, value in origins.items())
    for (_, until, _), (since, _, here) in zip(spans, spans[1:], strict=False):
        if since < until:
            yield list(here), "shares days with another origin: set `since` and `until` so that each day has one"
        elif since > until:
            yield list(here), f"no origin has the days from {until} to {since}: what is of them would never be read"


def _is_day(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def _unknown_keys(
    root: dict[str, Any], schema: dict[str, Any], value: Any, where: list[str | int]
) -> Iterator[tuple[list[str | int], str]]:
    """Keys that no part of the schema knows, in the document's order."""
    if isinstance(value, dict):
        known, others = _properties(root, schema, value)
        if value.get("kind") not in known.get("kind", {}).get("enum", [value.get("kind")]):
            return  # what may stand here depends on it
        for key, child in value.items():
            below = known.get(key, others)
            if below is not None:
                yield from _unknown_keys(root, below, child, [*where, key])
            elif known:
                yield [*where, key], f"unknown key{meant(key, known)}; known here are {', '.join(known)}"
    elif isinstance(value, list):
        items = schema.get("items", {})
        for number, child in enumerate(value):
            yield from _unknown_keys(root, items, child, [*where, number])


def _properties(
    root: dict[str, Any], schema: dict[str, Any], value: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Schemas of a mapping's properties by name, and that of all others when there may be some."""
    known, others = {}, None
    parts = [schema]
    while parts:
        part = parts.pop(0)
        for key, below in part.get("properties", {}).items():
            known.setdefault(key, below)
        if isinstance(part.get("additionalProperties"), dict):
            others = part["additionalProperties"]
        if "$ref" in part:
            parts.append(root["$defs"][part["$ref"].rpartition("/")[2]])
        parts += part.get("allOf", [])
        if "if" in part:
            holds = Draft202012Validator(part["if"] | {"$defs": root["$defs"]}).is_valid(value)
            parts.append(part.get("then" if holds else "else", {}))
    return {key: below for key, below in known.items() if below is not False}, others


def meant(name: Any, known: Any) -> str:
    """What may have been meant, as the end of a message."""
    close = get_close_matches(str(name), list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def line_of(text: str, where: list[str | int]) -> int:
    """Line (from 1) of the key or item at path `where`, or of its nearest ancestor."""
    node, line = yaml.compose(text), 0
    for step in where:
        children = (
            {key.value: (key, value) for key, value in node.value}
            if isinstance(node, yaml.MappingNode)
            else {number: (value, value) for number, value in enumerate(node.value)}
        )
        if step not in children:
            break
        mark, node = children[step]
        line = mark.start_mark.line
    return line + 1
