"""rollback_dag, as the notifier triggers, watches and answers it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any, Protocol

import httpx


class RollbackDag(Protocol):
    """What the notifier asks of rollback_dag; a test has one without Airflow."""

    def trigger(self, name: str, parameters: dict[str, Any]) -> None:
        """Start a run of that id; one that is there already is left alone."""

    def state(self, name: str) -> dict[str, Any]:
        """{"state": of the run, "plan": when the plan waits for approval, "answer": "Approve" | "Reject" when somebody gave it}."""

    def answer(self, name: str, approve: bool) -> bool:
        """Answer the approval; False when it is answered already, which stays as it is."""

    def link(self, name: str) -> str:
        """Where a person sees it."""


class Airflow:
    """rollback_dag over Airflow's REST API."""

    dag = "rollback_dag"

    def __init__(self, url: str, user: str, password: str, ca: Path) -> None:
        self._url, self._login = url, {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(ca)), timeout=20)

    def _call(self, method: str, path: str, allowed: tuple[int, ...] = (), **more: Any) -> httpx.Response:
        for again in (True, False):
            answer = self._client.request(method, f"/api/v2/dags/{self.dag}/{path}", **more)
            if answer.status_code == 401 and again:
                token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
                continue
            if answer.status_code not in allowed:
                answer.raise_for_status()
            return answer
        raise AssertionError("unreachable")

    def trigger(self, name: str, parameters: dict[str, Any]) -> None:
        body = {"dag_run_id": name, "logical_date": None, "conf": parameters, "note": "Proposed by rollback_notifier"}
        self._call("POST", "dagRuns", (409,), json=body)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"state": self._call("GET", f"dagRuns/{name}").json()["state"]}
        asked = self._call("GET", f"dagRuns/{name}/taskInstances/approve/-1/hitlDetails", (404,))
        if asked.status_code == 200:
            plan = self._call("GET", f"dagRuns/{name}/taskInstances/plan/xcomEntries/return_value").json()["value"]
            found["plan"] = json.loads(plan) if isinstance(plan, str) else plan
            if chosen := asked.json().get("chosen_options"):
                found["answer"] = chosen[0]
        return found

    def answer(self, name: str, approve: bool) -> bool:
        body = {"chosen_options": ["Approve" if approve else "Reject"], "params_input": {}}
        path = f"dagRuns/{name}/taskInstances/approve/-1/hitlDetails"
        return self._call("PATCH", path, (409,), json=body).is_success

    def link(self, name: str) -> str:
        return f"{self._url}/dags/{self.dag}/runs/{name}"
