"""The hosts' firewalls: clients get through, others do not, and everything that listens is declared or known to be closed."""

import re
import socket

import pytest

from tests.deployed import Deployed

HOSTS = Deployed().hosts
# Nobody declares these, and nobody can turn them off.
CLOSED = {
    8081: "redirect beside the Spark master's page",
    8082: "redirect beside the Spark worker's page",
    18080: "redirect beside the Spark history server's page",
    8793: "log server of Airflow's scheduler",
    8794: "log server of Airflow's triggerer",
    9300: "Elasticsearch between nodes, of which there is one",
}
CASES = [
    ("nifi", "minio", 9000, True),
    ("sources", "minio", 9000, False),
    ("airflow", "postgresql", 5433, True),
    ("nifi", "postgresql", 5433, False),
    ("sources", "elasticsearch", 9200, True),
    ("minio", "nifi", 8443, False),
    ("prometheus", "nifi", 8443, True),
    ("prometheus", "minio", 9100, True),
    ("nifi", "minio", 9100, False),
    ("minio", "artifacts", 8444, True),
    ("airflow", "sources", 3306, True),
    ("minio", "sources", 3306, False),
    ("nifi", "minio", 22, False),
    ("nifi", "spark_master", 8081, False),
    ("nifi", "spark_history", 18080, False),
]


def address(platform, host: str) -> str:
    return platform.environment.value("platform_address", host)


def opened(rules: str) -> set[int]:
    """The ports that some rule of a table opens."""
    found = re.findall(r"tcp dport (\d+)(?:-(\d+))?", rules)
    return {port for first, last in found for port in range(int(first), int(last or first) + 1)}


def listening(sockets: str) -> set[int]:
    """The ports in the output of `ss -Hltn` that are bound to more than the loopback."""
    places = [line.split()[3].rsplit(":", 1) for line in sockets.splitlines()]
    return {int(port) for place, port in places if not place.startswith(("127.", "[::1]", "[::ffff:127."))}


@pytest.mark.parametrize("name", HOSTS)
def test_everything_that_listens_is_declared(platform, name):
    ports = listening(platform.run(name, "ss -Hltn"))
    assert 22 in ports
    undeclared = ports - opened(platform.run(name, "nft list table inet etl_cloud")) - set(CLOSED)
    assert not undeclared, platform.run(name, "ss -Hltnp")


@pytest.mark.parametrize(("client", "server", "port", "passes"), CASES)
def test_clients_get_through_and_others_do_not(platform, client, server, port, passes):
    (client_host,), (server_host,) = platform.environment.hosts(client), platform.environment.hosts(server)
    to = address(platform, server_host)
    assert platform.reaches(server_host, to, port), "nothing listens there"
    assert platform.reaches(client_host, to, port) == passes


def test_what_no_role_declares_is_closed(platform):
    (host,), port = platform.environment.hosts("minio"), 18999
    unit = "systemd-run --quiet --collect --unit etl-listener"
    platform.run(host, f"{unit} python3 -m http.server --directory /srv {port}")
    try:
        wait = f"until ss -Hltn sport = {port} | grep -q .; do sleep 0.2; done"
        platform.run(host, f"timeout 30 sh -c '{wait}'")
        assert platform.reaches(host, address(platform, host), port)
        others = [other for other in HOSTS if other != host]
        assert not [other for other in others if platform.reaches(other, address(platform, host), port)]
        with pytest.raises(TimeoutError):
            socket.create_connection((platform.environment.value("ansible_host", host), port), timeout=3)
    finally:
        platform.run(host, "systemctl stop etl-listener.service")


def test_a_flushed_table_comes_back_and_a_switch_takes_it_away(platform):
    (host,) = platform.environment.hosts("minio")
    play = "playbooks/base.yml", "--tags", "firewall", "--limit", host
    listed = "nft list tables inet"
    platform.run(host, "nft add table inet somebody_else; nft delete table inet etl_cloud")
    try:
        for arguments, there in (((), True), (("-e", "firewall_enabled=false"), False), ((), True)):
            done = platform.playbook(*play, *arguments)
            assert done.returncode == 0, done.failed or done.stderr
            tables = platform.run(host, listed)
            assert ("table inet etl_cloud" in tables) == there
            assert "table inet somebody_else" in tables
        assert not platform.playbook(*play).changed
    finally:
        platform.run(host, "nft delete table inet somebody_else")
