"""Follow a pipeline's run to its end and show every change on the way (see the module of the same name)."""

from __future__ import annotations

import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

ENDED = ("success", "failed")
DONE = ("success", "failed", "upstream_failed", "skipped", "removed")
SILENCE = 300  # seconds for which Airflow may not answer while it runs: it may be starting again
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
        first = self._look(arguments, task_vars)
        if first.get("failed") or first["state"] == "none":
            return first
        word = "started" if first["changed"] else "is done:" if first["state"] in ENDED else "follows"
        self._display.display(f"  {arguments['pipeline']} {word} run {first['run_id']}")
        last = first if first["state"] in ENDED else self._follow(first, arguments, task_vars)
        if last.get("state") == "failed":
            for name, log in last["errors"].items():
                rows = [f"\n  {name} failed; the end of its log:", *(f"    {row}" for row in log)]
                self._display.display("\n".join(rows))
            failed = ", ".join(last["errors"]) or "no task"
            return {
                "failed": True,
                "run_id": last["run_id"],
                "msg": f"Run {last['run_id']} failed in {failed}; its log is above.",
            }
        return {**last, "changed": first["changed"]}

    def _follow(self, first, arguments, task_vars):
        """Look at the run until it has ended; returns the last look."""
        began, states, look, told = time.monotonic(), {}, first, []
        silent_since = None
        while True:
            if look["waits_for"] and look["waits_for"] != told:
                told = look["waits_for"]
                self._display.display(f"  it waits for run {', '.join(told)}: a pipeline has one run at a time")
            elapsed = time.monotonic() - began
            done = sum(task["state"] in DONE for task in look["tasks"])
            for task in changes(states, look["tasks"]):
                self._display.display(line(task, elapsed, done, len(look["tasks"])))
            if look["state"] in ENDED:
                return look
            if elapsed > int(arguments.get("timeout", 7200)):
                raise AnsibleActionFail(f"run {first['run_id']} has not ended after {elapsed:.0f} s; Airflow goes on")
            time.sleep(int(arguments.get("interval", 3)))
            answer = self._look({**arguments, "run_id": first["run_id"]}, task_vars)
            if not answer.get("failed"):
                look, silent_since = answer, None
            elif silent_since is None:
                silent_since = time.monotonic()
                self._display.display(f"  Airflow does not answer, which does not end the run: {answer.get('msg')}")
            elif time.monotonic() - silent_since > SILENCE:
                return answer

    def _look(self, arguments, task_vars):
        return self._execute_module(module_name="airflow_dag_run", module_args=arguments, task_vars=task_vars)
