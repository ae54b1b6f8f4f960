"""The dashboards' SQL is valid on the newest schema, for a reader."""

import pytest

from tests.grafana import DASHBOARDS, View, load, panels, variables

VARIABLES = {"pipeline": "flights", "run": "manual__2013-01-01"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_reader_may_ask_what_panels_ask(server, migrated, path):
    dashboard = load(path)
    view = View.of(dashboard, **VARIABLES)
    asked = [target["rawSql"] for panel in panels(dashboard) for target in panel["targets"] if "rawSql" in target]
    asked += [each["query"] for each in variables(dashboard) if each.get("datasource", {}).get("uid") == "warehouse"]
    with server.connect(migrated, "etl_read") as connection:
        for query in asked:
            connection.execute(view.sql(query))
