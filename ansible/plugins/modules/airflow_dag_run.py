#!/usr/bin/python
"""Start a pipeline's run in Airflow, or look how it is doing."""

from __future__ import annotations

import json
import re
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = """
module: airflow_dag_run
short_description: Run a pipeline over an interval and wait for its end
description:
  - Finds the DAG by the tag C(pipeline:<name>) and starts a run over [O(from), O(to)) through Airflow's REST API.
  - Safe to repeat. A run of that interval that is under way is followed, one that succeeded is left as it is (unless
    O(again)), and after one that failed a new one is started.
  - The action plugin of the same name calls this module until the run has ended, and shows each change of a task.
options:
  url: {type: str, required: true, description: Where Airflow is.}
  username: {type: str, required: true, description: Login.}
  password: {type: str, required: true, description: Its password.}
  ca_path: {type: path, required: true, description: Certificate authority of Airflow's certificate.}
  pipeline: {type: str, required: true, description: Name of the declared pipeline.}
  from: {type: str, required: true, description: First moment of the interval.}
  to: {type: str, required: true, description: End of the interval.}
  again: {type: bool, default: false, description: Run also when this interval was run with success.}
  dag: {type: str, description: The DAG to start, where it is not the pipeline's own.}
  conf: {type: dict, default: {}, description: Parameters of the run beside the interval.}
  run_id: {type: str, description: Only look at this run.}
  timeout: {type: int, default: 7200, description: Seconds the action plugin waits.}
  interval: {type: int, default: 3, description: Seconds between two looks of the action plugin.}
"""
RETURN = """
dag_id: {type: str, returned: always, description: The DAG that runs the pipeline.}
run_id: {type: str, returned: always, description: Airflow's run id.}
state: {type: str, returned: always, description: State of the run.}
waits_for: {type: list, returned: always, description: "Runs under way that a queued one waits for."}
tasks: {type: list, returned: always, description: "In the order they began: task_id, state, try_number, seconds."}
errors: {type: dict, returned: always, description: "End of the log of each failed task, once the run has failed."}
"""

LOG_LINES = 12
LIVE = ("queued", "running")


class Airflow:
    """Airflow's REST API v2, as far as a run needs it."""

    def __init__(self, url: str, username: str, password: str, ca_path: str):
        self.url, self.ca_path, self.token = url.rstrip("/"), ca_path, None
        self.token = self.call("POST", "/auth/token", {"username": username, "password": password})["access_token"]

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """One request; RuntimeError with Airflow's own words when it is refused."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            data = None if body is None else json.dumps(body)
            answer = open_url(self.url + path, data, headers, method, ca_path=self.ca_path, timeout=60)
            return json.loads(answer.read())
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:1000]
            raise RuntimeError(f"{method} {self.url}{path}: {error.code} {said}") from error

    def dag_of(self, pipeline: str) -> str:
        """The id of the one DAG that runs a pipeline."""
        query = urlencode({"tags": f"pipeline:{pipeline}"})
        dags = [dag["dag_id"] for dag in self.call("GET", f"/api/v2/dags?{query}")["dags"]]
        if len(dags) != 1:
            raise RuntimeError(f"{len(dags)} DAGs are tagged pipeline:{pipeline}, not one: is the release deployed?")
        return dags[0]

    def runs(self, dag: str, base: str) -> list[dict]:
        """Runs named `base` or `base`.N, oldest first (the newest hundred)."""
        query = urlencode({"run_id_pattern": f"{base}%", "order_by": "-run_after", "limit": 100})
        runs = self.call("GET", f"/api/v2/dags/{dag}/dagRuns?{query}")["dag_runs"]
        named = re.compile(rf"{re.escape(base)}(\.\d+)?")
        return [run for run in reversed(runs) if named.fullmatch(run["dag_run_id"])]

    def start(self, dag: str, run_id: str, conf: dict) -> dict:
        """Start a run outside of the schedule."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        return self.call("POST", f"/api/v2/dags/{dag}/dagRuns", body)

    def run(self, dag: str, run_id: str) -> dict:
        """The run as Airflow sees it now."""
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}")

    def running(self, dag: str) -> list[str]:
        """Ids of the runs of a DAG that are under way, for which a queued one waits."""
        query = urlencode({"state": "running", "limit": 10})
        return [run["dag_run_id"] for run in self.call("GET", f"/api/v2/dags/{dag}/dagRuns?{query}")["dag_runs"]]

    def tasks(self, dag: str, run_id: str) -> list[dict]:
        """The run's tasks, in the order they began; those that have not begun come last."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances?limit=200"
        found = sorted(self.call("GET", path)["task_instances"], key=lambda task: task["start_date"] or "9")
        return [
            {
                "task_id": task["task_id"],
                "state": task["state"],
                "try_number": task["try_number"],
                "seconds": round(task["duration"] or 0, 1),
            }
            for task in found
        ]

    def log_tail(self, dag: str, run_id: str, task: dict) -> list[str]:
        """The last lines of what a task's last attempt wrote, an exception as one line without what caused it."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        lines = []
        for entry in self.call("GET", f"{path}?full_content=true")["content"]:
            entry = {"event": entry} if isinstance(entry, str) else entry
            lines += entry["event"].splitlines()
            for detail in (entry.get("error_detail") or [])[:1]:
                lines += f"{detail.get('exc_type')}: {detail.get('exc_value')}".splitlines()
        return [line for line in lines if line.strip() and not line.startswith("::")][-LOG_LINES:]


def choose(runs: list[dict], base: str, again: bool) -> tuple[str, bool]:
    """(run id, whether to start it) for an interval whose earlier runs are `runs`, oldest first."""
    if not runs:
        return base, True
    newest = runs[-1]
    if newest["state"] in LIVE or (newest["state"] == "success" and not again):
        return newest["dag_run_id"], False
    number = newest["dag_run_id"].removeprefix(base).lstrip(".")
    return f"{base}.{int(number or 1) + 1}", True


def run(module: AnsibleModule) -> dict:
    """Start or look; return the module's result."""
    given = module.params
    airflow = Airflow(given["url"], given["username"], given["password"], given["ca_path"])
    dag, run_id, changed = given["dag"] or airflow.dag_of(given["pipeline"]), given["run_id"], False
    if run_id is None:
        name = f"{given['dag']}_{given['pipeline']}" if given["dag"] else given["pipeline"]
        base = f"{name}_{given['from']}_{given['to']}".replace(" ", "T")
        run_id, changed = choose(airflow.runs(dag, base), base, given["again"])
        if changed and module.check_mode:
            return {
                "changed": True,
                "dag_id": dag,
                "run_id": run_id,
                "state": "none",
                "waits_for": [],
                "tasks": [],
                "errors": {},
            }
        if changed:
            airflow.start(dag, run_id, {**given["conf"], "from": given["from"], "to": given["to"]})
    state, tasks = airflow.run(dag, run_id)["state"], airflow.tasks(dag, run_id)
    failed = [task for task in tasks if state == "failed" and task["state"] == "failed"]
    return {
        "changed": changed,
        "dag_id": dag,
        "run_id": run_id,
        "state": state,
        "waits_for": airflow.running(dag) if state == "queued" else [],
        "tasks": tasks,
        "errors": {task["task_id"]: airflow.log_tail(dag, run_id, task) for task in failed},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca_path": {"type": "path", "required": True},
            "pipeline": {"type": "str", "required": True},
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "again": {"type": "bool", "default": False},
            "dag": {"type": "str"},
            "conf": {"type": "dict", "default": {}},
            "run_id": {"type": "str"},
            "timeout": {"type": "int", "default": 7200},
            "interval": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, RuntimeError, KeyError) as error:
        module.fail_json(msg=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
