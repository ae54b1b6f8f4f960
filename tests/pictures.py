"""Pictures of the dashboards for the documentation, drawn from what their queries return on a deployed platform.

    make pictures      writes docs/pictures/<dashboard>.svg

Not screenshots: Grafana draws finer. Positions, titles, units, thresholds, mappings and data are the dashboards' own.
"""

import re
import sys
from datetime import UTC, datetime
from html import escape

import psycopg
from psycopg.rows import dict_row

from tests.deployed import ROOT, Deployed, Service
from tests.grafana import DASHBOARDS, Grafana, load, panels

CELL, LINE, GAP = 60, 32, 8  # pixels of a grid column, a grid row, and between panels
COLORS = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "blue": "#5794f2", "text": "#ccccdc"}
CYCLE = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#8ab8ff", "#f2495c", "#ffa6b0", "#ffcb7d", "#c8f2c2"]
STEPS = {"bytes": (1024, ["B", "KiB", "MiB", "GiB", "TiB"]), "short": (1000, ["", " K", " Mil", " Bil"])}
SPANS = [("year", 31536000), ("week", 604800), ("day", 86400), ("hour", 3600), ("min", 60), ("s", 1)]


class Reader:
    """The warehouse as etl_read."""

    def __init__(self, parameters: dict[str, str]):
        self.parameters = parameters

    def rows(self, query: str) -> list[dict]:
        """The rows of a query."""
        with psycopg.connect(**self.parameters, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()


def said(value, unit: str = "") -> str:
    """A value as a person reads it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if value is None or isinstance(value, str) or not hasattr(value, "__float__"):
        return "" if value is None else str(value)
    number = float(value)
    if unit == "percentunit":
        return f"{number * 100:.3g}%"
    if unit == "s" and abs(number) >= 1:
        name, size = next((name, size) for name, size in SPANS if abs(number) >= size)
        return f"{number / size:.3g} {name}{'s' if name not in ('s', 'min') and number / size >= 1.05 else ''}"
    base, names = STEPS["bytes" if unit in ("bytes", "Bps") else "short"]
    while abs(number) >= base and len(names) > 1:
        number, names = number / base, names[1:]
    suffix = {"s": " s", "Bps": "/s", "reqps": " req/s", "ops": " ops/s"}.get(unit, "")
    return f"{number:.4g}{names[0] if unit != 's' else ''}{suffix}"


def shade(value, settings: dict) -> str:
    """The colour that mappings or thresholds give a value."""
    for mapping in settings.get("mappings", []):
        if str(value) in mapping["options"]:
            return COLORS[mapping["options"][str(value)]["color"]]
    color = "text"
    for step in settings.get("thresholds", {}).get("steps", []):
        if step["value"] is None or (not isinstance(value, str) and value is not None and value >= step["value"]):
            color = step["color"]
    return COLORS[color]


class Picture:
    """An SVG under construction."""

    def __init__(self, title: str):
        self.parts, self.title = [], title

    def box(self, x, y, w, h, color, radius=3):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0):.1f}" height="{h:.1f}" rx="{radius}" fill="{color}"/>'
        )

    def text(self, x, y, words, size=12, color="#ccccdc", anchor="start", width=None):
        words = str(words).replace("\n", " ")
        if width:
            room = max(int(width / (size * 0.56)), 1)
            words = words if len(words) <= room else words[: room - 1] + "…"
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def path(self, points, color):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')

    def svg(self, width, height) -> str:
        size = f'viewBox="0 0 {width} {height}" width="{width}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        return "\n".join(
            [
                head,
                f"<title>{escape(self.title)}</title>",
                f'<rect width="{width}" height="{height}" fill="#111217"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def name(labels: dict, legend: str) -> str:
    """A series' name."""
    if not legend or legend == "__auto":
        return labels.get("name") or ", ".join(f"{key}={value}" for key, value in labels.items() if key != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def by_series(panel: dict, answers: list[list[dict]]) -> dict[str, list[tuple[float, float]]]:
    """Points by series' name."""
    found: dict[str, list] = {}
    for target, rows in zip(panel["targets"], answers, strict=True):
        for row in rows:
            found.setdefault(name(row["labels"], target.get("legendFormat", "")), []).append(
                (row["time"], row["value"])
            )
    return found


def draw_stat(picture, panel, answers, x, y, w, h, settings, view):
    values = [value for row in answers[0] for key, value in row.items() if key != "labels"]
    value = values[-1] if values else "No data"
    color = shade(value, settings)
    filled = panel["options"]["colorMode"] == "background"
    if filled:
        picture.box(x, y, w, h, color)
    words = said(value, settings["unit"])
    size = min(30, w / max(len(words), 1) * 1.6)
    picture.text(x + w / 2, y + h / 2 + 16, words, size, "#111217" if filled else color, "middle")
    picture.text(x + 8, y + 18, panel["title"], 12, "#111217" if filled else "#ccccdc", width=w - 16)


def draw_timeseries(picture, panel, answers, x, y, w, h, settings, view):
    found = by_series(panel, answers)
    left, top, right, bottom = x + 62, y + 32, x + w - 10, y + h - 44
    points = [value for line in found.values() for _, value in line]
    low, high = min([*points, settings.get("min", min(points, default=0))], default=0), max(points, default=1)
    bars = settings["custom"]["drawStyle"] == "bars"
    since, until = view.since.timestamp(), view.until.timestamp()
    shown = [point for line in found.values() for point in line]
    times = [moment for moment, value in shown if value] or [moment for moment, _ in shown]
    since = (
        max(since, min(times) - (until - min(times)) * 0.05) if times else since
    )  # what is shown begins with the data
    stacked: dict[float, float] = {}
    if settings["custom"].get("stacking") and bars:
        for line in found.values():
            for moment, value in line:
                stacked[moment] = stacked.get(moment, 0) + value
        high, stacked = max(stacked.values(), default=1), {}
    high = high if high > low else low + 1

    def place(moment, value):
        return left + (moment - since) / (until - since) * (right - left), bottom - (value - low) / (high - low) * (
            bottom - top
        )

    for part in range(5):
        level = low + (high - low) * part / 4
        picture.box(left, place(since, level)[1], right - left, 0.6, "#2c2f36", 0)
        picture.text(left - 6, place(since, level)[1] + 4, said(level, settings["unit"]), 10, "#8e8e99", "end")
    for part in range(1, 4):
        moment = since + (until - since) * part / 4
        picture.text(
            place(moment, low)[0],
            bottom + 14,
            datetime.fromtimestamp(moment, UTC).strftime("%H:%M"),
            10,
            "#8e8e99",
            "middle",
        )
    place_of_name = left
    for number, (label, line) in enumerate(sorted(found.items())):
        color, shown = CYCLE[number % len(CYCLE)], [point for point in line if point[0] >= since]
        if bars:
            for moment, value in (point for point in shown if point[1]):
                base = stacked.get(moment, 0)
                stacked[moment] = base + value
                (px, py), (_, foot) = place(moment, base + value), place(moment, base)
                picture.box(px - 1.5, py, 3, max(foot - py, 0), color, 0)
        elif len(shown) == 1:
            px, py = place(*shown[0])
            picture.box(px - 3, py - 3, 6, 6, color)
        else:
            picture.path([place(*point) for point in shown], color)
        room = len(label) * 6 + 22
        if place_of_name + room < right:
            picture.box(place_of_name, y + h - 17, 10, 4, color, 0)
            picture.text(place_of_name + 14, y + h - 11, label, 10)
            place_of_name += room


def draw_states(picture, panel, answers, x, y, w, h, settings, view):
    found = by_series(panel, answers)
    left, right = x + 200, x + w - 10
    since, until = min(moment for line in found.values() for moment, _ in line), view.until.timestamp()
    tall = (h - 40) / max(len(found), 1)
    for number, (label, line) in enumerate(sorted(found.items())):
        top = y + 30 + number * tall
        picture.text(left - 6, top + tall * 0.7, label, min(10, tall * 0.9), "#8e8e99", "end")
        changes = [point for point, former in zip(line, [(0, None), *line], strict=False) if point[1] != former[1]]
        for (moment, value), following in zip(changes, [*changes[1:], (until, 0)], strict=True):
            start, end = (left + (each - since) / (until - since) * (right - left) for each in (moment, following[0]))
            picture.box(start, top + 1, end - start + 0.5, max(tall - 2, 1), shade(f"{value:g}", settings), 0)


def draw_bargauge(picture, panel, answers, x, y, w, h, settings, view):
    bars = []
    for row in answers[0]:
        if "labels" in row:
            bars.append((name(row["labels"], panel["targets"][0].get("legendFormat", "")), row["value"]))
        else:
            label, value = list(row.values())[:2]
            bars.append((str(label), float(value)))
    bars, most = bars[:12], max([value for _, value in bars[:12]] + [settings.get("max", 0)], default=0) or 1
    tall = min((h - 36) / max(len(bars), 1), 30)
    for number, (label, value) in enumerate(bars):
        top = y + 32 + number * tall
        picture.text(x + w * 0.42 - 6, top + tall * 0.65, label, 11, "#ccccdc", "end", width=w * 0.4)
        picture.box(x + w * 0.42, top + 2, w * 0.4, tall - 5, "#22252b", 1)
        picture.box(x + w * 0.42, top + 2, w * 0.4 * min(value / most, 1), tall - 5, shade(value, settings), 1)
        picture.text(x + w - 8, top + tall * 0.65, said(value, settings["unit"]), 11, shade(value, settings), "end")


def draw_table(picture, panel, answers, x, y, w, h, settings, view):
    rows = [row["labels"] | {"Value": row["value"]} if "labels" in row else row for row in answers[0]]
    columns = list(rows[0]) if rows else []
    for change in panel["transformations"]:
        order, hidden = change["options"]["indexByName"], change["options"]["excludeByName"]
        columns = sorted((each for each in columns if not hidden.get(each)), key=lambda each: order.get(each, 99))
    overrides = {
        each["matcher"]["options"]: {p["id"]: p.get("value") for p in each["properties"]}
        for each in panel["fieldConfig"]["overrides"]
    }
    shown = [{each: said(row.get(each), overrides.get(each, {}).get("unit", "")) for each in columns} for row in rows]
    sizes = {each: min(max([len(each), *(len(row[each]) for row in shown)]) + 2, 34) for each in columns}
    left = x + 8
    for each in columns:
        wide = (w - 16) * sizes[each] / sum(sizes.values())
        picture.text(left, y + 42, each, 11, "#6e9fff", width=wide - 4)
        override = overrides.get(each, {})
        for number, (row, words) in enumerate(zip(rows, shown, strict=True)):
            top = y + 50 + number * 21
            if top + 20 > y + h:
                break
            color = shade(row.get(each), override)
            if "color-background" in str(override.get("custom.cellOptions")):
                picture.box(left - 3, top, wide - 3, 18, color, 2)
                color = "#111217" if color != COLORS["text"] else "#22252b"
            elif "links" in override:
                color = "#6e9fff"
            picture.text(left, top + 13, words[each], 11, color, width=wide - 4)
        left += wide


def draw_logs(picture, panel, answers, x, y, w, h, settings, view):
    colors = {"error": "red", "critical": "red", "warning": "orange", "info": "green", "notice": "blue"}
    for number, row in enumerate(answers[0][: int((h - 34) / 17)]):
        top = y + 32 + number * 17
        picture.box(x + 8, top, 3, 14, COLORS[colors.get(row["level"], "text")], 0)
        words = f"{row['@timestamp'][:23]}  {row['host']}  {row.get('task') or row['unit']}  {row['message']}"
        picture.text(x + 18, top + 11, words, 11, width=w - 30)


DRAW = {"stat": draw_stat, "timeseries": draw_timeseries, "state-timeline": draw_states, "bargauge": draw_bargauge,
        "table": draw_table, "logs": draw_logs}  # fmt: skip


def draw(dashboard: dict, grafana: Grafana) -> str:
    """The dashboard as SVG."""
    view, picture = grafana.view(dashboard), Picture(dashboard["title"])
    chosen = ", ".join(f"{key}: {value}" for key, value in view.variables.items() if isinstance(value, str))
    picture.text(GAP, 28, dashboard["title"], 20)
    note = f"{chosen}   ·   drawn from the dashboard's queries at {view.until:%Y-%m-%d %H:%M} UTC, not a screenshot"
    picture.text(24 * CELL - GAP, 28, note, 12, "#8e8e99", "end")
    height = 0
    for panel in panels(dashboard):
        place = panel["gridPos"]
        x, y = place["x"] * CELL + GAP / 2, place["y"] * LINE + 44
        w, h = place["w"] * CELL - GAP, place["h"] * LINE - GAP
        picture.box(x, y, w, h, "#181b1f")
        answers = [grafana.rows(target, view) for target in panel["targets"]]
        DRAW[panel["type"]](picture, panel, answers, x, y, w, h, panel["fieldConfig"]["defaults"], view)
        if panel["type"] != "stat":
            picture.text(x + 8, y + 18, panel["title"], 13)
        height = max(height, y + h + GAP)
    return picture.svg(24 * CELL, int(height))


def main() -> None:
    """Draw the dashboards named, or all of them."""
    platform = Deployed()
    services = (
        Service(platform, "prometheus", 9090, "admin", "prometheus_admin_password"),
        Service(platform, "elasticsearch", 9200, "etl-reader", "elasticsearch_reader_password"),
    )
    grafana = Grafana(*services, Reader(platform.environment.warehouse()))
    directory = ROOT / "docs/pictures"
    directory.mkdir(exist_ok=True)
    for path in DASHBOARDS:
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            (directory / f"{path.stem}.svg").write_text(draw(load(path), grafana))


if __name__ == "__main__":
    main()
