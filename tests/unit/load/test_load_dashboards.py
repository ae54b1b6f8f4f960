"""The dashboards' SQL on the newest schema, as a reader: valid on an empty ledger, and each panel shows something of a run."""

from datetime import date

import pytest
from psycopg.rows import dict_row
from test_load_publish import go
from warehouse_kit import Warehouse, flight, flights

from tests.grafana import DASHBOARDS, Grafana, View, load, panels, variables

VARIABLES = {"pipeline": "flights", "run": "r1"}
ASKED = [
    pytest.param(load(path), panel["targets"], id=f"{path.stem}/{panel['title']}")
    for path in DASHBOARDS
    for panel in panels(load(path))
    if panel["datasource"]["uid"] == "warehouse"
]


class Reader:
    """The warehouse as etl_read, rows as mappings."""

    def __init__(self, connection):
        self.connection = connection
        self.connection.row_factory = dict_row

    def rows(self, query: str) -> list[dict]:
        return self.connection.execute(query).fetchall()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_reader_may_ask_what_panels_ask(server, migrated, path):
    dashboard = load(path)
    view = View.of(dashboard, **VARIABLES)
    asked = [target["rawSql"] for panel in panels(dashboard) for target in panel["targets"] if "rawSql" in target]
    asked += [each["query"] for each in variables(dashboard) if each.get("datasource", {}).get("uid") == "warehouse"]
    with server.connect(migrated, "etl_read") as connection:
        for query in asked:
            connection.execute(view.sql(query))


@pytest.fixture(scope="module")
def grafana(server, migrated):
    """Grafana on a warehouse where a run has published, with a rejected row."""
    warehouse = Warehouse(server, server.database(migrated))
    facts = flights(date(2013, 1, 1), date(2013, 3, 1)) + [flight(1, date(2013, 2, 1), None)]
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), facts)
    yield Grafana(None, None, Reader(warehouse.connect("etl_read")))
    warehouse.close()


@pytest.mark.parametrize(("dashboard", "targets"), ASKED)
def test_a_panel_shows_something_of_a_run(grafana, dashboard, targets):
    view = View.of(dashboard, **VARIABLES)
    for target in targets:
        assert grafana.values(target, view), target["rawSql"]
