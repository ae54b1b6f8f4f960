"""Every panel shows something once a run has published: its queries, put together as Grafana does, return data."""

import time

import pytest

from tests.grafana import DASHBOARDS, Grafana, load, panels, variables

PANELS = [(path.stem, panel["title"]) for path in DASHBOARDS for panel in panels(load(path))]


@pytest.fixture(scope="module")
def grafana(year, prometheus, elasticsearch, warehouse):
    """Grafana on this platform, what each dashboard shows of the year's run, and until when its last numbers may arrive."""
    chosen = {"pipeline": year.ledger["pipeline"], "run": year.ledger["run_id"]}
    names = {path.stem: [each["name"] for each in variables(load(path)) if not each["multi"]] for path in DASHBOARDS}
    shown = {stem: {name: chosen[name] for name in found} for stem, found in names.items()}
    return Grafana(prometheus, elasticsearch, warehouse), shown, time.monotonic() + 90


@pytest.mark.parametrize(("name", "title"), PANELS)
def test_a_panel_shows_something(grafana, name, title):
    asked, shown, deadline = grafana
    dashboard = load(next(path for path in DASHBOARDS if path.stem == name))
    (panel,) = [panel for panel in panels(dashboard) if panel["title"] == title]
    for target in panel["targets"]:
        # What was scraped or shipped since the views were made is to be seen as well.
        while not asked.values(target, asked.view(dashboard, **shown[name])):
            assert time.monotonic() < deadline, f"{name}: {title}: {target['refId']} shows nothing: {target}"
            time.sleep(2)
