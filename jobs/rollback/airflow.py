"""As much of Airflow's API as a rollback needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jobs.rollback.journal import RollbackError

PAGE = 100  # entries of an answer; Airflow's maximum_page_limit gives no more by default


class Airflow:
    """A session of the environment's Airflow. Raises RollbackError with its answer when it refuses something."""

    def __init__(self, url: str, login: str, password: str):
        import requests

        self.url, self.session = url.rstrip("/"), requests.Session()
        token = self._call("POST", "/auth/token", {"username": login, "password": password})["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"

    def _call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.session.request(method, f"{self.url}{path}", json=body, params=query, timeout=60)
        if not answer.ok:
            raise RollbackError(f"Airflow refuses {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def _all(self, path: str, key: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", path, limit=PAGE, offset=len(found), **query)
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def active_dags(self) -> list[str]:
        """Ids of the DAGs that are not paused."""
        return [dag["dag_id"] for dag in self._all("/api/v2/dags", "dags", paused="false")]

    def dags(self) -> list[str]:
        """Ids of all DAGs of the present bundle version."""
        return [dag["dag_id"] for dag in self._all("/api/v2/dags", "dags")]

    def pause(self, dag_id: str, paused: bool) -> None:
        """Pause a DAG or let it run."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": paused})

    def running(self) -> list[dict[str, Any]]:
        """Runs that are not at their end."""
        return self._all("/api/v2/dags/~/dagRuns", "dag_runs", state=["running", "queued"])

    def since(self, moment: str) -> list[dict[str, Any]]:
        """Runs that began at a moment (ISO) or later."""
        return self._all("/api/v2/dags/~/dagRuns", "dag_runs", start_date_gte=moment)

    def stop(self, run: Mapping[str, Any], note: str) -> None:
        """End a run as failed; its tasks are told to stop."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}"
        self._call("PATCH", path, {"state": "failed", "note": note})


def airflow_of_environment() -> Airflow:
    """The Airflow that the environment names."""
    return Airflow(os.environ["AIRFLOW_URL"], os.environ["AIRFLOW_LOGIN"], os.environ["AIRFLOW_PASSWORD"])
