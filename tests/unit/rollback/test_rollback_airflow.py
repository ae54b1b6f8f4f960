"""What a rollback asks of Airflow."""

from types import SimpleNamespace

import pytest
import requests

from jobs.rollback.airflow import Airflow
from jobs.rollback.journal import RollbackError


@pytest.fixture
def server(monkeypatch):
    """Airflow's API with these runs, of which an answer has at most `most`; it refuses what `refused` says."""
    state = SimpleNamespace(runs=[], most=100, refused=None)

    def request(self, method, url, json, params, timeout):
        path = url.removeprefix("https://airflow")
        if path == state.refused:
            return SimpleNamespace(ok=False, status_code=409, text="no such state")
        if path == "/auth/token":
            return SimpleNamespace(ok=True, json=lambda: {"access_token": "t"})
        assert path == "/api/v2/dags/~/dagRuns"
        assert params.get("state") == ["running", "queued"] or params["start_date_gte"] == "2026-01-01T00:00:00+00:00"
        first = params["offset"]
        page = state.runs[first : first + min(params["limit"], state.most)]
        return SimpleNamespace(ok=True, json=lambda: {"dag_runs": page, "total_entries": len(state.runs)})

    monkeypatch.setattr(requests.Session, "request", request)
    return state


@pytest.mark.parametrize(("count", "most"), [(0, 100), (3, 100), (100, 100), (250, 100), (250, 40)])
def test_every_run_is_seen_however_many_there_are(server, count, most):
    server.runs, server.most = [{"dag_run_id": f"r{number}"} for number in range(count)], most
    airflow = Airflow("https://airflow/", "u", "p")
    assert airflow.running() == airflow.since("2026-01-01T00:00:00+00:00") == server.runs


def test_a_refusal_has_airflows_words(server):
    server.refused = "/api/v2/dags/d"
    with pytest.raises(RollbackError, match="refuses PATCH /api/v2/dags/d: 409 no such state"):
        Airflow("https://airflow", "u", "p").pause("d", True)
