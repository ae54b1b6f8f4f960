"""The hosts as deployed: services, ports, certificates, and no secret where it can be read."""

import os
import socket
import ssl

import pytest
import yaml

from tests.deployed import ROOT, Deployed

HOSTS = Deployed().hosts
HTTPS = [  # what operators reach
    ("minio", "api"),
    ("minio", "console"),
    ("nifi", "https"),
    ("spark", "history"),
    ("airflow", "api"),
]


def role_file(role: str, name: str) -> dict:
    return yaml.safe_load((ROOT / f"roles/{role}/{name}/main.yml").read_text())


def test_every_exported_unit_belongs_to_a_host(platform):
    assert all(platform.units.values()), platform.units


@pytest.mark.parametrize("name", HOSTS)
def test_services_run_and_come_back(platform, name):
    host = platform.host(name)
    for unit in platform.units[name]:
        service = host.service(unit)
        assert service.is_running, host.run(f"journalctl -u {unit} -n 20 --no-pager").stdout
        # Units of systemd itself and template instances are enabled by what wants them.
        assert service.is_enabled or unit.startswith("systemd-") or "@" in unit


@pytest.mark.parametrize("name", HOSTS)
def test_no_unit_failed(platform, name):
    failed = platform.run(name, "systemctl --failed --plain --no-legend")
    assert failed.strip() == ""


def test_hosts_of_a_lab_may_use_every_processor(platform):
    assert {platform.run(name, "nproc").strip() for name in HOSTS} == {str(os.cpu_count())}


@pytest.mark.parametrize("name", HOSTS)
def test_no_secret_on_a_command_line_or_in_a_readable_unit(platform, name):
    secrets = platform.environment.secrets
    processes = platform.run(name, "ps -eo args")
    readable = platform.run(name, "find /etc/systemd/system /etc/default -type f -perm -o=r -exec cat {} +")
    leaked = {key for key, value in secrets.items() if value in processes or value in readable}
    assert not leaked


def test_the_search_for_secrets_finds_one(platform):
    """The check above can fail: a planted process with a made-up secret in its arguments is seen."""
    platform.run(HOSTS[0], "systemd-run --quiet --unit etl-planted --collect sh -c 'sleep 60' - made-up-secret")
    try:
        assert "made-up-secret" in platform.run(HOSTS[0], "ps -eo args | grep -v 'ps -eo'")
    finally:
        platform.run(HOSTS[0], "systemctl stop etl-planted.service")


@pytest.mark.parametrize(("role", "port"), HTTPS)
def test_tls_is_verifiable_by_name(platform, role, port):
    group = {"spark": "spark_history"}.get(role, role)
    host = platform.environment.hosts(group)[0]
    number = role_file(role, "defaults")[f"{role}_{port}_port"]
    name = f"{host}.{platform.environment.value('platform_domain')}"
    context = ssl.create_default_context(cafile=platform.environment.ca_file)
    address = (platform.environment.value("ansible_host", host), number)
    with (
        socket.create_connection(address, timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("cluster", ["dwh", "meta"])
def test_postgresql_refuses_plain_connections(platform, cluster):
    port = role_file("postgresql", "defaults")[f"postgresql_{cluster}_port"]
    (host,) = platform.environment.hosts("postgresql")  # the other hosts' way to `meta` is Airflow's alone
    address = platform.environment.value("platform_address", host)
    answer = platform.host(host).run(f"psql -w 'host={address} port={port} user=etl dbname=etl sslmode=disable'")
    assert answer.rc != 0 and "no encryption" in answer.stderr
