"""Show text to the person who runs the playbook, without the quoting of debug."""

from __future__ import annotations

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._display.display("\n" + self._task.args["text"].rstrip() + "\n")
        return {"changed": False}
