"""What makes each alert fire on a deployed platform, and what takes it back."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.deployed import Deployed


@dataclass(frozen=True)
class Cause:
    """What makes alerts fire: a command as root on the first host of a group, and the one that takes it back."""

    name: str
    group: str
    do: str
    undo: str
    alerts: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


@contextmanager
def caused(platform: Deployed, *causes: Cause) -> Iterator[Callable[[], None]]:
    """Let the causes happen; yields what takes them back, which also happens at the end."""
    happened: list[Cause] = []

    def undo() -> None:
        with ExitStack() as stack:  # every cause is taken back, also when one of them cannot be
            while happened:
                cause = happened.pop(0)
                stack.callback(platform.run, platform.environment.hosts(cause.group)[0], cause.undo)

    try:
        for cause in causes:
            happened.append(cause)
            platform.run(platform.environment.hosts(cause.group)[0], cause.do)
        yield undo
    finally:
        undo()


def sql(cluster: str, statements: str) -> str:
    """A command that runs SQL as the superuser of a cluster (dwh, meta)."""
    port, database = {"dwh": (5432, "dwh"), "meta": (5433, "airflow")}[cluster]
    psql = f"sudo -u postgres psql --quiet --output /dev/null -v ON_ERROR_STOP=1 -p {port} -d {database}"
    return f"printf %s {shlex.quote(statements)} | {psql}"


RULES = "/etc/prometheus/rules"
RELOAD = "systemctl reload prometheus"
DAGS = (
    "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; git clone -q /opt/etl/dags.git $d; cd $d; {}; git add -A; "
    "git -c user.name=drill -c user.email=drill@localhost commit -qm drill; git push -q"
)
# Runs in the ledger that never were: one failed its audits and put half of its rows into quarantine, one has been going
# for a day and published nothing since two days, one lost a row.
PLANT = """
with run as (
  insert into etl.run (run_id, dag_run_id, pipeline, release, attempt, interval_from, interval_to, state, started_at, finished_at)
  select n, n, n, (select release from etl.run order by started_at desc limit 1), 1, '2013-01-01', '2013-02-01', s, t, f
  from (
    values
    ('planted-failed', 'failed', now(), now()),
    ('planted-late', 'running', now() - interval '1 day', null),
    ('planted-lost', 'published', now(), now())
  ) as v (n, s, t, f)
  returning run_id
), source as (
  insert into etl.run_source (run_id, dataset, attempt, source, format, files, row_count, source_rows, manifest)
  select run_id, 'd', 1, 's', 'csv', 1, 100, 100, '{}' from run where run_id <> 'planted-late'
), reject as (
  insert into etl.run_reject (run_id, stage, dataset, rule, row_count) values ('planted-failed', 'clean_data', 'clean_d', 'r', 50)
), audit as (
  insert into etl.audit_result (run_id, dataset, audit, passed, expected, found)
  values ('planted-failed', 'd', 'a', false, '1', '2')
), published as (
  insert into etl.run_published (run_id, dataset, row_count) values ('planted-lost', 'd', 99)
)
insert into etl.publication (run_id, attempt, published_at) values ('planted-late', 1, now() - interval '2 days')
"""
UPROOT = """
delete from etl.publication where run_id = 'planted-late';
delete from etl.run where run_id like 'planted-%'
"""
CONNECTIONS = (
    "systemd-run --quiet --collect --unit drill-connections --uid etl-psql --setenv PGOPTIONS=--statement_timeout=0 sh -c "
    "'for i in $(seq 56); do psql service=dwh_read -c \"select pg_sleep(600)\" & done; wait'"
)
LOGS = "https://$(hostname -f):9200/etl-logs-2000.01.01"
DROP_IN = "/run/systemd/system/elasticsearch-retention.service.d"
CURL = "curl -sSf -o /dev/null --config /etc/elasticsearch/retention.curl"

GATE = (
    Cause(
        "an exporter stops",
        "node_exporter",
        "systemctl stop prometheus-node-exporter",
        "systemctl start prometheus-node-exporter",
        ("TargetDown",),
    ),
    Cause(
        "runs fail, hang and publish nothing",
        "postgresql",
        sql("dwh", PLANT),
        sql("dwh", UPROOT),
        ("RunFailed", "RunLate", "AuditFailed", "QuarantineRateHigh", "PublishedStale", "RowsUnaccounted"),
    ),
    Cause(
        "a cluster refuses its exporter",
        "postgresql",
        sql(
            "meta",
            "alter role etl_metrics nologin; "
            "do $$ begin perform pg_terminate_backend(pid) from pg_stat_activity where usename = 'etl_metrics'; end $$",
        ),
        sql("meta", "alter role etl_metrics login"),
        ("PostgresDown",),
    ),
)
SLOW = (
    Cause(
        "a host is cut off",
        "prometheus",
        "ip route add blackhole $(getent hosts sources1 | cut -d ' ' -f 1)/32",
        "ip route del blackhole $(getent hosts sources1 | cut -d ' ' -f 1)/32",
        ("HostDown",),
    ),
    Cause(
        "a service stops",
        "spark_history",
        "systemctl stop spark-history",
        "systemctl start spark-history",
        ("UnitDown", "PortDown"),
    ),
    Cause(
        "the job of a timer fails",
        "elasticsearch",
        f"mkdir -p {DROP_IN} && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' > {DROP_IN}/drill.conf && "
        "systemctl daemon-reload && ! systemctl start elasticsearch-retention",
        f"rm -r {DROP_IN} && systemctl daemon-reload && systemctl start elasticsearch-retention",
        ("JobFailed",),
    ),
    Cause(
        "a worker stops",
        "spark_worker",
        "systemctl stop spark-worker",
        "systemctl start spark-worker",
        ("SparkWorkerMissing",),
    ),
    Cause(
        "Airflow's triggerer stops",
        "airflow",
        "systemctl stop airflow-triggerer",
        "systemctl start airflow-triggerer",
        ("AirflowHeartbeatLate",),
    ),
    Cause(
        "a DAG file breaks",
        "airflow",
        DAGS.format("echo from airflow.sdk import nowhere_to_be_found as dag > dags/drill.py"),
        DAGS.format("rm dags/drill.py"),
        ("DagsUnreadable",),
    ),
    Cause(
        "an exporter may not read a table",
        "postgresql",
        sql("dwh", "revoke select on etl.run_stage from etl_metrics"),
        sql("dwh", "grant select on etl.run_stage to etl_metrics"),
        ("ExporterQueryFailing",),
    ),
    Cause(
        "readers take every connection",
        "postgresql",
        CONNECTIONS,
        "systemctl stop drill-connections",
        ("PostgresConnectionsExhausted",),
    ),
    Cause(
        "objectives are out of reach",
        "prometheus",
        f"cp -a {RULES}/objectives.yml /var/tmp/ && sed -Ei "
        f"'/(disk|memory)_free/s/vector.*/vector(1)}}/; /certificate/s/vector.*/vector(1e9)}}/; /backup/s/vector.*/vector(0)}}/' "
        f"{RULES}/objectives.yml && {RELOAD}",
        f"mv /var/tmp/objectives.yml {RULES}/ && {RELOAD}",
        ("DiskAlmostFull", "MemoryLow", "CertificateExpiring", "BackupStale", "FileBackupStale"),
    ),
    Cause(
        "the archive of the log is away",
        "pgbackrest",
        "ip route add blackhole $(getent hosts lake1 | cut -d ' ' -f 1)/32; "
        + "; ".join([sql("dwh", "create table public.drill (); drop table public.drill; select pg_switch_wal()")] * 4),
        "ip route del blackhole $(getent hosts lake1 | cut -d ' ' -f 1)/32",
        ("WalWaiting",),
    ),
    Cause(
        "a rule cannot be evaluated",
        "prometheus",
        f"echo '{{groups: [{{name: drill, rules: [{{record: drill, expr: up * on (host) up}}]}}]}}' > {RULES}/drill.yml && {RELOAD}",
        f"rm {RULES}/drill.yml && {RELOAD}",
        ("RuleFailing",),
    ),
    Cause(
        "the log shipper is not measured",
        "nifi",
        "systemctl stop etl-log-metrics.timer",
        "systemctl start etl-log-metrics.timer",
        ("LogShipperUnseen",),
    ),
    Cause(
        "a line is refused",
        "minio",
        r"""systemd-run --quiet --wait --collect printf '{"message": "x", "run_id": "%033000d"}' 0""",
        "truncate --size 0 /var/log/etl-log-rejected.json",
        ("LogsRejected",),
    ),
    Cause(
        "an index of log lines is lost",
        "elasticsearch",
        f"{CURL} -X PUT -H 'Content-Type: application/json' "
        f'-d \'{{"settings": {{"index.routing.allocation.require._name": "nobody"}}}}\' "{LOGS}?wait_for_active_shards=0"',
        f'{CURL} -X DELETE "{LOGS}"',
        ("LogStoreIncomplete",),
    ),
    # Last: what fires meanwhile is told once it is back.
    Cause(
        "Alertmanager is away for a while",
        "alertmanager",
        "systemctl stop prometheus-alertmanager; sleep 40; systemctl start prometheus-alertmanager; sleep 10",
        "true",
        ("AlertsUndelivered",),
    ),
)
# Alerts that are not caused here, and why.
ELSEWHERE = {
    "RollbackProposed": "test_rollback_notifier.py",
    "Watchdog": "fires always",
    "LogsWaiting": "test_outages.py",
    "BackupBroken": "would take the backups that others may need",
    "ObjectStoreDegraded": "the lab's store has one drive: it stops instead",
}


def alerts_of(causes: Iterable[Cause]) -> list[str]:
    return [alert for cause in causes for alert in cause.alerts]
