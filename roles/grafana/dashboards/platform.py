"""Platform: is everything up, is anything about to run out, what did services complain about."""

from roles.grafana.dashboards.panels import (
    GOOD_IS_ONE,
    GOOD_IS_ZERO,
    PROMETHEUS,
    RUNBOOK_LINK,
    board,
    choice,
    colored,
    curve,
    graded,
    lines,
    listed,
    log_counts,
    log_lines,
    metric,
    number,
    ranking,
    rows,
    states,
    unit,
)

HOST = 'host=~"$host"'
LEVELS = ("critical", "error", "warning", "notice", "info", "debug")
FREE = [(None, "red"), (0.1, "orange"), (0.2, "green")]


def build():
    """The dashboard."""
    made = board("etl-platform", "Platform", "Hosts, services, certificates, disks and what services complained about.")
    made = made.with_variable(choice("host", "Host", PROMETHEUS, "label_values(up, host)", several=True))
    made = made.with_variable(listed("level", "Log level", LEVELS))

    for panel in (
        number(
            "Firing alerts",
            "Alerts that fire now, Watchdog aside. A healthy platform has none.",
            metric('count(ALERTS{alertstate="firing", alertname!="Watchdog"}) or vector(0)', now=True),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Alerting works",
            "1 while Watchdog fires and Prometheus reaches an Alertmanager; 0 means that nobody would be told.",
            metric(
                '(count(ALERTS{alertname="Watchdog", alertstate="firing"}) and on() prometheus_notifications_alertmanagers_discovered > 0) or vector(0)',
                now=True,
            ),
            steps=GOOD_IS_ONE,
        ),
        number(
            "Targets down",
            "Things that give Prometheus no metrics, and ports that do not answer a probe.",
            metric("(count(up == 0) or vector(0)) + (count(probe_success == 0) or vector(0))", now=True),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Units down",
            "Services that a role declares and that do not run.",
            metric(
                f'count(node_systemd_unit_state{{state="active", type!="oneshot", {HOST}}} == 0) or vector(0)', now=True
            ),
            steps=GOOD_IS_ZERO,
        ),
        number(
            "Least free disk",
            "The fullest file system of all hosts.",
            metric(f"min(node_filesystem_avail_bytes{{{HOST}}} / node_filesystem_size_bytes)", now=True),
            unit="percentunit",
            steps=FREE,
        ),
        number(
            "Next certificate expires in",
            "The least that is left of any certificate that a probed port shows.",
            metric("min(probe_ssl_earliest_cert_expiry) - time()", now=True),
            unit="s",
            steps=[(None, "red"), (1814400, "green")],
        ),
        rows(
            "Alerts",
            "What fires or is about to. The name leads to the runbook.",
            metric('ALERTS{alertname!=""}', rows=True),
            {
                "alertname": RUNBOOK_LINK,
                "alertstate": colored({"firing": "red", "pending": "orange"}),
                "severity": colored({"critical": "red", "warning": "orange", "none": "text"}),
            },
            width=16,
            hidden=["Value", "instance", "job", "environment"],
            order=["alertname", "alertstate", "severity", "host", "owner"],
        ),
        ranking(
            "Logs waiting for Elasticsearch",
            "Lines that a host keeps on its disk because Elasticsearch has not taken them yet.",
            metric(f"etl_log_waiting_lines{{{HOST}}}", "{{host}}", now=True),
            steps=[(None, "green"), (100, "orange"), (10000, "red")],
        ),
        states(
            "Services",
            "Whether the declared units ran, on every chosen host that has them.",
            metric(
                f'min by (name) (node_systemd_unit_state{{state="active", type!="oneshot", {HOST}}})',
                "{{name}}",
            ),
            texts={"1": ("runs", "green"), "0": ("down", "red")},
            width=8,
            height=16,
        ),
        states(
            "Jobs",
            "Whether what timers start (backups, snapshots, measurements) ended well the last time, on every chosen host.",
            metric(
                f'max by (name) (node_systemd_unit_state{{state="failed", type="oneshot", {HOST}}})',
                "{{name}}",
            ),
            texts={"0": ("well", "green"), "1": ("failed", "red")},
            width=8,
            height=16,
        ),
        states(
            "Ports",
            "Whether exported ports answered with a valid certificate (or, without TLS, at all).",
            metric(f"min by (host, role, port) (probe_success{{{HOST}}})", "{{host}} {{role}} {{port}}"),
            texts={"1": ("serves", "green"), "0": ("down", "red")},
            width=8,
            height=16,
        ),
        curve(
            "Processor",
            "Share of all cores at work.",
            metric(
                f'1 - avg by (host) (rate(node_cpu_seconds_total{{mode="idle", {HOST}}}[$__rate_interval]))', "{{host}}"
            ),
            unit="percentunit",
        ),
        curve(
            "Memory available",
            "What processes could still get. Hosts of a lab share the machine's.",
            metric(f"node_memory_MemAvailable_bytes{{{HOST}}}", "{{host}}"),
            unit="bytes",
        ),
        curve(
            "Disk free",
            "Share of each host's fullest file system that is free; an alert fires below the objective.",
            metric(f"min by (host) (node_filesystem_avail_bytes{{{HOST}}} / node_filesystem_size_bytes)", "{{host}}"),
            metric("slo:disk_free_ratio", "objective"),
            unit="percentunit",
        ),
        curve(
            "Network",
            "Bytes received (above) and sent (below) a second.",
            metric(
                f'sum by (host) (rate(node_network_receive_bytes_total{{device!="lo", {HOST}}}[$__rate_interval]))',
                "{{host}} in",
            ),
            metric(
                f'-sum by (host) (rate(node_network_transmit_bytes_total{{device!="lo", {HOST}}}[$__rate_interval]))',
                "{{host}} out",
            ),
            unit="Bps",
            least=None,
        ),
        curve(
            "Object store",
            "Requests a second by API, all users.",
            metric("sum by (api) (rate(minio_s3_requests_total[$__rate_interval]))", "{{api}}"),
            unit="reqps",
        ),
        curve(
            "Airflow heartbeats",
            "Seconds since each of Airflow's services gave a sign of life; an alert fires above 60.",
            metric("airflow_heartbeat_age_seconds", "{{job_type}}"),
            unit="s",
            steps=[(None, "green"), (60, "red")],
        ),
        curve(
            "NiFi",
            "Flow files that wait in queues, and threads at work.",
            metric('sum(nifi_amount_items_queued{component_type="RootProcessGroup"})', "queued"),
            metric('sum(nifi_amount_threads_active{component_type="RootProcessGroup"})', "threads"),
        ),
        curve(
            "Spark",
            "Cores at work and free, and applications that wait for some.",
            metric("sum(metrics_worker_coresUsed_Value)", "cores used"),
            metric("sum(metrics_worker_coresFree_Value)", "cores free"),
            metric("sum(metrics_master_waitingApps_Value)", "applications waiting"),
        ),
        curve(
            "Airflow tasks",
            "Task instances that are not done, by state.",
            metric(
                'sum by (state) (airflow_tasks_total) or label_replace(vector(0), "state", "none", "", "")', "{{state}}"
            ),
            stacked=True,
        ),
        rows(
            "Certificates",
            "What is left of each certificate that a probed port shows.",
            metric(f"sort(min by (host, role, port) (probe_ssl_earliest_cert_expiry{{{HOST}}}) - time())", rows=True),
            {"Value": graded([(None, "red"), (1814400, "green")], "s")},
            width=8,
            order=["host", "role", "port", "Value"],
        ),
        rows(
            "File systems",
            "Bytes free.",
            metric(f"sort(min by (host, mountpoint, device) (node_filesystem_avail_bytes{{{HOST}}}))", rows=True),
            {"Value": unit("bytes")},
            width=8,
            order=["host", "mountpoint", "device", "Value"],
        ),
        rows(
            "Backups",
            "Age of the newest backup of each cluster (stanza), and of the files of each service.",
            metric(
                f"sort_desc(time() - (max by (host, stanza) (pgbackrest_last_backup_timestamp_seconds{{{HOST}}})"
                f" or max by (host, service) (etl_file_backup_last_success_timestamp_seconds{{{HOST}}})))",
                rows=True,
            ),
            {"Value": unit("s")},
            width=8,
            order=["host", "stanza", "service", "Value"],
        ),
        curve(
            "Log lines by level",
            "How much services said.",
            log_counts("host:$host", "level"),
            bars=True,
            stacked=True,
        ),
        curve(
            "Log lines by service",
            "Who said it; the ten that said most.",
            log_counts("host:$host", "unit"),
            bars=True,
            stacked=True,
        ),
        curve(
            "Warnings and errors",
            "Lines with which the chosen hosts complained.",
            log_counts("host:$host AND level:(warning OR error OR critical)"),
            bars=True,
            width=8,
        ),
        lines(
            "Log lines",
            "What the services of the chosen hosts said at the chosen levels, the newest first.",
            log_lines("host:$host AND level:$level"),
        ),
    ):
        made = made.with_panel(panel)
    return made
