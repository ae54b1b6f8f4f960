"""The journal of a rollback: its plan as it was when it started and the steps that are done, on the release host."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.rollback.manifests import now

STEPS = ("hold", "evidence", "data", "schema", "code", "verify", "mark", "resume")


class RollbackError(RuntimeError):
    """A step that cannot be done; the message says why and what to do."""


class Journal:
    """One rollback's file on the release host, replaced as a whole at every change."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content

    @classmethod
    def start(
        cls, directory: Path, plan: Mapping[str, Any], reason: str, carried: Mapping[str, Any] | None = None
    ) -> Journal:
        """A new journal; its id tells when it began and where it leads."""
        started = now()
        name = f"{started[:19].replace('-', '').replace(':', '')}Z-{plan['to']}"
        content = {"id": name, "started_at": started, "finished_at": None, "reason": reason, "plan": dict(plan)}
        journal = cls(directory / f"{name}.json", content | {"done": {}, "notes": dict(carried or {})})
        journal.save()
        return journal

    @classmethod
    def open(cls, directory: Path) -> Journal | None:
        """The rollback that has not come to its end, None when there is none."""
        for path in sorted(directory.glob("*.json")):
            content = json.loads(path.read_text())
            if content["finished_at"] is None:
                return cls(path, content)
        return None

    def save(self) -> None:
        """Write it whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = self.path.with_suffix(".partial")
        with open(partial, "w") as file:
            json.dump(self.content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def done(self, step: str, **notes: Any) -> None:
        """Note that a step is done."""
        self.content["done"].setdefault(step, now())
        self.content["notes"].update(notes)
        if step == STEPS[-1]:
            self.content["finished_at"] = now()
        self.save()

    def left(self) -> list[str]:
        """The steps that are still to do."""
        return [step for step in STEPS if step not in self.content["done"]]
