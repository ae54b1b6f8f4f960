"""The filters of a logstash.conf, interpreted as far as the role uses them: what they make of an event.

Logstash's documentation is what this follows; it is not Logstash. It holds the two descriptions of the mapping together on every commit.
"""

import hashlib
import json
import re
from typing import Any

TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<string>"[^"]*"|'[^']*')|(?P<regex>(?<=~\s)/(?:\\.|[^/])+/)|(?P<field>(?:\[[\w@]+\])+)"""
    r"""|(?P<mark>=>|==|!=|=~|!~|[{}\[\],])|(?P<word>[\w.]+)""",
    re.VERBOSE,
)
OPERATORS = ("==", "!=", "=~", "!~", "in")


def tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of every token; raises ValueError where there is none."""
    found, place = [], 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if not match:
            raise ValueError(f"not a token: {text[place : place + 40]!r}")
        if match.lastgroup != "skip":
            found.append((match.lastgroup, match[0].strip("\"'") if match.lastgroup == "string" else match[0]))
        place = match.end()
    return found


class Parser:
    """logstash.conf as nested tuples: ("plugin", name, settings) and ("if", [(condition or None, body)…])."""

    def __init__(self, text: str):
        self.rest = tokens(text)

    def take(self, *wanted: str) -> str:
        kind, text = self.rest.pop(0)
        if wanted and text not in wanted:
            raise ValueError(f"expected {' or '.join(wanted)}, found {text}")
        return text

    def next_is(self, *texts: str) -> bool:
        return bool(self.rest) and self.rest[0][1] in texts

    def sections(self) -> dict[str, list]:
        found = {}
        while self.rest:
            name = self.take("input", "filter", "output")
            found[name] = self.body()
        return found

    def body(self) -> list:
        found = []
        self.take("{")
        while not self.next_is("}"):
            found.append(self.branches() if self.next_is("if") else ("plugin", self.take(), self.settings()))
        self.take("}")
        return found

    def branches(self) -> tuple:
        self.take("if")
        arms = [(self.condition(), self.body())]
        while self.next_is("else"):
            self.take("else")
            condition = self.condition() if self.next_is("if") and self.take("if") else None
            arms.append((condition, self.body()))
        return ("if", arms)

    def condition(self) -> tuple:
        left, operator = self.rest.pop(0), None
        if self.next_is(*OPERATORS):
            operator = (self.take(), self.value())
        if self.next_is("or", "and"):
            return (self.take(), (left, operator), self.condition())
        return (left, operator)

    def settings(self) -> dict[str, Any]:
        found = {}
        self.take("{")
        while not self.next_is("}"):
            name = self.take()
            self.take("=>")
            found[name] = self.value()
        self.take("}")
        return found

    def value(self) -> Any:
        kind, text = self.rest[0]
        if text == "{" and kind == "mark":
            return self.settings()
        if text == "[" and kind == "mark":
            self.take("[")
            found = []
            while not self.next_is("]"):
                found.append(self.value())
                if self.next_is(","):
                    self.take(",")
            self.take("]")
            return found
        self.rest.pop(0)
        return (kind, text) if kind in ("field", "regex") else text


class Dropped(Exception):
    """The event was dropped."""


def get(event: dict, name: str) -> Any:
    """A field, by name or by [nested][name]; None when it is not there."""
    value: Any = event
    for part in re.findall(r"[\w@]+", name):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def put(event: dict, name: str, value: Any) -> None:
    """Set a field."""
    *parents, last = re.findall(r"[\w@]+", name)
    for part in parents:
        event = event.setdefault(part, {})
    event[last] = value


def filled(event: dict, text: str) -> str:
    """A text with its %{fields}."""
    return re.sub(r"%\{([^}]+)\}", lambda found: str(get(event, found[1])), text)


def holds(event: dict, condition: tuple) -> bool:
    """Whether a condition is true of the event."""
    if condition[0] in ("or", "and"):
        _, (left, operator), right = condition
        first = holds(event, (left, operator))
        return first or holds(event, right) if condition[0] == "or" else first and holds(event, right)
    (kind, text), operator = condition
    value = get(event, text) if kind == "field" else text
    if operator is None:
        return value not in (None, False)
    name, other = operator
    other = get(event, other[1]) if isinstance(other, tuple) and other[0] == "field" else other
    if name == "in":
        return value in (other or [])
    if name in ("=~", "!~"):
        return bool(re.search(other[1].strip("/"), str(value or ""))) == (name == "=~")
    return (value == other) == (name == "==")


def apply(event: dict, body: list) -> None:
    """Run the filters of a body over the event, in place. Raises Dropped."""
    for step in body:
        if step[0] == "if":
            for condition, inner in step[1]:
                if condition is None or holds(event, condition):
                    apply(event, inner)
                    break
        else:
            FILTERS[step[1]](event, step[2])


def _drop(event, settings):
    raise Dropped


def _journal(event, settings):
    assert 'event.get("MESSAGE")' in settings["code"], "another script than the one that is known here"
    event["message"] = event["MESSAGE"]
    event["@timestamp"] = int(event["__REALTIME_TIMESTAMP"]) / 1e6


def _translate(event, settings):
    if (value := get(event, settings["source"])) is not None:
        put(event, settings["target"], settings["dictionary"].get(value, settings["fallback"]))


def _mutate(event, settings):
    for name, target in settings.get("copy", {}).items():
        put(event, target, get(event, name))
    for name, value in (settings.get("replace", {}) | settings.get("add_field", {})).items():
        put(event, name, filled(event, value))
    changes = settings.get("gsub", [])
    for name, pattern, text in zip(changes[::3], changes[1::3], changes[2::3], strict=True):
        put(event, name, re.sub(pattern, text, get(event, name)))
    for name in settings.get("lowercase", []):
        put(event, name, get(event, name).lower())


def _json(event, settings):
    try:
        put(event, settings["target"], json.loads(get(event, settings["source"])))
    except json.JSONDecodeError:
        assert settings["skip_on_invalid_json"] == "true"


def _fingerprint(event, settings):
    values = "|".join(str(get(event, name)) for name in settings["source"])
    put(event, settings["target"], hashlib.sha1(values.encode()).hexdigest())


def _grok(event, settings):
    for name, pattern in settings["match"].items():
        found = re.search(pattern.replace("(?<", "(?P<"), get(event, name))
        event.update(found.groupdict() if found else {"tags": ["_grokparsefailure"]})


def _date(event, settings):
    name, form = settings["match"]
    assert form == "ISO8601"
    event["@timestamp"] = get(event, name)


def _prune(event, settings):
    for name in [
        name
        for name in event
        if name != "@metadata" and not any(re.search(p, name) for p in settings["whitelist_names"])
    ]:
        del event[name]


FILTERS = {"drop": _drop, "ruby": _journal, "translate": _translate, "mutate": _mutate, "json": _json, "fingerprint": _fingerprint,
           "grok": _grok, "date": _date, "prune": _prune}  # fmt: skip
