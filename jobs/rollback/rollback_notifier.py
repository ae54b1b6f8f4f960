"""Alertmanager's webhooks become proposals to take data or a release back, within guards; a person approves.

    rollback_notifier.py serve                                the service: POST /alerts, GET /metrics, GET /health, /incidents
    etl-approve list | show ID | approve ID --digest D | reject ID | audit

An alert that a rule matches opens an incident. Action `undo` triggers rollback_dag in Airflow, whose first task plans; the plan is
held against the limits, then waits for approval (or, where the rule says so, goes on by itself). Action `release` only proposes: a
release is taken back from the controller. State is in SQLite and survives a restart; every decision is a line of the audit log, each
with the hash of the line before it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import sqlite3
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
import uvicorn
import yaml
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator

CONFIG = Path("/etc/rollback_notifier/config.yml")
LARGEST_BODY = 1 << 20
OPEN = ("new", "planning", "waiting", "approved", "executing", "proposed")
SPENT = ("approved", "executing", "done")
log = logging.getLogger("rollback_notifier")


class Strict(BaseModel):
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
        return all(re.fullmatch(pattern, labels.get(name, "")) for name, pattern in self.match.items())

    def target(self, labels: dict[str, str]) -> dict[str, Any]:
        """What is to be taken back, with the labels filled in; KeyError names a label that the alert does not have."""
        if self.command is not None:
            return {"command": self.command.format_map(labels)}
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


class Alert(BaseModel):
    """One alert of Alertmanager's webhook, as far as it is used."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    startsAt: str = ""
    fingerprint: str


class Webhook(BaseModel):
    alerts: list[Alert]


class Answer(Strict):
    """A person's answer; `digest` is that of the plan which they saw."""

    by: str = Field(min_length=1)
    digest: str = ""
    reason: str | None = None


class Pipeline(Protocol):
    """rollback_dag in Airflow."""

    def trigger(self, name: str, parameters: dict[str, Any]) -> None:
        """Start a run of that id; one that is there already is left alone."""

    def state(self, name: str) -> dict[str, Any]:
        """{"state": of the run, "plan": when the plan waits for approval, "answer": "Approve" | "Reject" when somebody gave it}."""

    def answer(self, name: str, approve: bool) -> None:
        """Answer the approval; one that is answered already is left alone."""

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

    def answer(self, name: str, approve: bool) -> None:
        body = {"chosen_options": ["Approve" if approve else "Reject"], "params_input": {}}
        self._call("PATCH", f"dagRuns/{name}/taskInstances/approve/-1/hitlDetails", (409,), json=body)

    def link(self, name: str) -> str:
        return f"{self._url}/dags/{self.dag}/runs/{name}"


class AuditLog:
    """An append-only file of JSON lines; each line carries the hash of the one before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._last = _digest(lines[-1]) if lines else ""

    def write(self, event: str, **more: Any) -> None:
        line = json.dumps(
            {"at": datetime.now(UTC).isoformat(), "event": event, **more, "after": self._last}, default=str
        )
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(handle, line.encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        self._last = _digest(line)
        log.info("%s %s", event, " ".join(f"{name}={value}" for name, value in more.items() if name != "plan"))

    @staticmethod
    def check(path: Path) -> list[int]:
        """Numbers of the lines that do not follow from the line before: something was changed or taken out there."""
        wrong, last = [], ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if json.loads(line).get("after") != last:
                wrong.append(number)
            last = _digest(line)
        return wrong


class Refused(RuntimeError):
    """An answer that is not taken, and why."""


class Notifier:
    """The incidents: what opens one, what each step does, what a person's answer does."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings, self._pipeline, self._now = settings, pipeline, now
        self._lock = threading.RLock()
        self.audit = AuditLog(settings.audit_log)
        self._database = sqlite3.connect(settings.database, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute(
            "create table if not exists incident (id integer primary key autoincrement, rule text not null, action text not null,"
            " status text not null, target text not null, labels text not null, fingerprint text not null, starts_at text not null,"
            " seen integer not null default 1, opened_at text not null, changed_at text not null, plan text, note text)"
        )
        self.registry = CollectorRegistry()
        self.alerts = Counter("etl_rollback_alerts", "Alerts received", ["rule", "outcome"], registry=self.registry)
        self.errors = Counter("etl_rollback_errors", "Steps that failed and are tried again", registry=self.registry)
        incidents = Gauge("etl_rollback_incidents", "Incidents by status", ["status"], registry=self.registry)
        for status in (*OPEN, "done", "failed", "refused", "rejected", "expired", "dry_run"):
            incidents.labels(status).set_function(lambda status=status: len(self.incidents(status)))

    def incidents(self, *statuses: str) -> list[dict[str, Any]]:
        """Incidents, newest first; of these statuses when any are given."""
        marks = ", ".join("?" * len(statuses))
        query = f"select * from incident {f'where status in ({marks})' if statuses else ''} order by id desc"
        with self._lock:
            return [self._read(row) for row in self._database.execute(query, statuses)]

    def incident(self, number: int) -> dict[str, Any]:
        """One incident; LookupError when there is none of that number."""
        for found in self.incidents():
            if found["id"] == number:
                return found
        raise LookupError(f"there is no incident {number}")

    def _read(self, row: sqlite3.Row) -> dict[str, Any]:
        found = dict(row) | {name: json.loads(row[name]) for name in ("target", "labels")}
        found["plan"] = row["plan"] and json.loads(row["plan"])
        found["digest"] = _digest(row["plan"] or row["target"])[:12]
        found["link"] = self._pipeline.link(_name(found)) if row["action"] == "undo" else None
        return found

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
                self._database.execute("update incident set seen = seen + 1 where id = ?", (known["id"],))
                return "duplicate"
        since = self._now() - timedelta(minutes=self.settings.cooldown_minutes)
        for known in self.incidents():
            alike = known["target"] == target or (
                known["rule"] == rule.name and known["labels"].get("pipeline") == alert.labels.get("pipeline")
            )
            if known["status"] not in OPEN and alike and datetime.fromisoformat(known["changed_at"]) > since:
                self.audit.write("cooling", rule=rule.name, target=target, after_incident=known["id"])
                return "cooling"
        status, now = "proposed" if rule.action == "release" else "new", self._now().isoformat()
        number = self._database.execute(
            "insert into incident (rule, action, status, target, labels, fingerprint, starts_at, opened_at, changed_at)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                rule.name,
                rule.action,
                status,
                json.dumps(target),
                json.dumps(alert.labels),
                alert.fingerprint,
                alert.startsAt,
                now,
                now,
            ),
        ).lastrowid
        self.audit.write("opened", incident=number, rule=rule.name, target=target, labels=alert.labels)
        return "opened"

    def step(self) -> None:
        """Move every open incident on; one that fails stays where it is until the next step."""
        for incident in reversed(self.incidents(*OPEN)):
            try:
                with self._lock:
                    self._step(self.incident(incident["id"]))
            except (httpx.HTTPError, OSError, sqlite3.Error) as error:
                self.errors.inc()
                log.warning("incident %s: %s: %s", incident["id"], type(error).__name__, error)

    def _step(self, incident: dict[str, Any]) -> None:
        name, status = _name(incident), incident["status"]
        if status == "new":
            self._pipeline.trigger(
                name, incident["target"] | {"reason": f"incident {incident['id']}, {incident['rule']}"}
            )
            self._move(incident, "planning")
        elif status in ("planning", "waiting"):
            self._decide(incident, self._pipeline.state(name))
        elif status == "approved":
            self._pipeline.answer(name, True)
            self._move(incident, "executing")
        elif status == "executing":
            state = self._pipeline.state(name)["state"]
            if state in ("success", "failed"):
                self._move(incident, "done" if state == "success" else "failed", note=incident["link"])
        elif self._old(incident):  # a proposal to take a release back
            self._move(incident, "expired")

    def _decide(self, incident: dict[str, Any], found: dict[str, Any]) -> None:
        """What follows from a plan that waits, or from what somebody answered in Airflow."""
        name = _name(incident)
        if found["state"] == "failed":
            self._move(incident, "failed", note=f"refused or failed: {incident['link']}")
        elif found["state"] == "success" and "answer" not in found:
            self._move(incident, "done", note="nothing to take back")
        elif "answer" in found:
            approved = found["answer"] == "Approve"
            self._move(
                incident, "executing" if approved else "rejected", plan=found["plan"], note="answered in Airflow"
            )
        elif self._old(incident):
            self._pipeline.answer(name, False)
            self._move(incident, "expired")
        elif "plan" in found and incident["status"] == "planning":
            rule = next((rule for rule in self.settings.rules if rule.name == incident["rule"]), None)
            if why := self._beyond(found["plan"], incident):
                self._pipeline.answer(name, False)
                self._move(incident, "refused", plan=found["plan"], note=why)
            elif rule is None or rule.dry_run or self.settings.dry_run:
                self._pipeline.answer(name, False)
                self._move(incident, "dry_run", plan=found["plan"])
            elif rule.approval == "none":
                self._move(incident, "approved", plan=found["plan"], note=f"by rule {rule.name}")
            else:
                self._move(incident, "waiting", plan=found["plan"])

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
            if incident["action"] == "undo":
                self._pipeline.answer(_name(incident), False)
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
        self._database.execute(
            "update incident set status = ?, changed_at = ?, plan = coalesce(?, plan), note = coalesce(?, note) where id = ?",
            (status, self._now().isoformat(), plan and json.dumps(plan, sort_keys=True), note, incident["id"]),
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _name(incident: dict[str, Any]) -> str:
    """Id of the incident's run of rollback_dag: the same whenever it is triggered again."""
    moment = re.sub(r"[^0-9]", "", incident["opened_at"][:19])
    return f"notifier_{incident['id']}_{moment}"


def create_app(notifier: Notifier, secrets: Secrets, every: float | None = 5) -> FastAPI:
    """The HTTP side; moves the incidents on every so many seconds (None: not by itself)."""
    moved = {"at": datetime.now(UTC)}

    async def work() -> None:
        while True:
            await asyncio.to_thread(notifier.step)
            moved["at"] = datetime.now(UTC)
            await asyncio.sleep(every)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        worker = asyncio.create_task(work()) if every else None
        yield
        if worker:
            worker.cancel()

    def bearer(*wanted: str) -> Callable[[Request], None]:
        def check(request: Request) -> None:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not any(hmac.compare_digest(_digest(token), one) for one in wanted):
                raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

        return check

    def metrics_user(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        wanted = b"Basic " + base64.b64encode(f"metrics:{secrets.metrics_password}".encode())
        if not hmac.compare_digest(given, wanted):
            raise HTTPException(401, "the user metrics is needed", {"WWW-Authenticate": "Basic"})

    def small(request: Request) -> None:
        if not 0 <= int(request.headers.get("content-length") or LARGEST_BODY + 1) <= LARGEST_BODY:
            raise HTTPException(413, f"at most {LARGEST_BODY} bytes, and their number in Content-Length")

    alertmanager = Depends(bearer(_digest(secrets.webhook_token)))
    approver = Depends(bearer(secrets.approval_token_sha256))
    app = FastAPI(title="Rollback notifier", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.post("/alerts", dependencies=[alertmanager, Depends(small)])
    def alerts(webhook: Webhook) -> dict[str, list[str]]:
        return {"outcomes": [notifier.receive(alert) for alert in webhook.alerts]}

    @app.get("/incidents", dependencies=[approver])
    def incidents() -> list[dict[str, Any]]:
        return notifier.incidents()

    def answered(number: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return work()
        except LookupError as error:
            raise HTTPException(404, str(error)) from None
        except Refused as error:
            raise HTTPException(409, str(error)) from None
        except httpx.HTTPError as error:
            raise HTTPException(502, f"Airflow: {error}") from None

    @app.get("/incidents/{number}", dependencies=[approver])
    def incident(number: int) -> dict[str, Any]:
        return answered(number, lambda: notifier.incident(number))

    @app.post("/incidents/{number}/{verb}", dependencies=[approver, Depends(small)])
    def answer(number: int, verb: Literal["approve", "reject"], given: Answer) -> dict[str, Any]:
        return answered(number, lambda: getattr(notifier, verb)(number, given))

    @app.get("/metrics", dependencies=[Depends(metrics_user)])
    def metrics() -> Response:
        return Response(generate_latest(notifier.registry), media_type="text/plain; version=0.0.4")

    @app.get("/health")
    def health() -> dict[str, str]:
        if every and datetime.now(UTC) - moved["at"] > timedelta(seconds=60 + 10 * every):
            raise HTTPException(503, f"no incident was moved on since {moved['at'].isoformat()}")
        return {"status": "ok"}

    return app


def read(path: Path, model: type[BaseModel]) -> Any:
    """A YAML file as a model; ValueError names file and field when it is wrong."""
    try:
        return model.model_validate(yaml.safe_load(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def serve(settings: Settings) -> None:
    """Run the service until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    secrets = read(settings.secrets, Secrets)
    airflow = Airflow(settings.airflow_url, settings.airflow_user, secrets.airflow_password, settings.ca)
    app = create_app(Notifier(settings, airflow), secrets)
    tls = {"ssl_certfile": str(settings.certificate), "ssl_keyfile": str(settings.key)}
    uvicorn.run(app, host="0.0.0.0", port=settings.port, access_log=False, server_header=False, log_config=None, **tls)


def ask(settings: Settings, given: argparse.Namespace) -> int:
    """What a person asks the service; prints its answer."""
    if given.verb == "audit" and not settings.audit_log.exists():
        return 0
    if given.verb == "audit":
        wrong = AuditLog.check(settings.audit_log)
        print(settings.audit_log.read_text(), end="")
        if wrong:
            print(f"etl-approve: the log was changed before line {', '.join(map(str, wrong))}", file=sys.stderr)
        return bool(wrong)
    client = httpx.Client(
        base_url=settings.url,
        verify=ssl.create_default_context(cafile=str(settings.ca)),
        headers={"Authorization": f"Bearer {settings.approval_token.read_text().strip()}"},
        timeout=30,
    )
    if given.verb == "list":
        for each in client.get("/incidents").raise_for_status().json():
            print(
                f"{each['id']:>4}  {each['status']:<10} {each['changed_at'][:19]}  {each['rule']}  {_short(each['target'])}"
            )
        return 0
    answer = client.get(f"/incidents/{given.id}")
    if given.verb != "show" and answer.is_success:
        body = {"by": given.by, "digest": given.digest or "", "reason": given.reason}
        if given.verb == "reject":
            body["digest"] = answer.json()["digest"]
        answer = client.post(f"/incidents/{given.id}/{given.verb}", json=body)
    if not answer.is_success:
        print(f"etl-approve: {answer.json().get('detail', answer.text)}", file=sys.stderr)
        return 1
    found = answer.json()
    print(
        f"Incident {found['id']} ({found['rule']}): {found['status']}{' – ' + found['note'] if found['note'] else ''}"
    )
    print(_short(found["target"]), found["link"] or "", "", sep="\n")
    if found["plan"]:
        print(found["plan"]["text"], "", sep="\n")
    if found["status"] == "waiting":
        print(f"To approve this plan: etl-approve approve {found['id']} --digest {found['digest']}")
    return 0


def _short(target: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in target.items() if value)


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("serve", "run the service"),
        ("check", "read the configuration and say what is wrong with it"),
        ("list", "every incident"),
        ("show", "one incident and its plan"),
        ("approve", "let an undo go on"),
        ("reject", "close an incident, nothing is done"),
        ("audit", "print the audit log and check that nothing was changed in it"),
    ):
        command = verbs.add_parser(verb, help=help_text)
        if verb in ("show", "approve", "reject"):
            command.add_argument("id", type=int)
        if verb in ("approve", "reject"):
            command.add_argument("--by", default=os.environ.get("SUDO_USER") or os.environ.get("USER") or "unknown")
            command.add_argument("--reason")
        if verb == "approve":
            command.add_argument("--digest", required=True, help="of the plan, as `show` prints it")
        else:
            command.set_defaults(digest=None)
    given = parser.parse_args(argv)
    try:
        settings = read(given.config, Settings)
        if given.verb == "serve":
            serve(settings)
        return ask(settings, given) if given.verb not in ("serve", "check") else 0
    except (OSError, ValueError, httpx.HTTPError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
