"""Follow a pipeline's run to its end and show every change on the way (see the module of the same name)."""

from __future__ import annotations

import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

ENDED = ("success", "failed")
DONE = ("success", "failed", "upstream_failed", "skipped", "removed")


SHOWN = ("running", "up_for_retry", *DONE)


def changes(before: dict[str, str], tasks: list[dict]) -> list[dict]:
    """The tasks in a state worth a line, other than in `before` ({task_id: state}), which is brought up to date."""
    news = [task for task in tasks if task["state"] in SHOWN and before.get(task["task_id"]) != task["state"]]
    before.update((task["task_id"], task["state"]) for task in tasks)
    return news


def line(task: dict, seconds: float, done: int, total: int) -> str:
    """One line of progress: time since the beginning, how many tasks are done, which one changed to what."""
    clock = f"{seconds // 60:3.0f}:{int(seconds) % 60:02}"
    took = f"{task['seconds']:6.0f} s" if task["state"] in DONE and task["seconds"] else ""
    attempt = f"  (attempt {task['try_number']})" if task["try_number"] > 1 else ""
    return f"  {clock}  {done:2}/{total}  {task['task_id']:28} {task['state']:12}{took}{attempt}".rstrip()


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        began, states = time.monotonic(), {}
        first = result = self._look(arguments, task_vars)
        if not result.get("failed") and result["state"] != "none":
            word = "started" if result["changed"] else "follows" if result["state"] not in ENDED else "is done:"
            self._display.display(f"  {arguments['pipeline']} {word} run {result['run_id']}")
        while not result.get("failed") and result["state"] != "none":
            elapsed = time.monotonic() - began
            done = sum(task["state"] in DONE for task in result["tasks"])
            for task in changes(states, result["tasks"]):
                self._display.display(line(task, elapsed, done, len(result["tasks"])))
            if result["state"] in ENDED:
                break
            if elapsed > int(arguments.get("timeout", 7200)):
                raise AnsibleActionFail(
                    f"run {result['run_id']} has not ended after {elapsed:.0f} s; it goes on in Airflow"
                )
            time.sleep(int(arguments.get("interval", 3)))
            result = self._look({**arguments, "run_id": first["run_id"]}, task_vars)
        result["changed"] = first.get("changed", False)
        if result.get("state") == "failed":
            for name, log in result["errors"].items():
                self._display.display(
                    "\n".join([f"\n  {name} failed; the end of its log:", *(f"    {row}" for row in log)])
                )
            failed = ", ".join(result["errors"]) or "no task"
            return {"failed": True, "msg": f"Run {result['run_id']} failed in {failed}; its log is above."}
        return result

    def _look(self, arguments, task_vars):
        return self._execute_module(module_name="airflow_dag_run", module_args=arguments, task_vars=task_vars)
