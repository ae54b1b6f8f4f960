"""Roles of what only its maker publishes, installed from stand-in archives of the same layout: through the depot, as an operator does.

A stand-in reads the settings that its role writes and answers what the role asks. It shows that the archive gets from a directory of the
controller onto a host, that the unit starts in its sandbox and may read its files, and that a second run changes nothing. What the
maker's own program makes of the settings it does not show.
"""

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.deployed import ROOT, Deployed

STANDINS = ROOT / "tests/system/standins"
DECLARED = yaml.safe_load((ROOT / "ansible/artifacts/upstream.yml").read_text())["upstream"]
HOSTS = {"grafana": "observe1", "kibana": "observe1", "logstash": "sources1"}
DEPOT = "/var/lib/etl-depot"


def archive(name: str, directory: Path) -> None:
    """The stand-in as its maker would pack it, and the checksum file beside it."""
    declared = DECLARED[name]
    path = directory / declared["file"]
    with tarfile.open(path, "w:gz") as packed:
        packed.add(STANDINS / name, f"{name}-{declared['version']}/bin/{name}")
    algorithm = declared["checksum"].rsplit(".", 1)[1]
    (directory / declared["checksum"]).write_text(
        f"{hashlib.new(algorithm, path.read_bytes()).hexdigest()}  {path.name}\n"
    )


@pytest.fixture(scope="module")
def upstream(platform, tmp_path_factory):
    """The platform with the three groups, in a copy of its inventory; afterwards all of it is gone from hosts and depot."""
    directory = tmp_path_factory.mktemp("upstream")
    for name in HOSTS:
        archive(name, directory)
    source = platform.environment.inventory.parent
    copy = Path(shutil.copytree(source, directory / source.name, symlinks=False))
    inventory = yaml.safe_load((copy / "hosts.yml").read_text())
    children = inventory["all"]["children"]
    children |= {name: {"hosts": {host: None}} for name, host in HOSTS.items()}
    del children["log_shipper"]["hosts"][HOSTS["logstash"]]
    (copy / "hosts.yml").write_text(yaml.safe_dump(inventory))
    depot = platform.environment.hosts("artifacts")[0]
    platform.run(depot, f"cp -a {DEPOT}/index.json {DEPOT}/SHA256SUMS /root/")
    deployed = Deployed(copy / "hosts.yml")
    # A host has one shipper.
    platform.run(HOSTS["logstash"], "systemctl stop syslog.socket rsyslog.service")  # the socket would start it again
    try:
        for playbook, *arguments in (
            ("playbooks/secrets.yml",),
            ("playbooks/artifacts.yml", "-e", f"artifacts_upstream_dir={directory}"),
        ):
            play = deployed.playbook(playbook, *arguments)
            assert play.returncode == 0, play.failed or play.stderr
        yield deployed
    finally:
        measure = "etl-logstash-metrics"
        platform.run(
            HOSTS["logstash"],
            f"if systemctl cat {measure}.timer >/dev/null 2>&1; then systemctl disable --now {measure}.timer; fi;"
            f" rm -f /etc/systemd/system/{measure}.* /usr/local/lib/{measure}; systemctl start rsyslog.service",
        )
        archives = " ".join(f"{DEPOT}/{name}-{DECLARED[name]['version']}-*" for name in HOSTS)
        platform.run(depot, f"mv /root/index.json /root/SHA256SUMS {DEPOT}/; rm -f {archives}")
        for name, host in HOSTS.items():
            places = f"/etc/{name} /var/lib/{name} /opt/etl/{name} /opt/etl/artifacts/{name} /etc/systemd/system/{name}.service"
            platform.run(
                host,
                f"if systemctl cat {name}.service >/dev/null 2>&1; then systemctl disable --now {name}.service; fi;"
                f" rm -rf {places}; systemctl daemon-reload; systemctl reset-failed; if id {name} >/dev/null 2>&1; then userdel {name}; fi",
            )


@pytest.mark.slow
def test_they_are_installed_from_their_makers_archives(upstream):
    tags = ("--tags", ",".join(HOSTS))
    first = upstream.playbook("playbooks/observe.yml", *tags)
    assert first.returncode == 0, first.failed or first.stderr
    for name, host in HOSTS.items():
        assert upstream.run(host, f"systemctl is-active {name}.service").strip() == "active"
        assert upstream.run(host, f"ps -o user= -p $(systemctl show -P MainPID {name}.service)").strip() == name
    imported = upstream.run(HOSTS["kibana"], "cat /var/lib/kibana/imports").split()
    objects = (ROOT / "roles/kibana/files/saved_objects.ndjson").read_text().splitlines()
    assert imported == [str(len(objects))]

    second = upstream.playbook("playbooks/observe.yml", *tags)
    assert second.returncode == 0, second.failed or second.stderr
    assert not second.changed
    assert upstream.run(HOSTS["kibana"], "cat /var/lib/kibana/imports").split() == imported


@pytest.mark.slow
def test_a_file_that_is_not_its_makers_stops_before_the_depot_is_touched(upstream, tmp_path):
    archive("grafana", tmp_path)
    with (tmp_path / DECLARED["grafana"]["file"]).open("ab") as file:
        file.write(b"more")
    play = upstream.playbook("playbooks/artifacts.yml", "-e", f"artifacts_upstream_dir={tmp_path}")
    assert play.returncode != 0
    assert any("Artifact grafana" in message and "expected" in message for message in play.failed)
