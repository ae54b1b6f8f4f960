"""Dashboards asked as Grafana asks: variables and macros put in, each data source queried in its own way."""

import json
import math
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.deployed import ROOT

DASHBOARDS = sorted((ROOT / "roles/grafana/files/dashboards").glob("*.json"))
POINTS = 1000  # that a panel as wide as half a screen asks for
SCRAPE_SECONDS = 15
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
LUCENE = re.compile(r'([+\-=&|><!(){}\[\]^"~*?:\\/])')


def load(path: Path) -> dict:
    """A dashboard's JSON."""
    return json.loads(path.read_text())


def panels(dashboard: dict) -> list[dict]:
    """Its panels, rows' own ones included."""
    return [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", [])) if "targets" in inner]


def variables(dashboard: dict) -> list[dict]:
    """What can be chosen above it."""
    return dashboard["templating"].get("list", [])


@dataclass(frozen=True)
class View:
    """What a person looks at: a time range and a choice of variables (a text, or a list where several may be chosen)."""

    since: datetime
    until: datetime
    variables: dict[str, str | list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, dashboard: dict, **variables) -> "View":
        """The dashboard's own time range, as of now."""
        number, unit = re.fullmatch(r"now-(\d+)([mhd])", dashboard["time"]["from"]).groups()
        now = datetime.now(UTC)
        return cls(now - timedelta(**{UNITS[unit]: int(number)}), now, variables)

    @property
    def step(self) -> int:
        """$__interval in seconds."""
        return max(SCRAPE_SECONDS, math.ceil((self.until - self.since).total_seconds() / POINTS))

    def put_in(self, text: str, kind: str) -> str:
        """The text with variables replaced as the data source of this kind wants them. Raises KeyError for an unknown one."""
        builtin = {
            "__interval": f"{self.step}s",
            "__rate_interval": f"{max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
            "__range": f"{int((self.until - self.since).total_seconds())}s",
        }

        def value(found: re.Match) -> str:
            name, wanted = found["braced"] or found["plain"], found["format"] or kind
            return builtin[name] if name in builtin else FORMATS[wanted](self.variables[name])

        pattern = r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\$(?P<plain>\w+)(?!\w*\()"
        return re.sub(pattern, value, text)

    def sql(self, text: str) -> str:
        """A query of the warehouse, macros expanded."""
        since, until = (f"'{moment.isoformat()}'" for moment in (self.since, self.until))

        def macro(found: re.Match) -> str:
            name, column = found.groups()
            return {
                "timeFilter": f"{column} between {since} and {until}",
                "timeFrom": since,
                "timeTo": until,
            }[name]

        return self.put_in(re.sub(r"\$__(time\w+)\(([^)]*)\)", macro, text), "sqlstring")


def _several(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _prometheus(value: str | list[str]) -> str:
    if isinstance(value, str):
        return value.replace("\\", r"\\").replace('"', r"\"")
    escaped = [re.sub(r"([$^*{}\[\]'+?.()|])", r"\\\\\1", item.replace("\\", r"\\\\")) for item in value]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _lucene(value: str | list[str]) -> str:
    escaped = [LUCENE.sub(r"\\\1", item) for item in _several(value)]
    return escaped[0] if isinstance(value, str) else "(" + " OR ".join(f'"{item}"' for item in escaped) + ")"


def _sqlstring(value: str | list[str]) -> str:
    return ",".join("'" + item.replace("'", "''") + "'" for item in _several(value))


FORMATS = {"prometheus": _prometheus, "elasticsearch": _lucene, "sqlstring": _sqlstring}


class Grafana:
    """The provisioned data sources of a deployed platform."""

    def __init__(self, prometheus, elasticsearch, warehouse):
        self.sources = {
            "prometheus": self._prometheus,
            "elasticsearch": self._elasticsearch,
            "warehouse": self._warehouse,
        }
        self.prometheus, self.elasticsearch, self.warehouse = prometheus, elasticsearch, warehouse

    def view(self, dashboard: dict, **chosen) -> View:
        """What the dashboard shows when it is opened: every variable at its first value, or at all of them; `chosen` wins."""
        view = View.of(dashboard)
        for variable in variables(dashboard):
            name, query = variable["name"], variable["query"]
            if name in chosen:
                found = [chosen[name]]
            elif variable["type"] == "custom":
                found = query.split(",")
            elif variable["datasource"]["uid"] == "prometheus":
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query["query"]).groups()
                found = self.prometheus.get(
                    f"/api/v1/label/{label}/values", **{"match[]": view.put_in(series, "prometheus")}
                )["data"]
            else:
                found = [str(next(iter(row.values()))) for row in self.warehouse.rows(view.sql(query))]
            assert found, f"{dashboard['title']}: variable {name} has no value"
            value = found if variable.get("multi") else found[0]
            view = View(view.since, view.until, view.variables | {name: value})
        return view

    def rows(self, target: dict, view: View) -> list[dict]:
        """What a target returns: `labels` (dict) with `value`, and `time` (seconds) where it is a series; or the columns of a table.

        Raises what the data source refuses.
        """
        return self.sources[target["datasource"]["uid"]](target, view)

    def values(self, target: dict, view: View) -> list:
        """What of it a panel shows: numbers and texts, without nulls."""
        shown = [
            value for row in self.rows(target, view) for name, value in row.items() if name not in ("time", "labels")
        ]
        return [value for value in shown if value is not None and value != "" and value == value]

    def _prometheus(self, target: dict, view: View) -> list[dict]:
        # The last hour at most: a longer range has longer steps, and what is new shows only when one has passed.
        view = replace(view, since=max(view.since, view.until - timedelta(hours=1)))
        query = view.put_in(target["expr"], "prometheus")
        if target.get("instant"):
            result = self.prometheus.get("/api/v1/query", query=query, time=view.until.timestamp())["data"]["result"]
            return [{"labels": each["metric"], "value": float(each["value"][1])} for each in result]
        times = {"start": view.since.timestamp(), "end": view.until.timestamp(), "step": view.step}
        result = self.prometheus.get("/api/v1/query_range", query=query, **times)["data"]["result"]
        return [
            {"labels": each["metric"], "time": moment, "value": float(value)}
            for each in result
            for moment, value in each["values"]
        ]

    def _warehouse(self, target: dict, view: View) -> list[dict]:
        rows = self.warehouse.rows(view.sql(target["rawSql"]))
        if target["format"] != "time_series":
            return rows
        return [
            {"labels": {"name": row.get("metric", name)}, "time": row["time"].timestamp(), "value": float(value)}
            for row in rows
            for name, value in row.items()
            if name not in ("time", "metric") and value is not None
        ]

    def _elasticsearch(self, target: dict, view: View) -> list[dict]:
        times = {name: int(moment.timestamp() * 1000) for name, moment in (("gte", view.since), ("lte", view.until))}
        span = {"range": {target["timeField"]: times | {"format": "epoch_millis"}}}
        text = {"query_string": {"analyze_wildcard": True, "query": view.put_in(target["query"], "elasticsearch")}}
        asked: dict = {"size": 0, "query": {"bool": {"filter": [span, text]}}}
        (shown,) = target["metrics"]
        if shown["type"] == "logs":
            asked |= {"size": int(shown["settings"]["limit"]), "sort": [{target["timeField"]: "desc"}]}
            return [hit["_source"] for hit in self.elasticsearch.post("/etl-logs-*/_search", asked)["hits"]["hits"]]
        inner = asked
        for bucket in target["bucketAggs"]:
            settings, made = bucket["settings"], {"field": bucket["field"]}
            if bucket["type"] == "terms":
                made |= {"size": int(settings["size"]), "order": {settings["orderBy"]: settings["order"]}}
            else:
                made |= {"fixed_interval": f"{view.step}s", "min_doc_count": int(settings["min_doc_count"])}
                made |= {"extended_bounds": {"min": times["gte"], "max": times["lte"]}, "format": "epoch_millis"}
            inner["aggs"] = {bucket["id"]: {bucket["type"]: made}}
            inner = inner["aggs"][bucket["id"]]
        found = [({"name": "lines"}, self.elasticsearch.post("/etl-logs-*/_search", asked)["aggregations"])]
        for bucket in target["bucketAggs"]:
            found = [
                ({"name": each["key"]} if bucket["type"] == "terms" else labels, each)
                for labels, outer in found
                for each in outer[bucket["id"]]["buckets"]
            ]
        return [{"labels": labels, "time": each["key"] / 1000, "value": each["doc_count"]} for labels, each in found]
