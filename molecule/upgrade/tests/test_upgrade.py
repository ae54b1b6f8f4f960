"""After the way there and back: the release before serves, the upgrade is marked bad, and every service runs."""

import json

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.deployed import Deployed


@pytest.fixture(scope="module")
def platform() -> Deployed:
    return Deployed()


@pytest.fixture(scope="module")
def rollback(platform) -> dict:
    """The ledger's row of the last rollback."""
    with psycopg.connect(**platform.environment.warehouse(), row_factory=dict_row) as connection:
        return connection.execute("select * from etl.rollback order by started_at desc limit 1").fetchone()


def test_it_came_to_its_end(rollback):
    assert rollback["state"] == "done" and {"code", "schema", "verify", "mark"} <= set(rollback["steps"])


def test_the_release_before_serves(platform, rollback):
    host = platform.environment.hosts("etl_release")[0]
    assert platform.run(host, "readlink /opt/etl/releases/current").strip() == rollback["to_release"]
    bundle = json.loads(platform.run(host, "git --git-dir /opt/etl/dags.git show main:RELEASE"))
    assert bundle["id"] == rollback["to_release"]


def test_the_upgrade_is_marked(platform, rollback):
    with psycopg.connect(**platform.environment.warehouse()) as connection:
        states = dict(connection.execute("select release, state from etl.release").fetchall())
    assert states[rollback["from_release"]] == "bad" and states[rollback["to_release"]] == "good"


def test_no_unit_failed(platform):
    for host in platform.hosts:
        assert platform.run(host, "systemctl --failed --plain --no-legend").strip() == "", host
