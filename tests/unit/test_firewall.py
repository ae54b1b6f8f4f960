"""The firewall's rules for a small made-up environment: who may what on each of its hosts, held against a golden file, and carried out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from environment import Environment

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/firewall"
INVENTORY = {
    "all": {
        "vars": {
            "platform_operator_networks": ["198.51.100.0/24", "2001:db8:f::/48"],
            "postgresql_reader_networks": ["203.0.113.0/24"],
            "ansible_managed": "Managed",
        },
        "hosts": {
            "lake1": {"platform_address": "192.0.2.11"},
            "ingest1": {"platform_address": "192.0.2.12"},
            "submit1": {"platform_address": "192.0.2.13"},
            "master1": {"platform_address": "192.0.2.14"},
            "worker1": {"platform_address": "192.0.2.15"},
            "worker2": {"platform_address": "2001:db8::15"},
            "warehouse1": {"platform_address": "192.0.2.16"},
            "observe1": {"platform_address": "192.0.2.17"},
            "jump1": {"platform_address": "192.0.2.18"},
        },
        "children": {
            "minio": {"hosts": {"lake1": None}},
            "nifi": {"hosts": {"ingest1": None}},
            "airflow": {"hosts": {"submit1": None}},
            "spark": {
                "children": {
                    "spark_master": {"hosts": {"master1": None}},
                    "spark_worker": {"hosts": {"worker1": None, "worker2": None}},
                    "spark_history": {"hosts": {"worker1": None}},
                }
            },
            "postgresql": {"hosts": {"warehouse1": None}},
            "prometheus": {"hosts": {"observe1": None}},
            "blackbox_exporter": {"hosts": {"observe1": None}},
            "bastion": {"hosts": {"jump1": None}},
        },
    }
}


def load(path: Path) -> dict:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


class Rendered:
    """The rules that the role would write for a host of the made-up environment; `settings` override variables."""

    def __init__(self, directory: Path):
        path = directory / "hosts.yml"
        path.write_text(yaml.safe_dump(INVENTORY))
        self.environment = Environment(path)
        HostVars(self.environment._manager, self.environment._variables, self.environment._loader)

    def __call__(self, host: str, **settings) -> str:
        loader = self.environment._loader
        variables = {}
        for part in ("defaults", "vars"):
            variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
        variables |= self.environment._variables.get_vars(host=self.environment._manager.get_host(host)) | settings
        variables |= {
            "role_path": str(ROLE),
            "role_name": "firewall",
            "__template": str(ROLE / "templates/firewall.nft.j2"),
        }
        source = trust_as_template("{{ lookup('ansible.builtin.template', __template) }}")
        return Templar(loader=loader, variables=variables).template(source)


@pytest.fixture(scope="module")
def render(tmp_path_factory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("firewall"))


def test_rules_of_every_host(render):
    """The whole text for a host with a span, a served port, both families; what changes here changes who may connect."""
    assert render("submit1") == (ROOT / "tests/golden/firewall.nft").read_text()


def allowed(text: str) -> set[tuple[str, str]]:
    """(set of addresses, ports) of every rule that opens a port."""
    words = [line.split() for line in text.splitlines() if " tcp dport " in line]
    return {(line[2].removeprefix("@"), line[5]) for line in words}


SSH = {("operators_v4", "22"), ("operators_v6", "22")}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            "lake1",
            {
                (f"{group}_v4", "9000")
                for group in ["nifi", "spark", "airflow", "postgresql", "prometheus", "blackbox_exporter"]
            }
            | {("spark_v6", "9000"), ("operators_v4", "9000"), ("operators_v6", "9000")}
            | {("operators_v4", "9001"), ("operators_v6", "9001"), ("blackbox_exporter_v4", "9001")},
        ),
        (
            "master1",  # nothing of the workers' and of the history server, which it is not
            {(f"{group}_v4", "7077") for group in ("spark", "airflow", "blackbox_exporter")}
            | {("spark_v6", "7077"), ("operators_v4", "8481"), ("operators_v6", "8481"), ("prometheus_v4", "8481")}
            | {("blackbox_exporter_v4", "8481"), ("spark_v4", "8481"), ("spark_v6", "8481")}
            | {(f"{group}_v4", "7140-7155") for group in ("spark", "airflow", "blackbox_exporter")}
            | {("spark_v6", "7140-7155")},
        ),
        ("jump1", set()),
    ],
)
def test_a_host_opens_what_its_roles_declare_and_nothing_else(render, host, expected):
    assert allowed(render(host)) == SSH | expected


def test_an_operator_adds_networks_and_rules(render):
    text = render(
        "lake1",
        firewall_extra_clients={"minio_api": ["203.0.113.0/24", "2001:db8:a::/64"]},
        firewall_extra_rules=['udp dport 161 accept comment "SNMP"'],
    )
    assert {("minio_api_extra_v4", "9000"), ("minio_api_extra_v6", "9000")} <= allowed(text)
    assert text.index("udp dport 161 accept") < text.index("not declared")


def test_an_overridden_port_is_the_one_that_opens(render):
    ports = {port for _, port in allowed(render("lake1", minio_api_port=19000))}
    assert ports == {"22", "19000", "9001"}


def test_spans_are_what_the_services_may_use():
    spans = {role: load(ROOT / f"roles/{role}/meta/exports.yml")["spans"] for role in ("spark", "nifi")}
    assert set(spans["spark"].values()) == {load(ROOT / "roles/spark/defaults/main.yml")["spark_port_retries"]}
    requests = load(ROOT / "inventories/platform.yml")["platform_nifi_request_ports"]
    assert spans["nifi"]["request"] == requests["last"] - requests["first"]


def unshared(*command: str, given: str) -> str:
    """The output of a command in network and mount namespaces of its own."""
    missing = [program for program in ("nft", "unshare", "ip") if not shutil.which(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    unshare = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody but root make namespaces")
    done = subprocess.run([*unshare, *command], input=given, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packets_of_clients_pass_and_no_others(render):
    ingest, observe, warehouse, operator, stranger = [
        "192.0.2.12",
        "192.0.2.17",
        "192.0.2.16",
        "198.51.100.7",
        "192.0.2.99",
    ]
    undeclared = 8081
    given = {
        "rules": render("lake1"),
        "host": "192.0.2.11",
        "peers": [ingest, observe, warehouse, operator, stranger],
        "ports": [22, 9000, 9001, undeclared],
    }
    found = json.loads(unshared(sys.executable, "-m", "tests.namespaces", given=json.dumps(given)))
    assert found["open"] == {
        ingest: [9000],
        observe: [9000, 9001],  # Prometheus and the prober
        warehouse: [9000],
        operator: [22, 9000, 9001],
        stranger: [],
    }
    assert found["older"], "a connection from before the rules was cut"


@pytest.mark.parametrize("host", INVENTORY["all"]["hosts"])
def test_nft_reads_the_rules(render, host):
    unshared("nft", "--check", "--file", "-", given=render(host))
