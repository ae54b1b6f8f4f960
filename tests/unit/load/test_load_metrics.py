"""The ledger's metrics on a real server: with the exporter's rights alone, named as declared, and what the alerts compare."""

from pathlib import Path

import psycopg
import pytest
import yaml

from tests.causes import PLANT, UPROOT

ROLE = Path(__file__).resolve().parents[3] / "roles/postgres_exporter"
QUERIES = yaml.safe_load((ROLE / "files/dwh.yml").read_text())
READS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["postgres_exporter_databases"]["dwh"]["reads"]


@pytest.fixture(scope="module")
def exporter(server, migrated):
    """A function that runs a query as the exporter does, over a ledger with the runs that tests/causes.py plants."""
    database = server.database(migrated)
    with server.connect(database, "postgres") as conn:
        conn.execute("drop role if exists etl_metrics")
        conn.execute("create role etl_metrics login")
        conn.execute("grant usage on schema etl to etl_metrics")
        conn.execute(f"grant select on {', '.join(f'etl.{name}' for name in READS)} to etl_metrics")
        conn.execute("insert into etl.release (release) values ('r1')")
        conn.execute(
            "insert into etl.run (run_id, dag_run_id, pipeline, release, attempt, interval_from, interval_to, state)"
            " values ('r', 'r', 'p', 'r1', 1, '2013-01-01', '2013-02-01', 'published')"
        )
        conn.execute(PLANT)
    with server.connect(database, "etl_metrics") as conn:
        conn.row_factory = psycopg.rows.dict_row
        yield lambda name: conn.execute(QUERIES[name]["query"])
    with server.connect(database, "postgres") as conn:
        conn.execute(UPROOT)
        assert conn.execute("select count(*) from etl.run").fetchone() == (1,)
        conn.execute("drop owned by etl_metrics")
        conn.execute("drop role etl_metrics")


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_returns_what_it_declares(exporter, name):
    columns = [column.name for column in exporter(name).description]
    assert columns == [column for metric in QUERIES[name]["metrics"] for column in metric]


def test_planted_runs_show_what_alerts_ask_for(exporter):
    runs = {row["pipeline"]: row for row in exporter("etl_run")}
    failed, late, lost = (runs[f"planted-{name}"] for name in ("failed", "late", "lost"))
    assert (failed["failed"], failed["audits_failed"], failed["extracted_rows"], failed["rejected_rows"]) == (
        1,
        1,
        100,
        50,
    )
    assert (late["running"], late["seconds"] > 80000) == (1, True)
    assert {name: row["unbalanced_sources"] for name, row in runs.items()} == {
        "p": 0,
        "planted-failed": 0,
        "planted-late": 0,
        "planted-lost": 1,
    }
    assert lost["failed"] == 0
    ages = {row["pipeline"]: row["age_seconds"] for row in exporter("etl_publication")}
    assert ages["planted-late"] > 170000
