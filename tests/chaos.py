"""What is killed in the middle of a run, at which of its steps, and the reader who looks on."""

import json
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import requests

from tests.deployed import Deployed, Service

DAG = "etl_pipeline"
SCHEDULER, WORKER = "airflow-scheduler.service", "spark-worker.service"
SHIM = Path(__file__).with_name("chaos_statements.py")
PLAN = "/var/lib/airflow/chaos.json"


def unit(name: str) -> str:
    """A command that kills every process of a unit."""
    return f"systemctl kill --signal KILL {name}"


def process(of_unit: str, pattern: str) -> str:
    """A command that kills the processes of a unit whose command line has a pattern; it fails when there is none."""
    return (
        f"n=; for p in $(cat /sys/fs/cgroup$(systemctl show -P ControlGroup {of_unit})/cgroup.procs); do "
        f"if tr '\\0' ' ' 2>&- < /proc/$p/cmdline | grep -q -e '{pattern}'; then kill -KILL $p; n=1; fi; done; [ $n ]"
    )


@dataclass(frozen=True)
class Fault:
    """What dies. Its steps are the tasks of a run that it takes part in, in the order in which they begin, or statements.

    `kill` runs as root on the first host of `group`, {task} is the id of the step's task instance. A fault with `statements` has no
    command: the task dies before its first, second ... statement from the one that matches {"from"}, of those that match {"count"}.
    """

    name: str
    group: str
    kill: str = ""
    tasks: str = ""  # tasks begin with it
    statements: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


_FAULTS = (
    Fault("NiFi", "nifi", unit("nifi.service"), "extract."),
    Fault("Spark executor", "spark_worker", process(WORKER, "CoarseGrainedExecutorBackend"), "transform."),
    Fault("Spark driver", "airflow", process(SCHEDULER, "org.apache.spark.deploy.SparkSubmit"), "transform."),
    Fault("Airflow scheduler", "airflow", unit(SCHEDULER)),
    Fault("Airflow task", "airflow", process(SCHEDULER, "airflow worker -- {task}")),
    Fault("loader in COPY", "airflow", statements={"from": "^copy ", "count": "^write$"}),
    Fault("loader in the transaction", "airflow", statements={"from": "^insert into etl.publication ", "count": ""}),
    Fault("PostgreSQL", "postgresql", unit("'postgresql@*.service'")),
    Fault("MinIO", "minio", unit("minio.service")),
)
FAULTS = {fault.name: fault for fault in _FAULTS}


class Airflow(Service):
    """Airflow's REST API as far as a run needs it; what is asked while it is down is asked again."""

    def __init__(self, platform: Deployed):
        super().__init__(platform, "airflow", 8080, "admin", "airflow_admin_password")
        name, password = self.session.auth
        self.session.auth = None
        token = self.post("/auth/token", {"username": name, "password": password})["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"

    def start(self, run_id: str, start: str, end: str) -> None:
        conf = {"from": start, "to": end}
        self.post(f"/api/v2/dags/{DAG}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})

    def look(self, run_id: str) -> tuple[str, list[dict]]:
        """The run's state and the tasks of it that have begun, in that order."""
        path = f"/api/v2/dags/{DAG}/dagRuns/{run_id}"
        for _ in range(120):
            try:
                state = self.get(path)["state"]
                tasks = self.get(f"{path}/taskInstances", limit=200)["task_instances"]
                return state, sorted((t for t in tasks if t["start_date"]), key=lambda task: task["start_date"])
            except requests.RequestException:
                time.sleep(1)
        raise AssertionError("Airflow has not answered for two minutes")


@dataclass
class Seen:
    """What a reader saw: the runs that the interval's month came from, in order, days that were a mix, polls."""

    runs: list[str] = field(default_factory=list)
    mixes: list[tuple] = field(default_factory=list)
    polls: int = 0
    refused: int = 0


# One snapshot: the locks come first, so that nothing is swapped between the snapshot and the first look at a table.
TABLES = "lock table dwh.fact_flight, dwh.agg_delay_day in access share mode"
# Days whose facts and aggregates are not of the same runs, or do not add up.
MIX = """
select coalesce(f.flight_date, a.flight_date), coalesce(f.run_id, a.run_id), f.flights, a.flights
from (select flight_date, run_id, count(*) as flights from dwh.fact_flight group by 1, 2) as f
full join (select flight_date, run_id, sum(flights) as flights from dwh.agg_delay_day group by 1, 2) as a using (flight_date, run_id)
where f.flights is distinct from a.flights
"""
SOURCE = """
select (select run_id from etl.v_published where partition_name = %(partition)s), array_agg(distinct run_id)
from dwh.fact_flight where flight_date >= %(start)s and flight_date < %(end)s
"""


def poll(connection: psycopg.Connection, month: dict[str, str], seen: Seen) -> None:
    """Look once at everything that is published, in one snapshot."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with connection.transaction():
        connection.execute(TABLES)
        mixes = connection.execute(MIX).fetchall()
        published, runs = connection.execute(SOURCE, month).fetchone()
    seen.polls += 1
    seen.mixes += mixes
    if (runs or [None]) != [published]:
        seen.mixes.append((month["partition"], published, runs))
    if seen.runs[-1:] != [published]:
        seen.runs.append(published)


@contextmanager
def reader(parameters: dict[str, str], month: dict[str, str]) -> Iterator[Seen]:
    """Polls the published tables for as long as the block lasts; a server that is down is asked again."""
    seen, done, errors = Seen(), threading.Event(), []

    def read() -> None:
        connection = None
        while not done.wait(0.2):
            try:
                connection = connection or psycopg.connect(**parameters, connect_timeout=5)
                poll(connection, month, seen)
            except psycopg.OperationalError:
                seen.refused += 1
                connection = None
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        if errors:
            raise errors[0]


@contextmanager
def statements_die(platform: Deployed) -> Iterator[None]:
    """The scheduler starts tasks that follow PLAN (see the shim) for as long as the block lasts."""
    host, directory, drop_in = (
        platform.environment.hosts("airflow")[0],
        "/run/etl-chaos",
        f"/run/systemd/system/{SCHEDULER}.d",
    )
    restart = f"systemctl daemon-reload && systemctl restart {SCHEDULER}"
    setting = f"[Service]\\nEnvironment=PYTHONPATH={directory} ETL_CHAOS={PLAN}\\n"
    platform.run(
        host,
        f"mkdir -p {directory} {drop_in} && cat > {directory}/sitecustomize.py <<'SHIM'\n{SHIM.read_text()}SHIM\n"
        f"chmod 755 {directory} && chmod 644 {directory}/* && printf '{setting}' > {drop_in}/chaos.conf && {restart}",
    )
    try:
        yield
    finally:
        platform.run(host, f"rm -rf {directory} {drop_in}/chaos.conf {PLAN}* && {restart}")


def plan(platform: Deployed, fault: Fault, step: int) -> None:
    """Let the next task that comes to the statements of a fault die at a step of them; the one after it lives."""
    content = json.dumps(fault.statements | {"step": step})
    platform.run(
        platform.environment.hosts("airflow")[0],
        f"rm -f {PLAN}.done && printf %s {shlex.quote(content)} > {PLAN} && chown airflow: {PLAN}",
    )


def died(platform: Deployed) -> bool:
    """Whether a task has died by the plan."""
    host = platform.environment.hosts("airflow")[0]
    return platform.run(host, f"test ! -e {PLAN}.done || echo died").strip() == "died"
