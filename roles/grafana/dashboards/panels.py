"""The vocabulary that the dashboards are written in: queries of the three data sources, panels, table columns, variables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    elasticsearch,
    logs,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import elasticsearch as elasticsearch_models
from grafana_foundation_sdk.models import prometheus as prometheus_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

# Provisioned under these uids: roles/grafana/templates/datasources.yml.j2.
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
ELASTICSEARCH = DataSourceRef(type_val="elasticsearch", uid="elasticsearch")
WAREHOUSE = DataSourceRef(type_val="grafana-postgresql-datasource", uid="warehouse")

TAG = "etl-cloud"
Steps = Sequence[tuple[float | None, str]]  # from this value on, this colour; the first from None
GOOD_IS_ZERO: Steps = [(None, "green"), (1, "red")]
GOOD_IS_ONE: Steps = [(None, "red"), (1, "green")]

RUN_STATES = {"published": "green", "running": "blue", "failed": "red", "undone": "orange"}


class _Sql(Builder[UnknownDataquery]):
    """A query of the warehouse; the SDK has no builder for PostgreSQL."""

    def __init__(self, text: str, series: bool):
        self.data: dict[str, Any] = {
            "datasource": WAREHOUSE.to_json(),
            "editorMode": "code",
            "format": "time_series" if series else "table",
            "rawQuery": True,
            "rawSql": text,
        }

    def ref_id(self, name: str) -> "_Sql":
        self.data["refId"] = name
        return self

    def build(self) -> UnknownDataquery:
        return UnknownDataquery(self.data)


@dataclass(frozen=True)
class Query:
    """A query and the data source it is for."""

    source: DataSourceRef
    builder: Any


def metric(expr: str, legend: str = "", *, now: bool = False, rows: bool = False) -> Query:
    """PromQL: a series over the dashboard's time, with `now` its last value alone, with `rows` last values as a table."""
    builder = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").datasource(PROMETHEUS)
    builder = builder.instant() if now or rows else builder.range()
    return Query(PROMETHEUS, builder.format(prometheus_models.PromQueryFormat.TABLE) if rows else builder)


def sql(text: str, *, series: bool = False) -> Query:
    """SQL on the warehouse as etl_read; with `series` its column `time` orders the rows."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return Query(WAREHOUSE, _Sql("\n".join(lines), series))


def log_lines(query: str, limit: int = 500) -> Query:
    """Log lines that match a Lucene query, the newest first."""
    lines = elasticsearch.Logs().id("1").settings(elasticsearch.ElasticsearchLogsSettings().limit(str(limit)))
    return Query(ELASTICSEARCH, _elasticsearch(query).metrics([lines]).bucket_aggs([]))


def log_counts(query: str, by: str = "") -> Query:
    """How many log lines match a Lucene query, over time and by a field; without one there is a 0 where none does."""
    terms = elasticsearch.ElasticsearchTermsSettings().size("10").order_by("_count").min_doc_count("1")
    times = elasticsearch.ElasticsearchDateHistogramSettings().interval("auto").min_doc_count("0")
    buckets = [elasticsearch.DateHistogram().id("3").field("@timestamp").settings(times)]
    if by:
        settings = terms.order(elasticsearch_models.TermsOrder.DESC)
        buckets.insert(0, elasticsearch.Terms().id("2").field(by).settings(settings))
    return Query(ELASTICSEARCH, _elasticsearch(query).metrics([elasticsearch.Count().id("1")]).bucket_aggs(buckets))


def _elasticsearch(query: str) -> elasticsearch.Dataquery:
    return elasticsearch.Dataquery().query(query).time_field("@timestamp").datasource(ELASTICSEARCH)


def _panel(
    builder, title: str, description: str, queries: Sequence[Query], width: int, height: int, unit: str, steps: Steps
):
    builder = builder.title(title).description(description).span(width).height(height).datasource(queries[0].source)
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        builder = builder.with_target(query.builder.ref_id(letter))
    if unit:
        builder = builder.unit(unit)
    if steps:
        thresholds = [Threshold(value=value, color=color) for value, color in steps]
        builder = builder.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
    return builder


def number(
    title: str, description: str, query: Query, *, unit: str = "short", steps: Steps = ((None, "blue"),), width: int = 4
):
    """One figure; its colour says whether it is right."""
    builder = _panel(stat.Panel(), title, description, [query], width, 4, unit, steps)
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    graph = looks.BigValueGraphMode.NONE if query.source is WAREHOUSE else looks.BigValueGraphMode.AREA
    return builder.reduce_options(reduced).color_mode(looks.BigValueColorMode.BACKGROUND).graph_mode(graph)


def word(title: str, description: str, query: Query, *, colors: dict[str, str] | None = None, width: int = 4):
    """One text, coloured by what it says. The query returns a column of text."""
    builder = _panel(stat.Panel(), title, description, [query], width, 4, "string", [(None, "text")])
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("/.*/")
    mode = looks.BigValueColorMode.BACKGROUND if colors else looks.BigValueColorMode.VALUE
    builder = builder.reduce_options(reduced).color_mode(mode).graph_mode(looks.BigValueGraphMode.NONE)
    return builder.mappings([mapping(colors)]) if colors else builder


def curve(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps = (),
    width: int = 8,
    stacked: bool = False,
    bars: bool = False,
    least: float | None = 0,
):
    """Values over time; with `steps` their thresholds as lines."""
    builder = _panel(timeseries.Panel(), title, description, queries, width, 8, unit, steps)
    legend = (
        common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST).placement(looks.LegendPlacement.BOTTOM)
    )
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    builder = builder.legend(legend.show_legend(True)).tooltip(tooltip).fill_opacity(80 if bars else 10)
    builder = builder.draw_style(looks.GraphDrawStyle.BARS if bars else looks.GraphDrawStyle.LINE)
    builder = builder.show_points(looks.VisibilityMode.AUTO).line_width(1 if bars else 2)
    if stacked:
        builder = builder.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if steps:
        builder = builder.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED)
        )
    return builder if least is None else builder.min(least)


def states(
    title: str, description: str, query: Query, *, texts: dict[str, tuple[str, str]], width: int = 12, height: int = 8
):
    """What state something was in over time; texts: value to (text, colour)."""
    values = ValueMap(
        options={v: ValueMappingResult(text=t, color=c, index=i) for i, (v, (t, c)) in enumerate(texts.items())}
    )
    builder = _panel(statetimeline.Panel(), title, description, [query], width, height, "", ())
    color = dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color("text")
    return builder.mappings([values]).color_scheme(color).merge_values(True).show_value(looks.VisibilityMode.NEVER)


def ranking(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = "short",
    steps: Steps = ((None, "blue"),),
    width: int = 8,
    most: float | None = None,
    height: int = 8,
):
    """A bar for each series' or row's last value."""
    builder = _panel(bargauge.Panel(), title, description, [query], width, height, unit, steps)
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).values(query.source is WAREHOUSE)
    builder = builder.reduce_options(reduced).orientation(looks.VizOrientation.HORIZONTAL).min(0)
    builder = builder.display_mode(looks.BarGaugeDisplayMode.GRADIENT)
    return builder if most is None else builder.max(most)


def rows(
    title: str,
    description: str,
    query: Query,
    columns: dict[str, list[DynamicConfigValue]] | None = None,
    *,
    width: int = 24,
    height: int = 8,
    hidden: Sequence[str] = (),
    order: Sequence[str] = (),
):
    """A table; columns: name to what `unit`, `link` and `colored` give. `hidden` and `order` are for those of PromQL."""
    builder = _panel(table.Panel(), title, description, [query], width, height, "", ())
    for name, properties in (columns or {}).items():
        builder = builder.override_by_name(name, properties)
    if hidden or order:
        options = {
            "excludeByName": dict.fromkeys(["Time", "__name__", *hidden], True),
            "indexByName": {name: index for index, name in enumerate(order)},
            "renameByName": {},
        }
        builder = builder.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    return builder.show_header(True).cell_height(looks.TableCellHeight.SM)


def lines(title: str, description: str, query: Query, *, height: int = 12):
    """Log lines."""
    builder = _panel(logs.Panel(), title, description, [query], 24, height, "", ())
    builder = builder.show_time(True).wrap_log_message(True).enable_log_details(True)
    return builder.sort_order(looks.LogsSortOrder.DESCENDING).dedup_strategy(looks.LogsDedupStrategy.NONE)


def unit(name: str) -> list[DynamicConfigValue]:
    """A column's unit."""
    return [DynamicConfigValue("unit", name)]


def link(title: str, url: str) -> list[DynamicConfigValue]:
    """A column whose values lead somewhere."""
    return [DynamicConfigValue("links", [{"title": title, "url": url, "targetBlank": False}])]


def mapping(colors: dict[str, str]) -> ValueMapping:
    """Texts and their colours."""
    return ValueMap(
        options={t: ValueMappingResult(text=t, color=c, index=i) for i, (t, c) in enumerate(colors.items())}
    )


def colored(colors: dict[str, str]) -> list[DynamicConfigValue]:
    """A column whose background says what its text means."""
    cell = DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    return [DynamicConfigValue("mappings", [mapping(colors).to_json()]), cell]


def graded(steps: Steps, unit_name: str = "short") -> list[DynamicConfigValue]:
    """A column whose colour says whether its number is right."""
    thresholds = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    cell = DynamicConfigValue("custom.cellOptions", {"type": "color-text"})
    return [DynamicConfigValue("unit", unit_name), DynamicConfigValue("thresholds", thresholds), cell]


def choice(name: str, label: str, source: DataSourceRef, query: str, *, several: bool = False):
    """A variable above the dashboard. `several`: any number of values, all of them at first; else the first one."""
    asked: str | dict = query
    if source is PROMETHEUS:
        asked = {"query": query, "refId": f"variable-{name}"}
    builder = dashboard.QueryVariable(name).label(label).datasource(source).query(asked).multi(several)
    builder = builder.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.DISABLED).include_all(several)
    return builder.current(VariableOption(selected=True, text=["All"], value=["$__all"])) if several else builder


def listed(name: str, label: str, values: Sequence[str]):
    """A variable of these values, any number of them, all at first."""
    builder = dashboard.CustomVariable(name).label(label).values(",".join(values)).multi(True).include_all(True)
    return builder.current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def board(uid: str, title: str, description: str, *, since: str = "now-24h") -> dashboard.Dashboard:
    """An empty dashboard that links to all the others."""
    others = dashboard.DashboardLink("ETL-Cloud").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    empty = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly().timezone("browser")
    return empty.time(since, "now").refresh("30s").link(others)


RUN_LINK = link("The run", "/d/etl-pipeline?var-pipeline=${__data.fields.pipeline}&var-run=${__value.raw}")
RUNBOOK_LINK = link("What to do", "/d/runbook-${__value.raw}")
