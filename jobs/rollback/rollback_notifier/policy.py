"""What the notifier may do: rules, limits and settings of its configuration file, each checked as it is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that refuses fields it does not know, and stays as it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(Strict):
    """What an alert leads to. `match`: labels and regular expressions that must match them as a whole. `run`, `pipeline`, `from`,
    `to`, `command` may name labels in braces: {run_id}."""

    name: str
    match: dict[str, str] = Field(min_length=1)
    action: Literal["undo", "release"]
    run: str | None = None
    pipeline: str | None = None
    start: str | None = Field(None, alias="from")
    end: str | None = Field(None, alias="to")
    command: str | None = None
    cascade: bool = False
    approval: Literal["human", "none"] = "human"
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_target(self) -> Rule:
        interval = (self.pipeline, self.start, self.end)
        given = [self.run is not None, all(interval), self.command is not None]
        if sum(given) != 1 or (any(interval) and not all(interval)) or (self.action == "release") != given[2]:
            raise ValueError(
                f"rule {self.name}: undo takes `run`, or `pipeline` with `from` and `to`; release takes `command`"
            )
        return self

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether every expression fits its label as a whole; a label that is not there is empty."""
        return all(re.fullmatch(pattern, labels.get(name, "")) for name, pattern in self.match.items())

    def target(self, labels: dict[str, str]) -> dict[str, Any]:
        """What is to be taken back, with the labels filled in; KeyError names a label that the alert does not have."""
        if self.command is not None:
            # a person is told to run it: what an alert says must stay one word of it
            quoted = {name: shlex.quote(value) for name, value in labels.items()}
            return {"command": self.command.format_map(quoted)}
        if self.run is not None:
            return {"runs": [self.run.format_map(labels)], "cascade": self.cascade}
        named = {"pipeline": self.pipeline, "from": self.start, "to": self.end}
        return {name: text.format_map(labels) for name, text in named.items()} | {"cascade": self.cascade}


class Limits(Strict):
    """The blast radius: of one plan, and of all that was approved within `hours`."""

    runs: int = 3
    partitions: int = 12
    rows: int = 5_000_000
    hours: float = 24

    def broken_by(self, plans: list[dict[str, Any]]) -> str | None:
        """The first limit that the plans break together, as a sentence; None when they keep within all."""
        for name, limit in (("runs", self.runs), ("partitions", self.partitions), ("rows", self.rows)):
            total = sum(plan["rows_now"] if name == "rows" else len(plan[name]) for plan in plans)
            if total > limit:
                return f"{total:,} {name} within {self.hours:g} hours; the limit is {limit:,}"
        return None


class Settings(Strict):
    """The service's configuration file."""

    rules: tuple[Rule, ...]
    limits: Limits = Limits()
    cooldown_minutes: float = 60
    approval_hours: float = 12
    dry_run: bool = False
    database: Path
    audit_log: Path
    url: str
    port: int
    certificate: Path
    key: Path
    ca: Path
    airflow_url: str
    airflow_user: str
    secrets: Path
    approval_token: Path


class Secrets(Strict):
    """What the service compares and logs in with; of the approval token it knows only the hash."""

    webhook_token: str
    approval_token_sha256: str
    metrics_password: str
    airflow_password: str


def read(path: Path, model: type[Model]) -> Model:
    """A YAML file as a model; ValueError names file and field when it is wrong."""
    try:
        return model.model_validate(yaml.safe_load(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
