"""From an alert to an answer: what opens an incident, what each step does, what a person may decide."""

from __future__ import annotations

import hmac
import logging
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, Field

from .airflow import RollbackDag
from .audit_log import AuditLog
from .incidents import OPEN, SPENT, STATUSES, Incidents
from .policy import Rule, Settings, Strict

UNACCEPTABLE = (400, 422)  # what Airflow answers to parameters that rollback_dag does not have or take

log = logging.getLogger("rollback_notifier")


class Alert(BaseModel):
    """One alert of Alertmanager's webhook, as far as it is used."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    startsAt: str = ""
    fingerprint: str


class Answer(Strict):
    """A person's answer; `digest` is that of the plan which they saw."""

    by: str = Field(min_length=1)
    digest: str = ""
    reason: str | None = None


class Refused(RuntimeError):
    """An answer that is not taken, and why."""


class Notifier:
    """The guards and the steps. Alerts, answers and steps come from different threads and take turns by one lock."""

    def __init__(
        self, settings: Settings, dag: RollbackDag, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings, self._dag, self._now = settings, dag, now
        self._lock = threading.RLock()
        self._incidents = Incidents(settings.database)
        self.audit = AuditLog(settings.audit_log)
        self.registry = CollectorRegistry()
        self.alerts = Counter("etl_rollback_alerts", "Alerts received", ["rule", "outcome"], registry=self.registry)
        self.errors = Counter("etl_rollback_errors", "Steps that failed and are tried again", registry=self.registry)
        incidents = Gauge("etl_rollback_incidents", "Incidents by status", ["status"], registry=self.registry)
        for status in STATUSES:
            incidents.labels(status).set_function(lambda status=status: self._count(status))

    def incidents(self, *statuses: str) -> list[dict[str, Any]]:
        """Incidents with `link`, newest first; of these statuses when any are given."""
        with self._lock:
            return [self._linked(incident) for incident in self._incidents.all(*statuses)]

    def incident(self, number: int) -> dict[str, Any]:
        """One incident; LookupError when there is none of that number."""
        with self._lock:
            return self._linked(self._incidents.get(number))

    def _linked(self, incident: dict[str, Any]) -> dict[str, Any]:
        return incident | {"link": self._dag.link(run_name(incident)) if incident["action"] == "undo" else None}

    def _count(self, status: str) -> int:
        with self._lock:
            return self._incidents.count(status)

    def receive(self, alert: Alert) -> str:
        """Take an alert in; returns what became of it: ignored, resolved, invalid, duplicate, cooling or opened."""
        with self._lock:
            rule = next((rule for rule in self.settings.rules if rule.matches(alert.labels)), None)
            outcome = self._outcome(rule, alert) if rule else "ignored"
            self.alerts.labels(rule.name if rule else "", outcome).inc()
            return outcome

    def _outcome(self, rule: Rule, alert: Alert) -> str:
        if alert.status == "resolved":
            return "resolved"
        try:
            target = rule.target(alert.labels)
        except KeyError as error:
            self.audit.write("invalid", rule=rule.name, labels=alert.labels, why=f"the alert has no label {error}")
            return "invalid"
        for known in self.incidents():
            same = known["fingerprint"] == alert.fingerprint and known["starts_at"] == alert.startsAt
            if same or (known["status"] in OPEN and known["target"] == target):
                self._incidents.seen_again(known["id"])
                return "duplicate"
        since = self._now() - timedelta(minutes=self.settings.cooldown_minutes)
        for known in self.incidents():
            alike = known["target"] == target or (
                known["rule"] == rule.name and known["labels"].get("pipeline") == alert.labels.get("pipeline")
            )
            if known["status"] not in OPEN and alike and datetime.fromisoformat(known["changed_at"]) > since:
                self.audit.write("cooling", rule=rule.name, target=target, after_incident=known["id"])
                return "cooling"
        number = self._incidents.add(
            self._now(),
            target,
            alert.labels,
            rule=rule.name,
            action=rule.action,
            status="proposed" if rule.action == "release" else "new",
            fingerprint=alert.fingerprint,
            starts_at=alert.startsAt,
        )
        self.audit.write("opened", incident=number, rule=rule.name, target=target, labels=alert.labels)
        return "opened"

    def step(self) -> None:
        """Move every open incident on; one that fails stays where it is until the next step."""
        for incident in reversed(self.incidents(*OPEN)):
            try:
                with self._lock:
                    self._step(self.incident(incident["id"]))
            except Exception as error:  # of whatever kind: the others go on, and so does the service
                self.errors.inc()
                log.warning("incident %s: %s: %s", incident["id"], type(error).__name__, error)

    def _step(self, incident: dict[str, Any]) -> None:
        name, status = run_name(incident), incident["status"]
        if status == "new":
            self._propose(name, incident)
        elif status in ("planning", "waiting"):
            self._decide(incident, self._dag.state(name))
        elif status == "approved":
            if self._dag.answer(name, True):
                self._move(incident, "executing")
            else:
                self._decide(incident, self._dag.state(name))
        elif status == "executing":
            state = self._dag.state(name)["state"]
            if state in ("success", "failed"):
                self._move(incident, "done" if state == "success" else "failed", note=incident["link"])
        elif self._old(incident):  # a proposal to take a release back
            self._move(incident, "expired")

    def _propose(self, name: str, incident: dict[str, Any]) -> None:
        if self._old(incident):
            self._move(incident, "expired")
            return
        try:
            self._dag.trigger(name, incident["target"] | {"reason": f"incident {incident['id']}, {incident['rule']}"})
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in UNACCEPTABLE:
                raise
            self._move(incident, "failed", note=f"Airflow does not take it: {error.response.text[:500]}")
        else:
            self._move(incident, "planning")

    def _decide(self, incident: dict[str, Any], found: dict[str, Any]) -> None:
        """What follows from a plan that waits, or from what somebody answered in Airflow."""
        if found["state"] == "failed":
            self._move(incident, "failed", note=f"refused or failed: {incident['link']}")
        elif found["state"] == "success" and "answer" not in found:
            self._move(incident, "done", note="nothing to take back")
        elif "answer" in found:
            approved = found["answer"] == "Approve"
            note = None if approved and incident["status"] == "approved" else "answered in Airflow"
            self._move(incident, "executing" if approved else "rejected", plan=found["plan"], note=note)
        elif "plan" not in found:
            return
        elif self._old(incident):
            self._close(incident, "expired")
        elif incident["status"] == "planning":
            rule = next((rule for rule in self.settings.rules if rule.name == incident["rule"]), None)
            if why := self._beyond(found["plan"], incident):
                self._close(incident, "refused", plan=found["plan"], note=why)
            elif rule is None or rule.dry_run or self.settings.dry_run:
                self._close(incident, "dry_run", plan=found["plan"])
            elif rule.approval == "none":
                self._move(incident, "approved", plan=found["plan"], note=f"by rule {rule.name}")
            else:
                self._move(incident, "waiting", plan=found["plan"])

    def _close(self, incident: dict[str, Any], status: str, **more: Any) -> None:
        """Reject the plan in Airflow; what somebody answered there meanwhile is taken up with the next step."""
        if self._dag.answer(run_name(incident), False):
            self._move(incident, status, **more)

    def approve(self, number: int, answer: Answer) -> dict[str, Any]:
        """Let an undo go on. Refused unless it waits, the plan is the one that was seen, and it is within the limits still."""
        with self._lock:
            incident = self.incident(number)
            if incident["status"] != "waiting":
                raise Refused(f"incident {number} is {incident['status']}: nothing to approve")
            if not hmac.compare_digest(answer.digest, incident["digest"]):
                raise Refused(f"this is not the plan of incident {number}: look at it again (show {number})")
            if why := self._beyond(incident["plan"], incident):
                raise Refused(f"beyond the limits: {why}")
            self._move(incident, "approved", by=answer.by, reason=answer.reason)
            return self.incident(number)

    def reject(self, number: int, answer: Answer) -> dict[str, Any]:
        """Close an incident without doing anything."""
        with self._lock:
            incident = self.incident(number)
            if incident["status"] not in ("waiting", "proposed"):
                raise Refused(f"incident {number} is {incident['status']}: nothing to reject")
            if incident["action"] == "undo" and not self._dag.answer(run_name(incident), False):
                raise Refused(f"incident {number} was answered in Airflow: {incident['link']}")
            self._move(incident, "rejected", by=answer.by, reason=answer.reason)
            return self.incident(number)

    def _beyond(self, plan: dict[str, Any], incident: dict[str, Any]) -> str | None:
        since = self._now() - timedelta(hours=self.settings.limits.hours)
        spent = [
            other["plan"]
            for other in self.incidents(*SPENT)
            if other["plan"] and other["id"] != incident["id"] and datetime.fromisoformat(other["changed_at"]) > since
        ]
        return self.settings.limits.broken_by([*spent, plan])

    def _old(self, incident: dict[str, Any]) -> bool:
        return self._now() - datetime.fromisoformat(incident["opened_at"]) > timedelta(
            hours=self.settings.approval_hours
        )

    def _move(
        self,
        incident: dict[str, Any],
        status: str,
        *,
        plan: dict[str, Any] | None = None,
        note: str | None = None,
        **more: Any,
    ) -> None:
        # First the log: what happened is told even when the state is not kept, and then told again.
        self.audit.write(
            status, incident=incident["id"], rule=incident["rule"], **({"note": note} if note else {}), **more
        )
        self._incidents.move(incident["id"], self._now(), status, plan, note)


def run_name(incident: dict[str, Any]) -> str:
    """Id of the incident's run of rollback_dag: the same whenever it is triggered again."""
    moment = re.sub(r"[^0-9]", "", incident["opened_at"][:19])
    return f"notifier_{incident['id']}_{moment}"
