"""Every role's templates render with the defaults and the lab's inventory, without hosts, and what they make parses."""

import configparser
import json
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from environment import Environment

ROOT = Path(__file__).resolve().parents[2]
# Names with an underscore are parts that others include.
TEMPLATES = sorted(str(path.relative_to(ROOT / "roles")) for path in ROOT.glob("roles/*/templates/**/[!_]*.j2"))

FACTS = {
    "architecture": "x86_64",
    "date_time": {"iso8601": "2026-01-01T00:00:00Z"},
    "default_ipv4": {"address": "192.0.2.10"},
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_release": "trixie",
    "fqdn": "host.etl.internal",
    "hostname": "host",
    "memtotal_mb": 24000,
    "nodename": "srv-0815",
    "os_family": "Debian",
    "processor_nproc": 2,
    "processor_vcpus": 2,
    "python": {"version": {"major": 3, "minor": 13}},
    "service_mgr": "systemd",
}

# Templates that their task renders in a loop: the loop variable and what is looped over.
LOOPS = {
    "airflow/templates/airflow.service.j2": ("__airflow_service", "__airflow_services"),
    "cloud_lab/templates/uwsgi.ini.j2": ("item", "__cloud_lab_uwsgi"),
    "grafana/templates/runbook.json.j2": (
        "item",
        "query('ansible.builtin.fileglob', playbook_dir ~ '/../docs/runbooks/[A-Z]*.md')",
    ),
    "lab/templates/host0.network.j2": ("__lab_host", "lab_hosts"),
    "minio/templates/policy.json.j2": ("__minio_grant", "minio_users"),
    "pgbackrest/templates/backup.service.j2": ("__pgbackrest_type", "__pgbackrest_types"),
    "pgbackrest/templates/backup.timer.j2": ("__pgbackrest_type", "__pgbackrest_types"),
    "postgres_exporter/templates/env.j2": ("__postgres_exporter_database", "postgres_exporter_databases | dict2items"),
    "postgresql/templates/etl.conf.j2": ("__postgresql_cluster", "postgresql_clusters | dict2items"),
    "postgresql/templates/pg_hba.conf.j2": ("__postgresql_cluster", "postgresql_clusters | dict2items"),
    "postgresql/templates/settings.conf.j2": ("__postgresql_cluster", "postgresql_clusters | dict2items"),
    "spark/templates/spark.service.j2": ("__spark_daemon", "__spark_daemons | dict2items"),
}

# What tasks register or hand over before they render.
REGISTERED = {
    "__rollback_notifier_artifact": {"stat": {"lnk_target": "/opt/etl/artifacts/airflow/0f"}},
    "postgresql_settings": {"archive_mode": "on", "archive_command": "push --stanza={cluster} %p"},
    "__elasticsearch_exporter_root": {"status": 405},
    "__elasticsearch_exporter_nodes": {
        "json": {"cluster_name": "c", "nodes": {"id": {"name": "n", "version": "8.0.0", "build_hash": "0f"}}}
    },
    "prometheus_server": {"unit": "prometheus", "dir": "/etc/prometheus"},
    "pgbackrest_cluster": "dwh",
    "pgbackrest_to": "2026-01-01T00:00:00Z",
    "pgbackrest_republish": True,
    "pgbackrest_leave_out": ["bad"],
    "__pgbackrest_unfinished": {},
    "__pgbackrest_plan": {
        "plan": {
            "backup": {"label": "F1", "type": "full", "stop": "2025-12-31 01:30:00+00:00", "size": 2**30},
            "wal": {"start": "000000010000000000000002"},
            "moment": "2026-01-01 00:00:00+00:00",
            "timeline": 1,
        },
        "minutes": 5.5,
        "lost": [{"run_id": "r1", "release": "1", "rows": 12345, "published_at": "2026-01-01 00:01:00"}],
    },
    "__pgbackrest_restore": {"done": {"restored": {"restore_seconds": 1.5, "replay_seconds": 2.5, "timeline": 2}}},
    "__pgbackrest_republished": {"publish": [{"run_id": "r1"}], "leave_out": [{"run_id": "bad"}]},
    "__sources_export": {
        "directory": "/nowhere",
        "files": {"flights.csv.gz": {"sha256": "0f", "rows": 1}, "planes.csv": {"sha256": "1f", "rows": 1}},
    },
    "__sources_orders": {"files": {"orders.csv.gz": {"sha256": "0f", "rows": 1}}},
}


def load(path: Path):
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


@cache
def inventory(directory: Path) -> Environment:
    """The lab's inventory as a fresh clone has it, with no vault yet, and a host's key as the lab makes it."""
    source = ROOT / "inventories/local"
    for path in source.rglob("*.yml"):
        if path.name != "vault.yml":
            copy = directory / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    key = directory / "lab/hosts/sources1/etc/ssh/ssh_host_ed25519_key.pub"
    key.parent.mkdir(parents=True)
    key.write_text("ssh-ed25519 AAAA sources1\n")
    environment = Environment(directory / "hosts.yml")
    HostVars(environment._manager, environment._variables, environment._loader)
    return environment


@cache
def secrets() -> dict[str, str]:
    """A made-up value for every secret that a role declares."""
    names = {}
    for path in ROOT.glob("roles/*/meta/exports.yml"):
        for name, secret in (load(path).get("secrets") or {}).items():
            names |= {name: f"made-up-{name}"}
            if secret["kind"] == "ssh_key":
                names |= {f"{name}_public": "ssh-ed25519 AAAA made-up"}
    lab = load(ROOT / "roles/cloud_lab/vars/main.yml")["__cloud_lab_secrets"]  # of no environment of the platform
    return names | {name: f"made-up-{name}" for name in lab}


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inventory")


def renderings(template: str, directory: Path) -> list[str]:
    """The texts that a role's template makes for the first host of its group: one, or one for each turn of its loop."""
    role = template.split("/")[0]
    environment = inventory(directory)
    loader = environment._loader
    # Groups are named after roles; a role without a group of its own, or whose group is empty, may run on every host.
    hosts = environment._manager.get_hosts(role) if role in environment.groups else []
    host = (hosts or environment._manager.get_hosts("all"))[0]
    variables = {}
    for part in ("defaults", "vars"):
        path = ROOT / f"roles/{role}/{part}/main.yml"
        variables |= (loader.load_from_file(str(path), trusted_as_template=True) or {}) if path.exists() else {}
    # Precedence is simpler than Ansible's: the inventory sets no role's internal names.
    variables |= environment._variables.get_vars(host=host)
    variables |= {"lab_dir": str(directory / "lab")}
    variables |= {"playbook_dir": str(ROOT / "playbooks"), "playbook_name": "site"}
    variables |= {"role_path": str(ROOT / "roles" / role), "role_name": role, "ansible_facts": FACTS}
    variables |= {f"ansible_{name}": value for name, value in FACTS.items()}
    variables |= secrets() | REGISTERED | {"__template": str(ROOT / "roles" / template)}

    def evaluate(expression: str, extra: dict):
        source = trust_as_template("{{ " + expression + " }}")
        return Templar(loader=loader, variables=variables | extra).template(source)

    try:
        name, loop = LOOPS.get(template, ("__unused", "[none]"))
        return [evaluate("lookup('ansible.builtin.template', __template)", {name: item}) for item in evaluate(loop, {})]
    except AnsibleError as error:
        pytest.fail(f"{template}: {error}", pytrace=False)


def parse_sections(text: str) -> None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(text)
    assert parser.sections()


def parse_properties(text: str) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    keys = [line.replace("=", " ").split()[0] for line in lines]
    doubled = {key for key in keys if keys.count(key) > 1}
    assert not doubled, f"set twice: {doubled}"


PARSERS = {
    ".json": json.loads,
    ".xml": ElementTree.fromstring,
    ".yml": yaml.safe_load,
    ".yaml": yaml.safe_load,
    ".properties": parse_properties,
    ".service": parse_sections,
    ".target": parse_sections,
    ".timer": parse_sections,
    ".slice": parse_sections,
    ".network": parse_sections,
    ".ini": parse_sections,
    "airflow.cfg": parse_sections,
    "spark-defaults.conf": parse_properties,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_renders_and_parses(template, directory):
    name = Path(template).stem
    texts = renderings(template, directory)
    assert texts, "its loop is empty"
    for text in texts:
        assert text.strip(), "rendered to nothing"
        assert "{{" not in text and "{%" not in text, "a variable's own template was not rendered"
        if parse := PARSERS.get(name, PARSERS.get(Path(name).suffix)):
            parse(text)


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.endswith(".service.j2")])
def test_units_are_sandboxed_and_carry_no_secret(template, directory):
    for text in renderings(template, directory):
        for setting in ("NoNewPrivileges=", "ProtectSystem=strict", "PrivateTmp=", "ProtectHome=", "User="):
            assert setting in text, f"{setting} is missing"
        leaked = [name for name, value in secrets().items() if value in text]
        assert not leaked, f"secrets in a world-readable unit: {leaked}"


def test_a_host_knows_every_host_and_what_it_calls_itself(directory):
    (text,) = renderings("common/templates/hosts.j2", directory)
    names = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("10.")}
    assert len(names) == 6
    assert names["10.86.13.11"] == ["lake1.etl.internal", "lake1"]
    assert [host for host in names.values() if "srv-0815" in host] == [
        ["sources1.etl.internal", "sources1", "srv-0815"]
    ]


def test_prometheus_finds_its_neighbours_on_the_ports_that_they_are_given(tmp_path):
    ports = tmp_path / "group_vars/all/ports.yml"
    ports.parent.mkdir(parents=True)
    ports.write_text("alertmanager_web_port: 19093\nblackbox_exporter_web_port: 19115\n")
    (text,) = renderings("prometheus/templates/prometheus.yml.j2", tmp_path)
    config = yaml.safe_load(text)
    assert config["alerting"]["alertmanagers"][0]["static_configs"] == [{"targets": ["observe1.etl.internal:19093"]}]
    (probe,) = [job for job in config["scrape_configs"] if job["job_name"] == "probe"]
    assert probe["relabel_configs"][-1]["replacement"] == "observe1.etl.internal:19115"
